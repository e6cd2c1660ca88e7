"""Questions written by hand about small knowledge bases of many kinds, as training samples.

Templates, however many, put questions in an order and a wording of their own. People describe what they cannot name,
ask for consequences instead of properties, and leave out what they think is clear. The files in ``written/`` are the
sets that training reads; evaluation and validation have sets of their own, on other subjects.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from importlib import resources
from random import Random

from kblam_engine.evaluation.questions import Question, read_questions
from kblam_engine.training.left_out import folded, folded_names
from kblam_engine.training.samples import Sample
from kblam_engine.training.worlds import Known, World
from kblam_engine.triple_files import read_jsonl
from kblam_engine.triples import Triple

WITHHELD_SHARE = 0.08
"""Of the questions with an answer, how many are asked of a KB without it."""


@dataclass(frozen=True)
class Written:
    """All sets as one world, so that a pool holds things of one set and of others.

    Attributes:
        world: the triples; entities of one set stand side by side.
        samples: the questions.
        sets: of each question, the number of its set.
    """

    world: World
    samples: tuple[Sample, ...]
    sets: tuple[int, ...]

    def fold(self, number: int, n_folds: int) -> Written:
        """Return the questions of every ``n_folds``-th set, from ``number`` on."""
        kept = [(q, s) for q, s in zip(self.samples, self.sets, strict=True) if s % n_folds == number]
        return Written(self.world, tuple(q for q, _ in kept), tuple(s for _, s in kept))

    def draw(self, random: Random) -> Sample:
        """Return one of the questions; now and then its triples are to be left out of the KB."""
        sample = random.choice(self.samples)
        if sample.supports and random.random() < WITHHELD_SHARE:
            return replace(sample, kind="unanswerable", supports=(), answer=None, hidden=sample.supports)
        return sample


def load_written(exclude_names: Collection[str] = (), exclude_properties: Collection[str] = ()) -> Written:
    """Read every set in the package.

    Args:
        exclude_names: triples with these names, and questions about them, are left out, however they are
            written (case, spaces).
        exclude_properties: the same for properties (case-folded).
    """
    folder = resources.files("kblam_engine.training") / "written"
    known: list[Known] = []
    entities: list[tuple[int, ...]] = []
    samples: list[Sample] = []
    sets: list[int] = []

    left_out = folded_names(exclude_names)

    def kept(name: str, prop: str) -> bool:
        return folded(name) not in left_out and prop.casefold() not in exclude_properties

    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".kb.jsonl"):
            continue
        first = len(entities)
        with resources.as_file(file) as path:
            triples = [t for t in read_jsonl(path) if kept(t.name, t.property)]
        with resources.as_file(folder / file.name.replace(".kb.", ".questions.")) as path:
            questions = [q for q in read_questions(path) if all(kept(*pair) for pair in q.supports)]
        by_name: dict[str, list[Triple]] = {}
        for triple in triples:
            by_name.setdefault(triple.name, []).append(triple)
        positions: dict[tuple[str, str], int] = {}
        for name, group in by_name.items():
            for triple in group:
                positions[name, triple.property] = len(known)
                known.append(Known(triple, None, len(entities)))
            entities.append(tuple(positions[name, t.property] for t in group))
        entity_of = {name: first + i for i, name in enumerate(by_name)}
        number = sets[-1] + 1 if sets else 0
        samples += [_sample(question, known, positions, entity_of) for question in questions]
        sets += [number] * len(questions)
    return Written(World(tuple(known), tuple(entities)), tuple(samples), tuple(sets))


def _sample(
    question: Question, known: list[Known], positions: dict[tuple[str, str], int], entity_of: dict[str, int]
) -> Sample:
    if question.answerable:
        supports = tuple(positions[pair] for pair in question.supports)
        answer = "\n".join(known[p].triple.statement for p in supports)
        return Sample(question.kind, question.messages, supports, answer)
    named = [entity_of[name] for name, _ in question.supports if name in entity_of]
    # What is asked for is of this set: at least one thing of it must be in the KB, a different one each time.
    entities = tuple(named) or (list(entity_of.values())[question.line % len(entity_of)],)
    return Sample(question.kind, question.messages, (), None, entities=entities)
