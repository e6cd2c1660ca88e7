"""What a training run is: everything that decides its result, validated and stored with it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from kblam_engine.datasets import DATASETS
from kblam_engine.errors import ConfigurationError

HELD_OUT_PROPERTIES = frozenset(
    """abundance in sea water; abundance in the earth's crust; atomic weight; boiling point; cas number; common oxidation
    states; critical pressure; critical temperature; crystal structure; density; discoverer; electron affinity;
    electronegativity; first ionization energy; heat of fusion; heat of vaporization; largest reserve holders; melting
    point; most abundant isotope; natural sources; origin of the name; place of discovery; price; recycling rate; relative
    supply risk; share of the top producing country; symbol; thermal conductivity; top producers; uses; van der waals
    radius; year of discovery; affected languages; affected resources; affected technologies; alternate terms; consequence;
    date of submission; description; full title; functional area; likelihood of exploit; observed example; parent weakness;
    peer weakness; phase of introduction; recommended mitigation; broader term; definition; edam identifier; example;
    file extension; identifier pattern; media type; narrower synonyms; narrower terms; synonyms; version of introduction"""
    .replace("\n   ", "").split("; ")
)  # fmt: skip
"""Properties of the evaluation KBs that are made from elements, cwe and edam, and not of their whole sources, which have
some 30 more: training on them would flatter the evaluation. ("kind" of edam is missing: it is a word of every second
catalogue.)"""

SOURCES = ("vital", "factbook", "airports", "bioregistry", "wordnet")
"""Data sets of real triples that training reads unless told otherwise."""
HELD_OUT_SOURCES = ("elements", "cwe", "edam")
"""Data sets that are kept for evaluation; any other one of `kblam_engine.datasets` may be trained on."""

ANSWER_KINDS: tuple[tuple[str, float], ...] = (
    ("unanswerable", 2),
    ("simple", 4),
    ("follow_up", 2),
    ("multi_entity", 4),
    ("chain", 2),
    ("open_ended", 6),
)
"""The paper's 2 : 6 : 6 : 6 of 20: follow-ups are a third of the questions for one triple, and chains, where one triple's
value is another's name, a third of those for several."""

_MAY_BE_ZERO = ("seed", "n_queries", "question_steps", "sentence_steps")


