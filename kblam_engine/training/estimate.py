"""What a run would take, before it is run: parameters, disk, memory and time, measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from random import Random
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from kblam_engine.adapter import KnowledgeAdapter
from kblam_engine.bert_encoder import BertEncoder
from kblam_engine.evaluation.environment import peak_rss_mb
from kblam_engine.evidence import FEATURES
from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.injection import Injection, attach
from kblam_engine.models import LoadedModel, load_base_model
from kblam_engine.products import Floats
from kblam_engine.retrieval import Retriever
from kblam_engine.sentence_encoder import SentenceEncoder, load_sentence_encoder
from kblam_engine.training.comparison import EPOCHS, train_comparison
from kblam_engine.training.config import TrainConfig
from kblam_engine.training.distributed import Processes, start
from kblam_engine.training.evidence import Examined, make_examined, templates
from kblam_engine.training.hidden_query import hidden_states
from kblam_engine.training.lexicon import Lexicon, load_lexicon
from kblam_engine.training.mining import Miner
from kblam_engine.training.native import Mining, NativeExample, examples, mined_batch
from kblam_engine.training.native_stage import N_HELD_ENTITIES, answer_world, native_trainer
from kblam_engine.training.pools import EncodedWorld
from kblam_engine.training.question_encoder import train_question_encoder
from kblam_engine.training.reading import chat_prompts, examiner_for, token_ids
from kblam_engine.training.recipe import adapter_config
from kblam_engine.training.retrieval_stage import MAX_FOLD_ENTITIES, N_QUESTION_ENCODERS
from kblam_engine.training.sentence_estimate import Noise, sentence_seconds
from kblam_engine.training.sentence_stage import new_sentence_tokens
from kblam_engine.training.worlds import invented_world
from kblam_engine.training.written import load_written

N_STEPS = 2
"""Optimiser steps that are timed, after a longer one that shows the memory."""
N_QUESTIONS = 24
N_PROMPTS = 8
N_TEXTS = 512
"""Enough that batches of them are as even in length as those of the whole lexicon."""
_MB = 2**20


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        parameters: of the adapter, by part.
        adapter_bytes: of its tensors on disk.
        memory_mb: peak resident memory of a process, MiB; None where the system does not tell.
        device_memory_mb: peak memory of a process on its accelerator, MiB; None on a CPU.
        seconds: by part of the run; reading the sources of real triples is not among them.
    """

    parameters: dict[str, int]
    adapter_bytes: int
    memory_mb: float | None
    device_memory_mb: float | None
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON objects, with the sums."""
        sums = {
            "total_parameters": sum(self.parameters.values()),
            "total_seconds": round(sum(self.seconds.values()), 1),
        }
        return {**asdict(self), **sums}


def estimate(config: TrainConfig) -> Estimate:
    """Take a few real steps of every stage, on invented triples, and return what the whole run would take.

    Processes that a launcher started take them together, as they would in the run.

    Args:
        config: the run. Nothing is trained for it, and nothing is written.

    Raises:
        ModelNotFoundError: there is no such base model or encoder.
        SeamError: the base model's attention cannot be extended.
    """
    processes = start()
    loaded = load_base_model(config.model, dtype=config.dtype, device=processes.device)
    encoder = load_sentence_encoder(config.encoder)
    injection = attach(loaded.model)
    try:
        injection.self_test()
        lexicon = load_lexicon().without(config.exclude_properties)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            adapter = KnowledgeAdapter(adapter_config(config, loaded, encoder))
            retrieval, kept_mb = processes.from_main(
                lambda: _retrieval(config, loaded, encoder, adapter, injection, lexicon)
            )
            native = _native(config, loaded, encoder, adapter, injection, lexicon, processes)
            sentence: dict[str, float] = {}
            if config.sentence_steps:
                part = new_sentence_tokens(config, injection, encoder.embed_dim)
                adapter.add_sentence_tokens(part)
                sentence = sentence_seconds(config, loaded, encoder, part, injection, lexicon, processes)
    finally:
        injection.detach()
    # The best native tokens so far are kept beside the newest, and once more on their way into a checkpoint.
    trained = [*adapter.native.parameters(), *(adapter.sentence.parameters() if adapter.sentence else ())]
    copies = 2 * sum(p.numel() for p in trained) * 4 / _MB
    peak = peak_rss_mb()
    on_device = loaded.device.type == "cuda"
    return Estimate(
        parameters_by_part(adapter),
        adapter_bytes(adapter),
        None if peak is None else round(peak + kept_mb + copies, 1),
        round(torch.cuda.max_memory_allocated() / _MB, 1) if on_device else None,
        {part: round(seconds, 1) for part, seconds in {**retrieval, **native, **sentence}.items()},
    )


def parameters_by_part(adapter: KnowledgeAdapter) -> dict[str, int]:
    """Return how many numbers each part of an adapter holds."""
    head = {n: p for n, p in adapter.evidence.named_parameters()}
    parts: dict[str, list[nn.Parameter]] = {
        "native tokens": [p for p in adapter.native.parameters() if p.requires_grad],
        "native tokens, not trained": [p for p in adapter.native.parameters() if not p.requires_grad],
        "comparison": [p for n, p in head.items() if n.endswith("_map")],
        "evidence head": [p for n, p in head.items() if not n.endswith("_map")],
    }
    if adapter.config.retrieval_layer is not None:
        parts["hidden state"] = list(adapter.hidden_query.parameters())
    if adapter.questions is not None:
        parts["question encoder"] = list(adapter.questions.parameters())
    if adapter.sentence is not None:
        parts["sentence tokens"] = list(adapter.sentence.parameters())
    return {name: sum(p.numel() for p in part) for name, part in parts.items()}


def adapter_bytes(adapter: KnowledgeAdapter) -> int:
    """Return the size of ``adapter.safetensors``: as bf16."""
    return len(save({k: v.detach().to(torch.bfloat16) for k, v in adapter.state_dict().items()}))


@contextmanager
def _timed(into: list[float]) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    into.append(time.perf_counter() - begun)


def _retrieval(
    config: TrainConfig,
    loaded: LoadedModel,
    encoder: SentenceEncoder,
    adapter: KnowledgeAdapter,
    injection: Injection,
    lexicon: Lexicon,
) -> tuple[dict[str, float], float]:
    """Return the seconds of the parts of the retrieval stage, and the MiB that its data will take besides."""
    random = Random(config.seed)
    n_entities = min(MAX_FOLD_ENTITIES, config.n_entities)
    world = invented_world(random, lexicon, [], n_entities)
    took: list[float] = []
    with _timed(took):
        encoded = EncodedWorld(world, encoder)
    n_worlds = 2 * config.n_folds * config.n_fold_worlds
    n_read = n_worlds * n_entities + config.n_real_entities
    n_triples = len(world.known) / n_entities * n_read
    if config.written_weight > 0:
        n_triples += len(load_written(config.exclude_names, config.exclude_properties).world.known)
    seconds = {"sentence embeddings": took[0] / len(world.known) * n_triples}

    def states(conversations: Sequence[Sequence[dict[str, str]]]) -> Floats:
        layer = adapter.config.retrieval_layer
        assert layer is not None
        return hidden_states(injection, [ids_of(chat(messages)) for messages in conversations], layer)

    n_examined = config.n_questions * (1 if adapter.questions is None else 2)
    chat, ids_of = chat_prompts(loaded), token_ids(loaded)
    examiner = examiner_for(loaded)
    retriever = Retriever(encoder, examiner, adapter.evidence)

    def examine(n: int) -> list[Examined]:
        return make_examined(random, retriever, [templates(encoded)], n, config.pool_sizes)

    if config.n_queries:
        drawn = [
            [{"role": "user", "content": k.triple.key_text}] for k in random.sample(world.known, N_PROMPTS)
        ]
        states(drawn[:1])
        with _timed(took):
            states(drawn)
        # The questions for the head are asked with hidden states too.
        seconds["hidden states"] = took[-1] / N_PROMPTS * (config.n_queries + n_examined)
    seconds["comparison"] = _comparison(config, encoder, lexicon)
    if adapter.questions is not None:
        assert isinstance(encoder, BertEncoder)
        trained = partial(
            train_question_encoder, encoder, deepcopy(adapter.questions), [templates(encoded)], examiner.mask_name
        )
        trained(steps=1)
        with _timed(took):
            trained(steps=2)
        seconds["question encoder"] = took[-1] / 2 * N_QUESTION_ENCODERS * config.question_steps
    examine(1)
    with _timed(took):
        examined = examine(N_QUESTIONS)
    seconds["evidence"] = took[-1] / N_QUESTIONS * n_examined
    candidates = sum(len(e.labels) for e in examined) / N_QUESTIONS
    kept = 4 * (n_triples * 2 * encoder.embed_dim + n_examined * candidates * len(FEATURES))
    return seconds, kept / _MB


def _comparison(config: TrainConfig, encoder: SentenceEncoder, lexicon: Lexicon) -> float:
    """Return the seconds of all comparisons: the lexicon is read once; the folds' and the last one learn it."""
    n_values = min(len(p.values) for p in lexicon.properties)
    asked = {t for p in lexicon.properties for t in (*p.questions, *p.follow_ups)}
    texts = sorted(asked | {t for p in lexicon.properties for t in (p.property, *p.values[:n_values])})
    sample = Random(config.seed).sample(texts, min(N_TEXTS, len(texts)))
    took: list[float] = []
    head = EvidenceHead(embed_dim=encoder.embed_dim)
    with _timed(took):
        encoder.encode(sample)
    with _timed(took):
        train_comparison(head, lexicon, Noise(encoder.embed_dim), epochs=1)
    return took[0] / len(sample) * len(texts) + (config.n_folds + 1) * EPOCHS * took[1]


