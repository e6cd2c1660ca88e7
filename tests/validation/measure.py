"""What an adapter's retrieval layer does on the validation sets: the numbers that designs are chosen by.

    python tests/validation/measure.py [--adapter FOLDER] [--json FILE]

No answer is written; a run takes two minutes. The threshold that it names follows the rule of docs/decisions.md: the highest
hundredth at which at most .05 of what the six sets can answer is refused. Where a KB has no answer, "open" is the share of
questions that pass that threshold all the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from kblam_engine import KBLaM, KnowledgeBase, Triple
from kblam_engine.evaluation.questions import Question, read_questions
from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.knowledge_base import KBSnapshot
from kblam_engine.retrieval import Message, Retriever
from kblam_engine.sentence_encoder import SentenceEncoder
from kblam_engine.training.evidence import Examined, examine, validate
from kblam_engine.triple_files import read_jsonl

FOLDER = Path(__file__).parent
OVER_REFUSAL = 0.05
SIX = ("company", "fieldguide", "glossary", "handbook", "resolutions", "town")
SECOND_SIX = ("archipelago", "filmcrew", "hazards", "lamps", "ontology", "settings")
"""Written later, by authors who had seen nothing else; no threshold follows from them."""


class Bench:
    """Examines conversations about knowledge bases with one retriever."""

    def __init__(self, retriever: Retriever, encoder: SentenceEncoder) -> None:
        """Keep the retriever, and the encoder of keys."""
        self._retriever, self._encoder = retriever, encoder

    def snapshot(self, triples: Sequence[Triple]) -> KBSnapshot:
        """Return a KB of its own in memory."""
        kb = KnowledgeBase.open(":memory:", encoder=self._encoder)
        kb.add(triples)
        return kb.snapshot()

    def examined(
        self, snapshot: KBSnapshot, messages: Sequence[Message], supports: Sequence[Sequence[str]], kind: str
    ) -> Examined:
        """Return what the head sees of a conversation; its supports are (name, property) or triples."""
        wanted = {tuple(support[:2]) for support in supports}
        held = snapshot.triples(range(len(snapshot)))
        positions = [at for at, t in enumerate(held) if (t.name, t.property) in wanted]
        return examine(self._retriever, messages, snapshot, positions, kind)


def read_set(bench: Bench, name: str) -> tuple[KBSnapshot, list[Question]]:
    """Return a set's KB and its questions."""
    return bench.snapshot(list(read_jsonl(FOLDER / f"{name}.kb.jsonl"))), read_questions(FOLDER / f"{name}.questions.jsonl")


def answered(bench: Bench, snapshot: KBSnapshot, questions: Sequence[Question]) -> Iterator[Examined]:
    """Yield what the head sees of each question."""
    for question in questions:
        supports = question.supports if question.answerable else ()
        yield bench.examined(snapshot, question.messages, supports, question.kind)


def second_six(bench: Bench) -> Iterator[tuple[str, Examined]]:
    """Yield the questions of the second six sets."""
    for name in SECOND_SIX:
        for examined in answered(bench, *read_set(bench, name)):
            yield "second six", examined


def six_sets(bench: Bench) -> Iterator[tuple[str, Examined]]:
    """Yield the questions of the six sets; after them, conversations that leave each KB."""
    turns = [x for x in (FOLDER / "other_subjects.txt").read_text("utf-8").splitlines() if x and x[0] != "#"]
    for name in SIX:
        snapshot, questions = read_set(bench, name)
        for examined in answered(bench, snapshot, questions):
            yield "six sets", examined
        random = Random(name)
        answerable = [q for q in questions if q.answerable]
        for turn in turns:
            asked = user(turn)
            yield "another subject, at once", bench.examined(snapshot, [asked], (), "unanswerable")
            before = random.choice(answerable)
            said = (*before.messages, assistant(answer_of(before, snapshot)))
            yield "another subject, after a question", bench.examined(snapshot, [*said, asked], (), "unanswerable")


def small_sets(bench: Bench) -> Iterator[tuple[str, Examined]]:
    """Yield the questions about KBs of one to ten triples."""
    for line in (FOLDER / "small.jsonl").read_text("utf-8").splitlines():
        data = json.loads(line)
        snapshot = bench.snapshot([Triple(*triple) for triple in data["kb"]])
        size = "1 to 3 triples" if len(snapshot) <= 3 else "4 to 10 triples"
        for question in data["questions"]:
            before = [turn for asked, said in question.get("before", ()) for turn in (user(asked), assistant(said))]
            kind = "small" if question["supports"] else "unanswerable"
            yield size, bench.examined(snapshot, [*before, user(question["question"])], question["supports"], kind)


def user(text: str) -> Message:
    """Return a turn of the user."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """Return a turn of the model."""
    return {"role": "assistant", "content": text}


def answer_of(question: Question, snapshot: KBSnapshot) -> str:
    """Return the statements that answer a question."""
    held = {(t.name, t.property): t.statement for t in snapshot.triples(range(len(snapshot)))}
    return "\n".join(held[pair] for pair in question.supports)


def measured(head: EvidenceHead, examined: Sequence[tuple[str, Examined]]) -> dict[str, Any]:
    """Return the threshold by the rule, and the numbers of each group of questions at it."""
    groups: dict[str, list[Examined]] = {}
    for group, each in examined:
        groups.setdefault(group, []).append(each)
    threshold = threshold_of(head, groups["six sets"])
    return {"threshold": threshold, **{name: validate(head, group, threshold) | opened(head, group, threshold) for name, group in groups.items()}}


def peaks(head: EvidenceHead, examined: Sequence[Examined], answerable: bool) -> np.ndarray[Any, Any]:
    """Return the highest probability of each question that has an answer, or that has none."""
    with torch.no_grad():
        return np.array([float(head(torch.from_numpy(e.features)).max().sigmoid()) for e in examined if e.answerable is answerable])


def threshold_of(head: EvidenceHead, examined: Sequence[Examined]) -> float:
    """Return the highest hundredth at which at most .05 of the questions with an answer are refused."""
    yes = peaks(head, examined, True)
    return max(n for n in range(1, 100) if (yes < n / 100).mean() <= OVER_REFUSAL) / 100


def opened(head: EvidenceHead, examined: Sequence[Examined], threshold: float) -> dict[str, float]:
    """Return the share of questions without an answer that open a triple."""
    no = peaks(head, examined, False)
    return {"n_unanswerable": len(no), "open": float((no >= threshold).mean())}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapter", help="an adapter folder; default: the one that ships")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    model = KBLaM.from_pretrained(adapter=options.adapter)
    bench = Bench(model.retriever, model.encoder)
    result = measured(model.adapter.evidence, [*six_sets(bench), *second_six(bench), *small_sets(bench)])
    print(f"threshold {result['threshold']:.2f}")
    for name, numbers in result.items():
        if isinstance(numbers, dict):
            print(f"{name:36}", "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in numbers.items()))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
