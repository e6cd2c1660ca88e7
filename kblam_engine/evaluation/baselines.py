"""What people do without a KB in the attention: the same base model with statements in its prompt, or none.

A baseline chooses triples for a question and puts their statements in front of the last user message. It
never sees the answers, and all but "oracle" never see the supports.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kblam_engine.errors import ConfigurationError, MissingDependencyError
from kblam_engine.evaluation.interface import EvaluatedModel, Message
from kblam_engine.evaluation.metrics import key_of
from kblam_engine.evaluation.questions import Question
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    import numpy as np

BASELINES = ("zero-shot", "in-context", "bm25", "dense", "oracle")
SIZED = tuple(f"{name}-{k}" for name in ("bm25", "dense") for k in (1, 5, 10))
"""Baselines with their own number of triples in the prompt, whatever the others have; "all" does not hold them."""
ABLATIONS = {
    "encoder-gates": "native tokens of the triple whose key is nearest to the question: no evidence, no refusal",
    "oracle-gates": "native tokens of the supports, the null triple's without any: perfect retrieval and refusal",
    "native-tokens": "no sentence tokens, where the adapter has them",
    "native-tokens-all": "native tokens of every triple, all gates alike: no retrieval layer, no refusal",
    "sentence-tokens": "no native tokens but those of a refusal; triples as the retrieval layer opens them",
    "sentence-tokens-all": "sentence tokens of every triple, as in KBLaM: no retrieval layer, no native tokens",
}
"""The system itself with a part taken out or made perfect (see `ablations`), by name."""
WITHOUT_RETRIEVAL = ("native-tokens-all", "sentence-tokens-all")
"""Those of them that open every triple: what they attended to most comes first, and a refusal is what reads like one."""
INSTRUCTION = "Answer the question using these facts."
REFUSAL_INSTRUCTION = "If the facts do not contain the answer, say that you cannot find it."
_MARGIN = 16  # tokens kept free: joining texts can cost a few more than their parts
_PAGE = 4096  # statements whose tokens are counted at once

Select = Callable[[Question], list[int]]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The triples a baseline may choose from, with their key embeddings."""

    triples: Sequence[Triple]
    key_embeddings: np.ndarray
    """Unit rows, float16 or float32 `[n_triples, embed_dim]`."""
    encoder: Any
    """The sentence encoder that made them."""


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """How a baseline's prompt is built."""

    top_k: int = 5
    """Statements a retriever puts in the prompt."""
    refusal_instruction: bool = False
    """Whether the prompt says what to do when the facts do not contain the answer.

    Off, because a baseline should be at its best. SmolLM2-135M with dense top-5, 30 answerable and 10
    unanswerable questions of each validation set: exact .63 and .33 without it, .43 and .40 with it, and no
    refusal of an unanswerable question either way. Other wordings and orders averaged lower still.
    """
    context_tokens: int | None = None
    """Room of the in-context baseline; None: all the base model has."""
    max_new_tokens: int = 128
    """Room the answer needs."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("top_k", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}: expected at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Baseline:
    """A way to choose triples for a question."""

    name: str
    select: Select
    """Positions of the chosen triples in the corpus, best first if `ranked`."""
    ranked: bool
    """Whether the order means something, so that retrieval can be scored."""
    info: dict[str, Any] = field(default_factory=dict)


def check_baselines(names: Iterable[str]) -> None:
    """Check that there are such baselines and what they need; nothing is built or imported.

    Raises:
        ConfigurationError: no baseline has that name.
        MissingDependencyError: one of "bm25" without the package bm25s.
    """
    for name in names:
        if name not in (*BASELINES, *SIZED, *ABLATIONS):
            raise _unknown(name)
        if name.startswith("bm25") and importlib.util.find_spec("bm25s") is None:
            raise _no_bm25()


def build_baseline(
    name: str, model: EvaluatedModel, corpus: Corpus, questions: Sequence[Question], options: PromptOptions
) -> Baseline:
    """Build a baseline by name.

    Raises:
        ConfigurationError: no baseline has that name.
        MissingDependencyError: "bm25" without the package bm25s.
    """
    if name in SIZED:
        base, _, k = name.rpartition("-")
        return replace(build_baseline(base, model, corpus, questions, replace(options, top_k=int(k))), name=name)
    if name == "zero-shot":
        return Baseline(name, lambda question: [], ranked=False)
    if name == "in-context":
        return _in_context(model, corpus, questions, options)
    if name == "bm25":
        return Baseline(name, _bm25(corpus, options.top_k), ranked=True, info={"top_k": options.top_k})
    if name == "dense":
        return Baseline(name, _dense(corpus, options.top_k), ranked=True, info={"top_k": options.top_k})
    if name == "oracle":
        return Baseline(name, _oracle(corpus, options.top_k), ranked=True, info={"top_k": options.top_k})
    raise _unknown(name)


def _unknown(name: str) -> ConfigurationError:
    return ConfigurationError(f"baseline: expected one of {', '.join((*BASELINES, *SIZED, *ABLATIONS))}, got {name!r}")


def prompt_with_statements(
    messages: Sequence[Message], statements: Sequence[str], *, refusal_instruction: bool = False
) -> list[Message]:
    """Put statements and the instruction to use them in front of the last user message; earlier turns stay.

    Without statements the conversation is returned as it is.
    """
    rewritten = [dict(message) for message in messages]
    if not statements:
        return rewritten
    last = max(i for i, message in enumerate(rewritten) if message["role"] == "user")
    instruction = f"{INSTRUCTION} {REFUSAL_INSTRUCTION}" if refusal_instruction else INSTRUCTION
    listed = "\n".join(statements)
    rewritten[last]["content"] = f"{instruction}\n{listed}\n\nQuestion: {rewritten[last]['content']}"
    return rewritten


def require_bm25() -> Any:
    """Return the module bm25s; raises MissingDependencyError with the pip command where it is missing."""
    try:
        import bm25s
    except ImportError as error:
        raise _no_bm25() from error
    return bm25s


def _no_bm25() -> MissingDependencyError:
    return MissingDependencyError('the bm25 baseline needs the package bm25s: pip install "kblam-engine[eval]"')


def _bm25(corpus: Corpus, top_k: int) -> Select:
    bm25s = require_bm25()

    def tokens(texts: list[str]) -> list[list[str]]:
        # One-character words are kept: they tell "Unit 4" from "Unit 5".
        found: list[list[str]] = bm25s.tokenize(
            texts, token_pattern=r"(?u)\b\w+\b", stopwords="en", return_ids=False, show_progress=False
        )
        return found

    index = bm25s.BM25()
    index.index(tokens([triple.statement for triple in corpus.triples]), show_progress=False)
    k = min(top_k, len(corpus.triples))

    def select(question: Question) -> list[int]:
        known = [token for token in tokens([question.text])[0] if token in index.vocab_dict]
        if not known:
            return []
        found, scores = index.retrieve([known], k=k, show_progress=False, n_threads=0)
        return [int(i) for i, score in zip(found[0], scores[0], strict=True) if score > 0]

    return select


def _dense(corpus: Corpus, top_k: int) -> Select:
    import numpy as np

    from kblam_engine.products import product

    keys = np.asarray(corpus.key_embeddings, dtype=np.float32)

    def select(question: Question) -> list[int]:
        query = np.asarray(corpus.encoder.encode([question.text]), dtype=np.float32)[0]
        scores = product(keys, query)
        k = min(top_k, len(scores))
        best = np.argpartition(-scores, k - 1)[:k]
        return [int(i) for i in best[np.argsort(-scores[best], kind="stable")]]

    return select


def _oracle(corpus: Corpus, top_k: int) -> Select:
    """Choose the supports; for a question without any, what dense retrieval finds, as no triple is right."""
    places: dict[tuple[str, str], list[int]] = {}
    for i, triple in enumerate(corpus.triples):
        places.setdefault(key_of(triple.name, triple.property), []).append(i)
    dense = _dense(corpus, top_k)

    def select(question: Question) -> list[int]:
        found = [i for pair in question.supports for i in places.get(key_of(*pair), [])]
        return found or dense(question)

    return select


def _in_context(
    model: EvaluatedModel, corpus: Corpus, questions: Sequence[Question], options: PromptOptions
) -> Baseline:
    """Choose as many triples as fit beside the longest question: the same for all questions.

    Triples come in a seeded order, and one that is too long for the room left is passed over. After a page of which
    none fitted the rest is not looked at: of a million triples that would be a minute's work for one more.
    """
    order = list(range(len(corpus.triples)))
    random.Random(options.seed).shuffle(order)
    context = context_size(model)
    room = min(context, options.context_tokens) if options.context_tokens else context
    left = (
        room - options.max_new_tokens - _MARGIN - max((_empty_prompt(model, q) for q in questions), default=0)
    )
    chosen: list[int] = []
    for start in range(0, len(order), _PAGE):
        tried, before = order[start : start + _PAGE], len(chosen)
        sizes = _n_tokens(model, [corpus.triples[i].statement + "\n" for i in tried])
        for i, size in zip(tried, sizes, strict=True):
            if size <= left:
                left -= size
                chosen.append(i)
        if len(chosen) == before:
            break
    info = {"n_fit": len(chosen), "n_triples": len(order), "context_tokens": room}
    return Baseline("in-context", lambda question: chosen, ranked=False, info=info)


def context_size(model: EvaluatedModel) -> int:
    """Return how many tokens the base model can read."""
    config = model.lm.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(getattr(text, "max_position_embeddings", 2048))


def _empty_prompt(model: EvaluatedModel, question: Question) -> int:
    messages = prompt_with_statements(question.messages, [" "], refusal_instruction=True)
    return _n_tokens(model, [model.chat_prompt(messages)])[0]


def _n_tokens(model: EvaluatedModel, texts: list[str]) -> list[int]:
    if not texts:
        return []
    return [len(ids) for ids in model.tokenizer(texts, add_special_tokens=False)["input_ids"]]
