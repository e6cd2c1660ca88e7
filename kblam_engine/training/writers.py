"""Writers of synthetic knowledge bases: a chat model, asked in three steps (KBLaM, appendix), and a grammar."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

from kblam_engine.chat_model import ChatModel, Message
from kblam_engine.training import inventions
from kblam_engine.training.synthesis import THING_FIELDS, SynthesisError, Thing, described, thing_from

_SYSTEM = "You write synthetic data as JSON and nothing else."
_NAMES = (
    "Invent {n} names of a {object}, each inspired by {idea}. Vary style and length: some of one word, some of several, some with a "
    "hyphen or a space. Reply with a JSON array of strings."
)
_TEXTS = (
    "For each of these names write a short description, short objectives and a purpose. What you write must have as LITTLE as possible to do "
    "with the name and must not repeat its words. Reply with a JSON array of objects with the keys "
    '"name", "description", "objectives" and "purpose".'
)
_VARIED = (
    "Now write description, objectives and purpose again in more varied styles, some formal, some informal. Keep the names and the "
    "meaning. Reply with a JSON array of objects with the same keys."
)


class ChatWriter:
    """Asks a chat model for names, then for their texts, then for more variety in the same conversation.

    Attributes:
        described: what decides the replies, for the file that they are kept in.
    """

    def __init__(self, chat: ChatModel, *, varied: bool = True, tries: int = 3, name: str | None = None) -> None:
        """Take the chat model.

        Args:
            chat: messages in, text out.
            varied: whether to ask for the round that varies the style; if its reply cannot be read, the first is kept.
            tries: how often to ask for the same thing before giving up.
            name: of the chat model, where neither its own name nor its class tells it from others.
        """
        self._chat, self._varied, self._tries = chat, varied, tries
        self.described = f"ChatWriter({name or described(chat)}, varied={varied})"

    def __call__(self, object_type: str, idea_type: str, n_names: int, /) -> list[Thing]:
        """Return the things of one pair.

        Raises:
            SynthesisError: no reply could be read as what was asked for.
        """
        messages: list[Message] = [{"role": "system", "content": _SYSTEM}]
        names = self._ask(messages, _NAMES.format(n=n_names, object=object_type, idea=idea_type), "names")
        wanted = {n for n in names if isinstance(n, str) and n.strip()}
        if not wanted:
            raise SynthesisError(f"names: expected a JSON array of strings, got {str(names)[:80]!r}")
        things = _things(self._ask(messages, _TEXTS, "texts"))
        if not things:
            raise SynthesisError(f"texts: expected objects with {', '.join(THING_FIELDS)}")
        if self._varied:
            try:
                again = _things(self._ask(messages, _VARIED, "varied texts"))
            except SynthesisError:
                again = {}
            things |= {name: thing for name, thing in again.items() if name in things}
        return list(things.values())

    def _ask(self, messages: list[Message], text: str, what: str) -> list[Any]:
        """Put a question and its readable reply behind the conversation and return the reply's JSON array."""
        reply = ""
        for _ in range(self._tries):
            asked: list[Message] = [*messages, {"role": "user", "content": text}]
            reply = self._chat(asked)
            found = json_array(reply)
            if found:
                messages[:] = [*asked, {"role": "assistant", "content": reply}]
                return found
        raise SynthesisError(f"{what}: expected a JSON array, got {reply[:80]!r}")