def _native(
    config: TrainConfig,
    loaded: LoadedModel,
    encoder: SentenceEncoder,
    adapter: KnowledgeAdapter,
    injection: Injection,
    lexicon: Lexicon,
    processes: Processes,
) -> dict[str, float]:
    """Return the seconds of the parts of the native stage, after a step on the longest of many batches."""
    random = Random(config.seed)
    took: list[float] = []
    with _timed(took):
        world = answer_world(random, config, lexicon, config.n_entities)
    trainer = native_trainer(config, loaded, adapter.native, injection, processes)
    chat: Callable[[Any], str] = chat_prompts(loaded)
    stream = examples(
        random, [world], chat, config.batch * config.accumulate, kinds=config.answer_kinds, style_share=config.style_share
    )
    by_length = sorted((next(stream) for _ in range(40)), key=_length)
    trainer.step(by_length[-1])
    middle = by_length[(len(by_length) - N_STEPS) // 2 :][:N_STEPS]
    with _timed(took):
        for batch in middle:
            trainer.step(batch)
    with torch.no_grad(), _timed(took):
        trainer.loss(middle[0][: config.batch])
    n_validations = -(-config.native_steps // config.validate_every)
    n_batches = -(-max(1, config.n_validation // config.batch) // processes.n)
    mined = _mining(config, loaded, encoder, adapter, lexicon, chat) if config.mined_share else {}
    return {
        "worlds": took[0] * (config.n_worlds + len(config.sources)),
        **mined,
        "native tokens": took[1] / N_STEPS * config.native_steps,
        "validation": took[2] * n_validations * n_batches,
    }


def _mining(
    config: TrainConfig,
    loaded: LoadedModel,
    encoder: SentenceEncoder,
    adapter: KnowledgeAdapter,
    lexicon: Lexicon,
    chat: Callable[[Any], str],
) -> dict[str, float]:
    """Return the seconds that hard negatives take: embeddings of their worlds, and retrieval."""
    random = Random(config.seed)
    took: list[float] = []
    n_entities = min(N_HELD_ENTITIES, config.n_large_entities)
    with _timed(took):
        encoded = EncodedWorld(answer_world(random, config, lexicon, n_entities), encoder)
    miner = Miner(Retriever(encoder, examiner_for(loaded), adapter.evidence), 0.5, adapter.config.n_select)
    mining = Mining(miner, [encoded], 1.0, config.kb_sizes)
    mined_batch(random, mining, chat, 1)
    with _timed(took):
        mined_batch(random, mining, chat, config.batch)
    n_read = config.n_large_entities + config.n_real_entities + N_HELD_ENTITIES
    n_batches = config.mined_share * config.native_steps * config.accumulate
    return {
        "hard negatives, embeddings": took[0] / n_entities * n_read,
        "hard negatives": took[1] * n_batches,
    }


def _length(batch: list[NativeExample]) -> int:
    """Return how long the longest rows of a batch are, in characters."""
    return max(len(e.prompt) for e in batch) + max(len(e.answer) for e in batch)