@dataclass(frozen=True)
class TrainConfig:
    """One run of the recipe.

    Attributes:
        model: base model, as ``load_base_model`` takes it.
        dtype: of the frozen base model, as ``load_base_model`` takes it; the adapter learns in float32.
        encoder: sentence encoder.
        seed: of every draw.
        sources: data sets of real triples beside the invented worlds: any of `kblam_engine.datasets` but those in
            ``HELD_OUT_SOURCES``.
        data: files or folders of the user's own, graphs or triples, see ``own_data``.
        n_data_worlds: worlds drawn from each of them; one counts as much as a source.
        exclude_names: real triples with these names are left out (names of evaluation KBs), compared without case and extra spaces.
        exclude_properties: real and invented triples with these properties are left out (case-folded).
        n_worlds: invented worlds for the native tokens.
        n_entities: entities per invented world.
        n_source_entities: entities per real source.
        n_queries: conversations whose hidden states the KB query's map is fitted on; 0: sentence embeddings only.
        question_steps: optimiser steps of what is added to the sentence encoder where it encodes questions; 0: nothing is.
        n_questions: questions examined for the evidence head; with a question encoder as many again by the frozen one.
        n_fold_worlds: invented worlds of either kind (any things; things with long names) per part of the lexicon.
        written_weight: how many of those questions are written by hand, where a world of real triples has weight 1, and the
            invented worlds 22 together; 0: none.
        n_folds: parts of the lexicon; each part's questions are examined with a comparison trained on the others.
        pool_sizes: KB sizes that those questions are asked of.
        n_members: evidence heads that are fitted to those questions and averaged into one.
        native_steps: optimiser steps of the native tokens.
        batch: examples that the base model reads at once, shared by all processes.
        accumulate: such batches per step; all of one step are of one world.
        lr: learning rate of the small vectors; maps learn at a fifth of it.
        validate_every: steps between validations; the best adapter is kept.
        n_validation: validation examples.
        write_strength: what a fully attended token writes at first, as a share of the residual's length.
        answer_kinds: how often each kind of question is asked, beside the other kinds, when answers are trained.
        style_share: of the questions whose answer is triples, how many say in which style they want it.
        chain_share: of the entities of invented worlds, how many have another entity as a value.
        mined_share: of the native tokens' batches, how many have in their attention what the trained retrieval layer
            finds, right and wrong; the others have what is asked for.
        kb_sizes: least and most triples, about, of the KBs that those batches and sentence tokens have; evenly on a
            logarithmic scale, as far as the world reaches. One batch shares one KB.
        n_large_entities: entities of the invented world that large KBs are cut from.
        sentence_steps: optimiser steps of sentence tokens; 0: the adapter has none.
    """

    model: str = "smollm2-135m"
    dtype: str | None = None
    encoder: str = "all-minilm-l6-v2"
    seed: int = 0
    sources: tuple[str, ...] = SOURCES
    data: tuple[str, ...] = ()
    n_data_worlds: int = 4
    exclude_names: frozenset[str] = frozenset()
    exclude_properties: frozenset[str] = HELD_OUT_PROPERTIES
    n_worlds: int = 16
    n_entities: int = 600
    n_source_entities: int = 300
    n_queries: int = 0
    question_steps: int = 200
    n_questions: int = 12000
    n_fold_worlds: int = 3
    written_weight: float = 14.0
    n_folds: int = 4
    pool_sizes: tuple[int, ...] = (1, 2, 3, 5, 10, *(30, 100, 300, 1000) * 2)
    n_members: int = 8
    native_steps: int = 800
    batch: int = 8
    accumulate: int = 1
    lr: float = 2e-3
    validate_every: int = 100
    n_validation: int = 32
    write_strength: float = 2.0
    answer_kinds: tuple[tuple[str, float], ...] = ANSWER_KINDS
    style_share: float = 0.3
    chain_share: float = 0.3
    mined_share: float = 0.25
    kb_sizes: tuple[int, int] = (10, 10_000)
    n_large_entities: int = 2100
    sentence_steps: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigurationError: a number is out of its range, or a source is unknown or one that evaluation uses.
        """
        counts = {k: v for k, v in asdict(self).items() if isinstance(v, int) and k not in _MAY_BE_ZERO}
        wrong = {k: v for k, v in counts.items() if v < 1}
        if 0 != self.n_queries < self.n_folds:
            wrong["n_queries"] = self.n_queries  # every fold needs one
        wrong |= {k: v for k in ("question_steps", "sentence_steps") if (v := getattr(self, k)) < 0}
        if wrong:
            raise ConfigurationError(f"training: expected numbers of at least 1, got {wrong}")
        if not (_finite(self.lr, self.write_strength) and min(self.lr, self.write_strength) > 0):
            raise ConfigurationError(
                f"training: lr and write_strength must be finite and above 0, got {self.lr}, {self.write_strength}"
            )
        if not _finite(self.written_weight) or self.written_weight < 0:
            raise ConfigurationError(
                f"training: written_weight must be finite and at least 0, got {self.written_weight}"
            )
        self._check_answers()
        self._check_sources()

    @property
    def n_real_entities(self) -> int:
        """Entities of all worlds of real triples, at most."""
        return (len(self.sources) + self.n_data_worlds * len(self.data)) * self.n_source_entities

    def _check_sources(self) -> None:
        free = [name for name in DATASETS if name not in HELD_OUT_SOURCES]
        wrong = [name for name in self.sources if name not in free]
        if not wrong:
            return
        held_out = [name for name in wrong if name in HELD_OUT_SOURCES]
        why = f" ({', '.join(held_out)}: kept for evaluation)" if held_out else ""
        raise ConfigurationError(f"sources: expected some of {', '.join(free)}; got {', '.join(map(str, wrong))}{why}")

    def _check_answers(self) -> None:
        known, given = [kind for kind, _ in ANSWER_KINDS], [kind for kind, _ in self.answer_kinds]
        weights = [weight for _, weight in self.answer_kinds]
        if not set(given) <= set(known) or len(set(given)) < len(given):
            raise ConfigurationError(f"answer_kinds: expected each at most once of {', '.join(known)}; got {given}")
        if not weights or not _finite(*weights) or min(weights) < 0 or sum(weights) <= 0:
            raise ConfigurationError(f"answer_kinds: expected finite weights of at least 0, one above it; got {weights}")
        for name in ("style_share", "chain_share", "mined_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")
        if not 1 <= self.kb_sizes[0] <= self.kb_sizes[1]:
            raise ConfigurationError(f"kb_sizes: expected least and most triples, got {self.kb_sizes}")

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON objects; without sentence tokens, or data, nothing is said of them."""
        told = {k: sorted(v) if isinstance(v, frozenset) else v for k, v in asdict(self).items()}
        if not self.data:
            del told["data"], told["n_data_worlds"]
        if not self.sentence_steps:
            del told["sentence_steps"]
        return told


def _finite(*numbers: float) -> bool:
    """Return whether all are numbers; with NaN every comparison is false, so that a range alone lets it through."""
    return all(map(math.isfinite, numbers))


RECIPES: dict[str, TrainConfig] = {
    "smoke": TrainConfig(
        sources=(), n_worlds=1, n_entities=60, n_queries=20, question_steps=2, n_questions=60, n_fold_worlds=1, written_weight=0.0, n_folds=2,
        pool_sizes=(30,), n_members=2, native_steps=4, batch=2, validate_every=2, n_validation=2, kb_sizes=(10, 100), n_large_entities=40,
    ),
    "fast": TrainConfig(
        question_steps=0, n_questions=3000, n_fold_worlds=1, n_source_entities=150, native_steps=200, validate_every=50, n_validation=16,
        mined_share=0.15, kb_sizes=(10, 1000), n_large_entities=200,
    ),
    "full": TrainConfig(),
}  # fmt: skip
"""``fast`` gives a usable adapter in under half an hour on two cores, ``full`` the one that ships; ``smoke`` only
shows that everything runs."""


def recipe(name: str, **changes: Any) -> TrainConfig:
    """Return a recipe by name with some values changed.

    Raises:
        ConfigurationError: there is no such recipe.
    """
    if name not in RECIPES:
        raise ConfigurationError(f"recipe: expected {', '.join(RECIPES)}; got {name!r}")
    return replace(RECIPES[name], **{k: v for k, v in changes.items() if v is not None})
