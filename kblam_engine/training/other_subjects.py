"""Turns that change the subject, so that the evidence head learns when a conversation has left the KB.

A follow-up names nothing either ("And how high is it?"). Only what it asks tells it from "Why is the sky blue?", which after
a question about a mountain is no question about the mountain.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from importlib import resources
from random import Random

from kblam_engine.training.samples import Sample
from kblam_engine.training.worlds import World

AT_ONCE_SHARE = 0.25
"""Of these turns, how many begin the conversation."""


@lru_cache(maxsize=1)
def other_subjects() -> tuple[str, ...]:
    """Return the turns that ship with the package: written by hand, about nothing that a training KB holds."""
    text = (resources.files("kblam_engine.training") / "other_subjects.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def change_subject(random: Random, sample: Sample, world: World) -> Sample:
    """Return the conversation of an answerable sample, its answer, and then a turn about something else.

    The KB still holds what was asked before: nothing in it answers the last turn all the same.
    """
    if sample.answer is None:
        raise ValueError("sample: expected one with an answer, to change the subject after it")
    turn = {"role": "user", "content": random.choice(other_subjects())}
    before = (*sample.messages, {"role": "assistant", "content": sample.answer})
    messages = (turn,) if random.random() < AT_ONCE_SHARE else (*before, turn)
    entities = tuple(dict.fromkeys(world.known[p].entity for p in sample.supports))
    return replace(sample, kind="unanswerable", messages=messages, supports=(), answer=None, entities=entities)
