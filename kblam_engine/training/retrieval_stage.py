"""Stage: all that retrieval learns: the hidden state's map, the comparison maps and the evidence head (DESIGN 3.2, 3.4)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from random import Random

import numpy as np
import torch
from torch import nn

from kblam_engine.adapter import KnowledgeAdapter
from kblam_engine.bert_encoder import BertEncoder
from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.low_rank import LowRankUpdate
from kblam_engine.products import Floats
from kblam_engine.retrieval import Message, Retriever
from kblam_engine.sentence_encoder import SentenceEncoder
from kblam_engine.training.comparison import SiblingQuestions, train_comparison
from kblam_engine.training.evidence import (
    Examined,
    HiddenQueries,
    Source,
    make_examined,
    templates,
    train_head,
    validate,
)
from kblam_engine.training.hidden_query import QueryMap, fit_query_map, hidden_states
from kblam_engine.training.lexicon import Lexicon
from kblam_engine.training.pools import EncodedWorld
from kblam_engine.training.question_encoder import train_question_encoder
from kblam_engine.training.reading import RememberingEncoder, chat_prompts, examiner_for, token_ids
from kblam_engine.training.run import Run
from kblam_engine.training.samples import draw
from kblam_engine.training.stages import StageResult
from kblam_engine.training.worlds import invented_world
from kblam_engine.training.written import Written

MAX_FOLD_ENTITIES = 350
"""Entities of a fold's invented worlds at most."""
INVENTED_WEIGHT = 14.0
TITLED_WEIGHT = 8.0
"""How many questions come from either kind of invented world, where a world of real triples has weight 1."""
TITLED_SHARE = 0.35
"""Of the conversations whose hidden states are mapped, how many are about things with long names."""
N_QUESTION_ENCODERS = 3
"""One for either half of the folds, and the one that ships."""


@dataclass(frozen=True)
class Fold:
    """A part of the lexicon.

    Attributes:
        others: the rest of the lexicon, on which what judges this part is trained.
        invented: worlds of any kinds of things.
        titled: worlds of things with long names.
        hidden: float32 [n, hidden], hidden states of conversations about the two.
        asked: float32 [n, embed_dim], the mean key embedding of what those ask for.
    """

    others: Lexicon
    invented: tuple[EncodedWorld, ...]
    titled: tuple[EncodedWorld, ...]
    hidden: Floats
    asked: Floats

    def sources(self) -> list[Source]:
        """Return the questions about its worlds, weighted beside a world of real triples with weight 1."""
        kinds = ((self.invented, INVENTED_WEIGHT), (self.titled, TITLED_WEIGHT))
        return [templates(encoded, weight / len(worlds)) for worlds, weight in kinds for encoded in worlds]


@dataclass(frozen=True)
class Half:
    """What examines the questions of one half of the folds, fitted on the other half.

    Attributes:
        asking: encodes questions.
        real: the questions about real triples that it has not seen.
        asked: all questions written by hand, encoded, for the comparison.
    """

    asking: SentenceEncoder
    real: tuple[Source, ...]
    asked: SiblingQuestions | None