def json_array(text: str) -> list[Any]:
    """Return the first JSON array in a reply that may have prose or a code fence around it; empty if there is none."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\[", text):
        try:
            found, _ = decoder.raw_decode(text, match.start())
        except ValueError:
            continue
        if isinstance(found, list):
            return found
    return []


def _things(items: list[Any]) -> dict[str, Thing]:
    return {thing.name: thing for thing in map(thing_from, items) if thing is not None}


_WHO = (
    "first-time visitors,night-shift workers,retired teachers,small towns,people who cook for one,rural clinics,amateur cyclists,parents of twins,"
    "volunteer crews,apprentices,language learners,allotment gardeners,freelancers,choirs,beekeepers,commuters,model builders,exchange students,"
    "neighbourhood councils,hospital porters,translators,tenants,ferry crews,market traders"
).split(",")
_WHAT = (
    "late paperwork,shared tools,lost luggage,spare rooms,old recordings,queue times,heating bills,school timetables,second-hand books,rain water,"
    "route planning,first aid,meal plans,unread letters,repair manuals,parking space,broken radios,seed swaps,oral history,shift swaps,"
    "noise at night,cold storage,waiting lists,sheet music"
).split(",")
_DOES = (
    "keeps track of,sorts out,makes sense of,puts a price on,takes the worry out of,collects,lends a hand with,settles disputes about,"
    "publishes figures on,teaches the basics of,runs weekly sessions on,hands out,archives,compares,automates,maps"
).split(",")
_AIM = (
    "cut,double,track,share,halve,simplify,record,translate,insure,catalogue,predict,renew,finance,advertise,rehearse,measure"
).split(",")
_WHY = (
    "so that nobody has to ask twice,because the old way took months,and to have fun on the way,without adding staff,as a public service,in time for winter,"
    "to win back trust,for the sheer curiosity of it,at a price people can afford,before the grant runs out,whatever the weather,with no small print"
).split(",")
_OPENINGS = {
    "description": (
        "A {size} outfit that {does} {what} for {who}",
        "{Does} {what} and {what2}, mostly for {who}",
        "Think of it as the place that {does} {what}, {why}",
        "An arrangement under which {who} get help with {what} and {what2}",
        "Honestly? It {does} {what}. {Who} love it",
    ),
    "objectives": (
        "To {aim} {what} and {aim2} {what2} within {n} months",
        "{Aim} {what}; {aim2} {what2}; keep {who} on board",
        "Reach {n} {who} a year and {aim} {what}",
        "{Aim} {what} for {who}, {why}",
    ),
    "purpose": (
        "To give {who} a say in {what}, {why}",
        "To {aim} {what}, {why}",
        "Getting {what} and {what2} off the desks of {who}",
        "It exists to {aim} {what} and {what2} for {who}",
    ),
}
_SIZES = ("small", "sprawling", "two-person", "century-old", "brand-new", "loosely organised", "state-funded", "family-run")


class OfflineWriter:
    """Writes things out of a grammar: no LLM, the same seed gives the same things, names tell nothing of the texts.

    Attributes:
        described: what decides the things, for the file that they are kept in.
    """

    def __init__(self, seed: int = 0) -> None:
        """Take the seed of every draw."""
        self._seed = seed
        self.described = f"OfflineWriter(seed={seed})"

    def __call__(self, object_type: str, idea_type: str, n_names: int, /) -> list[Thing]:
        """Return the things of one pair."""
        random = Random(f"{self._seed} {object_type} {idea_type}")
        return [
            Thing(_name(random, object_type, idea_type), *(_text(random, p) for p in _OPENINGS))
            for _ in range(n_names)
        ]


def _name(random: Random, object_type: str, idea_type: str) -> str:
    """Return an invented name with, at times, a word of its kind or of its idea in it."""
    kind = object_type.split()[0].capitalize()
    idea = idea_type.split()[-1].capitalize().removesuffix("s")
    word, other = inventions.word(random), inventions.word(random)
    shapes = (
        word + other.lower(), f"{word} {kind}", f"{idea} {word}", f"{word}-{other}", f"The {word} {idea}", f"{word} {other} {kind}",
        f"{word}{random.randint(2, 99)}",
    )  # fmt: skip
    return random.choice(shapes)


def _text(random: Random, prop: str) -> str:
    what, what2 = random.sample(_WHAT, 2)
    aim, aim2 = random.sample(_AIM, 2)
    who, does = random.choice(_WHO), random.choice(_DOES)
    text = random.choice(_OPENINGS[prop]).format(
        who=who, Who=who.capitalize(), what=what, what2=what2, does=does, Does=does.capitalize(), aim=aim, Aim=aim.capitalize(),
        aim2=aim2, why=random.choice(_WHY), n=random.randint(3, 60), size=random.choice(_SIZES),
    )  # fmt: skip
    return text if random.random() < 0.6 else text + "."
