"""Samples that answers are trained on: the paper's kinds of instructions, and questions that ask for a style.

``samples`` draws what retrieval is trained on as well. Here are, besides, several triples in the paper's frames, chains (the
value of one triple is the name of the next), open ends (a triple, and what one thinks of it), and answers as a full
sentence, the bare value or a list, as the wording of the question has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from kblam_engine.training import samples
from kblam_engine.training.config import ANSWER_KINDS
from kblam_engine.training.question_frames import (
    AS_LIST,
    AS_SENTENCE,
    AS_VALUE,
    CHAINS,
    OPEN_ENDS,
    PAPER_QUESTIONS,
    PAPER_SEVERAL,
)
from kblam_engine.training.samples import Message, Sample
from kblam_engine.training.worlds import Known, World
from kblam_engine.triples import Triple

PAPER_SHARE = 0.3
"""Of the questions for one triple, how many are in one of the paper's frames."""
STYLED = frozenset(("simple", "follow_up", "two_facts", "multi_entity"))
"""Kinds whose questions may ask for a style."""
STYLE_SHARE = 0.3
SENTENCE_SHARE = 0.3
"""Of the questions for one triple that ask for a style, how many want a sentence."""


def draw_answered(
    random: Random,
    world: World,
    kinds: Sequence[tuple[str, float]] = ANSWER_KINDS,
    style_share: float = STYLE_SHARE,
) -> Sample:
    """Return one sample for the training of answers.

    Args:
        random: source of the draws.
        world: what is asked about; a kind that it has no triples for is replaced by "simple".
        kinds: how often each kind is asked, see ``TrainConfig.answer_kinds``.
        style_share: of the questions of ``STYLED`` kinds, how many ask for a style.
    """
    kind = random.choices([k for k, _ in kinds], [weight for _, weight in kinds])[0]
    sample = _DRAW[kind](random, world)
    if sample.answer is None:
        return sample
    if sample.kind in STYLED:
        # What is asked for plainly is answered by the statements: another form has to be asked for.
        sample = replace(sample, answer=statements(world, sample))
        if random.random() < style_share:
            sample = in_style(random, world, sample)
    return sample


def statements(world: World, sample: Sample) -> str:
    """Return the statements of what a sample asks for, a line each."""
    return "\n".join(world.known[at].triple.statement for at in sample.supports)


def bare(triple: Triple) -> str:
    """Return the value as it ends its statement, full stop included.

    So a bare answer is the end of a statement: native tokens write it by beginning later.
    """
    return triple.statement[len(f"The {triple.property} of {triple.name} is ") :]


def in_style(random: Random, world: World, sample: Sample) -> Sample:
    """Return a sample whose question asks for a style, with the answer in it."""
    several = len(sample.supports) > 1
    frames: Sequence[str] = AS_LIST if several else AS_VALUE
    answer = "\n".join(bare(world.known[at].triple) for at in sample.supports)
    if not several and random.random() < SENTENCE_SHARE:  # of several triples it would be several sentences
        frames, answer = AS_SENTENCE, statements(world, sample)
    question = sample.messages[-1]["content"]
    asked = random.choice(frames).format(q=_ended(question))
    return replace(sample, messages=(*sample.messages[:-1], _user(asked)), answer=answer)


def simple(random: Random, world: World) -> Sample:
    """Return a question about one triple, now and then in one of the paper's frames."""
    if random.random() >= PAPER_SHARE:
        return samples.simple(random, world)
    at = random.randrange(len(world.known))
    question = _framed(random, world.known[at])
    return Sample("simple", (_user(question),), (at,), world.known[at].triple.statement)


def follow_up(random: Random, world: World) -> Sample:
    """Return a question whose subject is in an earlier turn, if some name has two triples."""
    return samples.follow_up(random, world) if _has_siblings(world) else simple(random, world)


def multi_entity(random: Random, world: World) -> Sample:
    """Return a question for two or three triples: in the paper's frames, or of one name, or for one property of two."""
    if _has_siblings(world) and random.random() < 0.5:
        return samples.two_facts(random, world)
    n = 3 if random.random() < 0.3 else 2
    drawn = random.sample(range(len(world.entities)), min(n, len(world.entities)))
    if len(drawn) < 2:
        return simple(random, world)
    supports = tuple(random.choice(world.entities[entity]) for entity in drawn)
    keys = [world.known[at].triple.key_text for at in supports]
    listed = ", ".join(keys) if random.random() < 0.5 else f"{', '.join(keys[:-1])} and {keys[-1]}"
    question = random.choice(PAPER_SEVERAL).format(listed)
    sample = Sample("multi_entity", (_user(question),), supports, None)
    return replace(sample, answer=statements(world, sample))


def chain(random: Random, world: World) -> Sample:
    """Return a question that needs a triple about what another triple's value names; the answer says both."""
    if not world.links:
        return multi_entity(random, world)
    at, entity = random.choice(world.links)
    then = random.choice(world.entities[entity])
    first, second = world.known[at], world.known[then]
    name, prop = samples.referred_to(random, first), first.triple.property
    if second.phrases is not None and random.random() < 0.6:
        question = random.choice(second.phrases.questions).replace("{n}", f"the {prop} of {name}")
    else:
        question = random.choice(CHAINS).format(n=name, p1=prop, p2=second.triple.property)
    sample = Sample("chain", (_user(question),), (at, then), None)
    return replace(sample, answer=statements(world, sample))


def open_ended(random: Random, world: World) -> Sample:
    """Return a question for a triple and for what one makes of it; the answer's second part needs no other knowledge."""
    at = random.randrange(len(world.known))
    known = world.known[at]
    plain = samples.ask(random, known) if random.random() >= PAPER_SHARE else _framed(random, known)
    end, replies = random.choice(OPEN_ENDS)
    question = _widened(random, plain, end)
    answer = f"{known.triple.statement} {random.choice(replies).replace('{n}', known.triple.name)}"
    return Sample("open_ended", (_user(question),), (at,), answer)


def unanswerable(random: Random, world: World) -> Sample:
    """Return a question that the KB does not cover; the wording must not tell it from those that it does."""
    sample = samples.unanswerable(random, world)
    question, roll = sample.messages[-1]["content"], random.random()
    if roll < STYLE_SHARE:
        question = random.choice((*AS_SENTENCE, *AS_VALUE)).format(q=_ended(question))
    elif roll < 2 * STYLE_SHARE:
        question = _widened(random, question, random.choice(OPEN_ENDS)[0])
    return replace(sample, messages=(*sample.messages[:-1], _user(question)))


_DRAW: dict[str, Callable[[Random, World], Sample]] = {
    "unanswerable": unanswerable,
    "simple": simple,
    "follow_up": follow_up,
    "multi_entity": multi_entity,
    "chain": chain,
    "open_ended": open_ended,
}


def _framed(random: Random, known: Known) -> str:
    name = samples.referred_to(random, known)
    return random.choice(PAPER_QUESTIONS).format(p=known.triple.property, n=name)


def _widened(random: Random, question: str, end: str) -> str:
    if random.random() < 0.6:
        return f"{question.rstrip(' ?.')} and {end}?"
    return f"{_ended(question)} {end[0].upper()}{end[1:]}?"


def _has_siblings(world: World) -> bool:
    return any(len(entity) > 1 for entity in world.entities)


def _ended(question: str) -> str:
    """Return a question that something may follow."""
    return question if question[-1:] in "?.!:" else f"{question}."


def _user(text: str) -> Message:
    return {"role": "user", "content": text}
