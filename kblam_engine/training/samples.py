"""Samples for training: conversations that ask about the triples of a world.

They are of every kind that the product must handle: one triple, two triples, a follow-up whose subject is only
in an earlier turn, and unanswerable questions (unknown name; known name, unknown property; near-miss name).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from kblam_engine.training import inventions
from kblam_engine.training.lexicon import (
    FOLLOW_UPS,
    JOIN_QUESTIONS,
    QUESTIONS,
    SMALL_TALK,
    TWO_NAMES,
    TWO_PROPERTIES,
)
from kblam_engine.training.worlds import Known, World
from kblam_engine.wording import words

Message = dict[str, str]

DESCRIBED_SHARE = 0.5
"""Of the questions about a name that people are known to describe, how many do."""

@dataclass(frozen=True)
class Sample:
    """One conversation with what it asks for.

    Attributes:
        kind: simple, two_facts, follow_up or unanswerable.
        messages: chat messages; the last is the user's.
        supports: positions in the world, in the order in which they are asked; empty if unanswerable.
        answer: what the assistant should say; None: the refusal.
        hidden: positions that must be left out of the KB so that the question has no answer there.
        entities: entities that must be in the KB for the question to be of its kind.
        alike: positions that a question without an answer is closest to, such as the same property of another name: what
            a very small KB should hold.
    """

    kind: str
    messages: tuple[Message, ...]
    supports: tuple[int, ...]
    answer: str | None
    hidden: tuple[int, ...] = ()
    entities: tuple[int, ...] = ()
    alike: tuple[int, ...] = ()


def _as_typed(random: Random, name: str) -> str:
    """Return a name the way a hurried person may type it."""
    parts = name.split()
    if len(parts) >= 3 and random.random() < 0.6:
        name = _shortened(random, parts)
    roll = random.random()
    if roll < 0.2:
        return name.lower()
    if roll < 0.28:
        return inventions.slip(random, name)
    if roll < 0.32 and name.startswith("The "):
        return name[4:]
    return name


def _shortened(random: Random, parts: list[str]) -> str:
    """Return some of a long name: its identifier, a stretch of the title, or the words that tell most."""
    code_at = next((i for i, w in enumerate(parts[:3]) if any(c.isdigit() for c in w)), None)
    title = parts if code_at is None else parts[code_at + 1 :]
    roll = random.random()
    if code_at is not None and roll < 0.5:
        code = " ".join(parts[: code_at + 1])
        return code.replace("-", " ") if random.random() < 0.15 else code
    if len(title) >= 3:
        n = random.randint(2, max(2, min(5, len(title) - 1)))
        if roll < 0.8:
            at = random.randint(0, len(title) - n)
            return " ".join(title[at : at + n])
        kept = sorted(random.sample(range(len(title)), n))
        telling = [title[i] for i in kept if len(title[i]) > 3] or [title[kept[0]]]
        return " ".join(telling)
    return " ".join(title or parts)


def referred_to(random: Random, known: Known) -> str:
    """Return what a question calls the name of a triple: it is described, or typed in haste."""
    if known.called and random.random() < DESCRIBED_SHARE:
        return random.choice(known.called)
    return _as_typed(random, known.triple.name)


def ask(random: Random, known: Known) -> str:
    """Return a question for a triple: in the words for its property, or in words that fit any."""
    return _ask_about(random, known, referred_to(random, known))


def _ask_about(random: Random, known: Known, typed: str) -> str:
    if known.phrases is not None and random.random() < 0.85:
        question = random.choice(known.phrases.questions).replace("{n}", typed)
    else:
        question = random.choice(QUESTIONS).format(p=known.triple.property, n=typed)
    return question.lower() if random.random() < 0.06 else question


def _say(random: Random, known: Known) -> str:
    triple = known.triple
    if known.phrases is not None and random.random() < 0.15:
        template = random.choice(known.phrases.answers)
        return template.replace("{n}", triple.name).replace("{v}", triple.value)
    return triple.statement


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def simple(random: Random, world: World) -> Sample:
    """Return a question about one triple."""
    at = random.randrange(len(world.known))
    known = world.known[at]
    messages = [_user(ask(random, known))]
    if random.random() < 0.12:  # an earlier, unrelated exchange must not matter
        other = world.known[random.randrange(len(world.known))]
        messages = [_user(ask(random, other)), _assistant(_say(random, other)), *messages]
    elif random.random() < 0.05:
        first, reply = random.choice(SMALL_TALK)
        messages = [_user(first), _assistant(reply), *messages]
    return Sample("simple", tuple(messages), (at,), _say(random, known))


def follow_up(random: Random, world: World) -> Sample:
    """Return a question whose subject was named in an earlier turn only."""
    entity = random.choice([e for e in world.entities if len(e) > 1])
    first, at = random.sample(entity, 2)
    known, earlier = world.known[at], world.known[first]
    if known.phrases is not None and random.random() < 0.75:
        question = random.choice(known.phrases.follow_ups)
    else:
        question = random.choice(FOLLOW_UPS).format(p=known.triple.property)
    messages = [_user(ask(random, earlier)), _assistant(_say(random, earlier))]
    if random.random() < 0.3:  # the conversation was about something else before
        other = world.known[random.randrange(len(world.known))]
        messages = [_user(ask(random, other)), _assistant(_say(random, other)), *messages]
    if len(entity) > 2 and random.random() < 0.3:
        third = world.known[random.choice([p for p in entity if p not in (first, at)])]
        phrase = (
            random.choice(third.phrases.follow_ups) if third.phrases else f"And the {third.triple.property}?"
        )
        messages += [_user(phrase), _assistant(_say(random, third))]
    return Sample("follow_up", (*messages, _user(question)), (at,), _say(random, known))


def two_facts(random: Random, world: World) -> Sample:
    """Return a question that needs two triples: of one entity, or one property of two."""
    roll = random.random()
    entity = random.choice([e for e in world.entities if len(e) > 1])
    a, b = random.sample(entity, 2)
    known_a, known_b = world.known[a], world.known[b]
    name = referred_to(random, known_a)
    if roll < 0.35:
        template = random.choice(TWO_PROPERTIES)
        question = template.format(p1=known_a.triple.property, p2=known_b.triple.property, n=name)
    elif roll < 0.7:
        second = (
            random.choice(known_b.phrases.follow_ups)
            if known_b.phrases
            else random.choice(FOLLOW_UPS).format(p=known_b.triple.property)
        )
        second = second[4:] if second.startswith("And ") else second
        joined = random.choice(JOIN_QUESTIONS).format(
            a=ask(random, known_a), b=second[0].lower() + second[1:]
        )
        question = joined
    else:
        partner = _same_property(random, world, a)
        if partner is None:
            return two_facts(random, world)
        b, known_b = partner, world.known[partner]
        if roll < 0.85:
            template = random.choice(TWO_NAMES)
            question = template.format(p=known_a.triple.property, n1=name, n2=known_b.triple.name)
        else:
            question = random.choice(JOIN_QUESTIONS).format(a=ask(random, known_a), b=ask(random, known_b))
    answer = f"{known_a.triple.statement}\n{known_b.triple.statement}"
    return Sample("two_facts", (_user(question),), (a, b), answer)


def _same_property(random: Random, world: World, at: int) -> int | None:
    wanted = world.known[at]
    others = [
        i
        for i, k in enumerate(world.known)
        if k.triple.property == wanted.triple.property and k.entity != wanted.entity
    ]
    return random.choice(others) if others else None


def unanswerable(random: Random, world: World) -> Sample:
    """Return a question that the KB does not cover."""
    roll = random.random()
    at = random.randrange(len(world.known))
    known = world.known[at]
    if roll < 0.15:
        return _absent(random, world, at)
    if roll < 0.30:
        title = len(known.triple.name.split()) > 3  # among titles, another title
        name = inventions.identified(random) if title else inventions.name(random)
    elif roll < 0.60:
        name = inventions.near_name(random, known.triple.name, random.choice(world.known).triple.name)
    else:
        return _unknown_property(random, world, at)
    typed = _unlike(world.name_words, _as_typed(random, name), name)
    if typed is None:
        return unanswerable(random, world)
    asked = _ask_about(random, known, typed)
    return Sample("unanswerable", (_user(asked),), (), None, entities=(known.entity,), alike=(at,))


def _unlike(held: Collection[frozenset[str]], *texts: str) -> str | None:
    """Return the first text that no held name may be meant by.

    Shortened, a new name may come down to words of a name that is there: then it would be that name.
    """
    return next((t for t in texts if not any(words_of >= set(words(t)) for words_of in held)), None)


def _absent(random: Random, world: World, at: int) -> Sample:
    """Return a question about something of the world that the KB leaves out altogether."""
    known = world.known[at]
    name = known.triple.name
    others = world.name_words - {frozenset(words(name))}
    typed = _unlike(others, referred_to(random, known), name)
    if typed is None:
        return unanswerable(random, world)
    asked, other = _ask_about(random, known, typed), _same_property(random, world, at)
    alike = () if other is None else (other,)
    return Sample("unanswerable", (_user(asked),), (), None, hidden=world.entities[known.entity], alike=alike)


def _unknown_property(random: Random, world: World, at: int) -> Sample:
    known = world.known[at]
    held = {world.known[p].triple.property for p in world.entities[known.entity]}
    if known.phrases is not None and known.phrases.near and random.random() < 0.5:
        near = random.randrange(len(known.phrases.near))
        if known.phrases.near[near] not in held:
            question = known.phrases.near_questions[near]
            typed = referred_to(random, known)
            return Sample(
                "unanswerable", (_user(question.replace("{n}", typed)),), (), None, entities=(known.entity,)
            )
    if random.random() < 0.6:  # the very triple that would answer is left out of the KB
        return Sample("unanswerable", (_user(ask(random, known)),), (), None, hidden=(at,))
    other = world.known[random.randrange(len(world.known))]
    if other.triple.property in held:
        return unanswerable(random, world)
    asked = _ask_about(random, other, referred_to(random, known))
    return Sample("unanswerable", (_user(asked),), (), None, entities=(known.entity,))


def draw(random: Random, world: World, *, unanswerable_share: float = 0.25) -> Sample:
    """Return one sample; the kinds come in the proportions of training."""
    roll = random.random()
    if roll < unanswerable_share:
        return unanswerable(random, world)
    if roll < unanswerable_share + 0.15:
        return follow_up(random, world)
    if roll < unanswerable_share + 0.30:
        return two_facts(random, world)
    return simple(random, world)