class RetrievalStage:
    """Trains what an adapter's retrieval layer needs, from a seed of its own."""

    def __init__(self, run: Run, adapter: KnowledgeAdapter) -> None:
        """Keep the parts; ``train`` fills ``adapter``."""
        self._run, self._config, self._adapter = run, run.config, adapter
        self._texts = RememberingEncoder(run.encoder)
        self._examiner = examiner_for(run.loaded)

    @property
    def module(self) -> nn.Module:
        """What the stage trains."""
        parts: dict[str, nn.Module] = {"evidence": self._adapter.evidence}
        if self._layer is not None:
            parts["hidden_query"] = self._adapter.hidden_query
        if self._adapter.questions is not None:
            parts["questions"] = self._adapter.questions
        return nn.ModuleDict(parts)

    @property
    def _layer(self) -> int | None:
        return self._adapter.config.retrieval_layer

    def train(self, written: Written) -> StageResult:
        """Train everything and return the head's numbers on a tenth of the questions that it was not fitted on.

        The head must see the scores of the maps as they are for properties that the maps never saw: the lexicon and the
        written sets are folded, and each fold's questions are examined with maps fitted on the other folds. A question
        encoder takes longer to train than the maps: there are two, each for the half of the folds that the other saw.

        Args:
            written: questions written by hand.
        """
        begun = time.perf_counter()
        config, adapter, lexicon = self._config, self._adapter, self._run.lexicon
        random = Random(f"{config.seed} evidence")
        torch.manual_seed(config.seed)
        real = [templates(EncodedWorld(world, self._texts)) for world in self._run.real_worlds(random)]
        folds = [self._fold(random, lexicon, number) for number in range(config.n_folds)]
        asked_by_hand = self._written_sources(written)
        frozen = self._siblings(written, self._texts)
        halves = [self._half(half, real, folds, asked_by_hand, written, frozen) for half in range(2)]
        examined: list[Examined] = []
        for number, fold in enumerate(folds):
            hidden_queries = self._hidden_queries([f for f in folds if f is not fold] or folds)
            for view in halves[number % 2]:
                total = config.n_questions * len(halves[number % 2])

                def progress(done: int, before: int = len(examined), total: int = total) -> None:
                    self._run.report("evidence", before + done, total, {})

                examined += self._examined(random, number, fold, view, asked_by_hand[number], hidden_queries, progress)
        random.shuffle(examined)
        # What ships has learned from both halves.
        every = [*real, *(source for fold in folds for source in fold.sources()), *chain(*asked_by_hand)]
        asking = self._asking(adapter.questions, every, 2)
        asked = self._siblings(written, asking)
        train_comparison(adapter.evidence, lexicon, self._texts, asked, asking=asking, seed=config.seed)
        if self._layer is not None:
            query_map = _query_map(folds)
            with torch.no_grad():
                adapter.hidden_query.weight.copy_(torch.from_numpy(query_map.weight))
                adapter.hidden_query.bias.copy_(torch.from_numpy(query_map.bias))
        held = max(1, len(examined) // 10)
        train_head(adapter.evidence, examined[held:], members=config.n_members, seed=config.seed)
        return StageResult(validate(adapter.evidence, examined[:held]), time.perf_counter() - begun)

    def _examined(
        self,
        random: Random,
        number: int,
        fold: Fold,
        half: Half,
        by_hand: Sequence[Source],
        hidden_queries: HiddenQueries | None,
        progress: Callable[[int], None],
    ) -> list[Examined]:
        """Examine questions of a fold with what has not learned from it."""
        config = self._config
        head = EvidenceHead(self._adapter.config.evidence_hidden, self._run.encoder.embed_dim)
        others_asked = half.asked and half.asked.outside(number, config.n_folds)
        train_comparison(head, fold.others, self._texts, others_asked, asking=half.asking, seed=config.seed)
        sources = [*half.real, *fold.sources(), *by_hand]
        share = config.n_questions // config.n_folds
        retriever = Retriever(half.asking, self._examiner, head)
        return make_examined(random, retriever, sources, share, config.pool_sizes, progress, hidden_queries)

    def _written_sources(self, written: Written) -> list[list[Source]]:
        """Return for each fold the questions written by hand that belong to it: one source or none."""
        config = self._config
        if config.written_weight <= 0 or not written.samples:
            return [[] for _ in range(config.n_folds)]
        encoded = EncodedWorld(written.world, self._texts)
        parts = [written.fold(number, config.n_folds) for number in range(config.n_folds)]
        return [[Source(encoded, p.draw, config.written_weight)] if p.samples else [] for p in parts]

    def _half(
        self,
        half: int,
        real: Sequence[Source],
        folds: Sequence[Fold],
        by_hand: Sequence[Sequence[Source]],
        written: Written,
        frozen: SiblingQuestions | None,
    ) -> list[Half]:
        """Return what examines every second fold, from ``half`` on: with a question encoder, and with the frozen one.

        What ships is a third encoder. A head that has seen the questions of two kinds of encoders leans on what they agree in.

        Args:
            half: 0 or 1.
            real: the questions about real triples.
            folds: all of them.
            by_hand: for each fold the questions written by hand.
            written: all of those.
            frozen: the same, encoded by the frozen encoder.
        """
        if self._adapter.questions is None or len(folds) < 2:
            return [Half(self._texts, tuple(real), frozen)]
        others = range(1 - half, len(folds), 2)
        sources = [*real[1 - half :: 2], *(s for n in others for s in (*folds[n].sources(), *by_hand[n]))]
        asking = self._asking(LowRankUpdate(self._adapter.questions.config), sources, half)
        own = tuple(replace(source, weight=2 * source.weight) for source in real[half::2])
        return [Half(asking, own, self._siblings(written, asking)), Half(self._texts, own, frozen)]

    def _asking(self, update: LowRankUpdate | None, sources: Sequence[Source], number: int) -> SentenceEncoder:
        """Train an update on questions and return what encodes others with it; the frozen encoder without one."""
        if update is None:
            return self._texts
        assert isinstance(self._run.encoder, BertEncoder)
        steps = self._config.question_steps

        def progress(done: int, loss: float) -> None:
            self._run.report("question encoder", number * steps + done, N_QUESTION_ENCODERS * steps, {"loss": loss})

        train_question_encoder(
            self._run.encoder, update, sources, self._examiner.mask_name, steps=steps, seed=self._config.seed, progress=progress
        )
        return RememberingEncoder(self._run.encoder.updated(update))

    def _siblings(self, written: Written, asking: SentenceEncoder) -> SiblingQuestions | None:
        if self._config.written_weight <= 0 or not written.samples:
            return None
        return SiblingQuestions.of(written, self._texts, self._examiner.mask_name, asking)

    def _fold(self, random: Random, lexicon: Lexicon, number: int) -> Fold:
        config = self._config
        own, others = lexicon.fold(number, config.n_folds)
        n = min(MAX_FOLD_ENTITIES, config.n_entities)
        invented, titled = (
            tuple(
                EncodedWorld(invented_world(random, own, [], n, titles=titles), self._texts)
                for _ in range(config.n_fold_worlds)
            )
            for titles in (False, True)
        )
        hidden, asked = np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32)
        if self._layer is not None:
            drawn = []
            targets = []
            for _ in range(config.n_queries // config.n_folds):
                encoded = random.choice(titled if random.random() < TITLED_SHARE else invented)
                sample = draw(random, encoded.world, unanswerable_share=0.0)
                drawn.append(sample.messages)
                targets.append(encoded.keys[list(sample.supports)].mean(0))
            hidden, asked = self._hidden_states(drawn, number), np.stack(targets)
        return Fold(others, invented, titled, hidden, asked)

    def _hidden_queries(self, folds: Sequence[Fold]) -> HiddenQueries | None:
        if self._layer is None:
            return None
        query_map = _query_map(folds)
        return lambda conversations: query_map(self._hidden_states(conversations))

    def _hidden_states(self, conversations: Sequence[Sequence[Message]], fold: int | None = None) -> Floats:
        assert self._layer is not None
        chat_prompt, ids_of = chat_prompts(self._run.loaded), token_ids(self._run.loaded)
        prompts = [ids_of(chat_prompt(messages)) for messages in conversations]

        def progress(done: int) -> None:
            if fold is not None:
                before = fold * len(prompts)
                self._run.report("hidden states", before + done, len(prompts) * self._config.n_folds, {})

        return hidden_states(self._run.injection, prompts, self._layer, progress)


def _query_map(folds: Sequence[Fold]) -> QueryMap:
    return fit_query_map(np.concatenate([f.hidden for f in folds]), np.concatenate([f.asked for f in folds]))
