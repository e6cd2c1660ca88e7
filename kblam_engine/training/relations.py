"""Relations of graphs as nouns, for "the <noun> of <entity>": by rules, or by a chat model with the rules behind it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace

from kblam_engine.chat_model import ChatModel
from kblam_engine.errors import ConfigurationError
from kblam_engine.training.relation_table import TABLE, RelationNouns, normal
from kblam_engine.training.relation_words import PREPOSITIONS, converse, verb

__all__ = ["RelationNamer", "RelationNouns", "named_by_rules", "relation_words"]

MAX_NOUN_WORDS = 6
MAX_NOUN = 60
_HUMP = re.compile(r"(?<=[a-zß-ÿ\d])(?=[A-ZÀ-Þ])|(?<=[A-ZÀ-Þ])(?=[A-ZÀ-Þ][a-zß-ÿ])")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_PREFIX = re.compile(r"^[A-Za-z][\w-]{0,15}:(?=[^\s/:])")
_AUXILIARY = {"is", "are", "was", "were", "be", "been", "being", "gets", "currently", "also"}
_HAVING = {"has", "have", "had", "having", "with"}
_PREFIXES = {"co", "ex", "non", "e"}
_OBJECT_TAKERS = frozenset(
    "won received held attended earned made led taught published recorded visited joined invented discovered".split()
)
"""Pasts that are participles too; before a noun these are verbs ("won award"), others adjectives ("required skill")."""
_WHERE = {"in", "at", "near", "within", "inside"}
_ACTIVE = set(
    """act appear arrive belong bloom collaborate compete consist cooperate depend die emigrate exist fight flow fly
    graduate grow happen immigrate interact invest lie live migrate move occur orbit originate participate play reside
    retire return run sail serve settle sing specialise specialize speak study suffer teach travel work""".split()
)
"""Verbs whose past before a preposition is no passive: "worked in"; "located in" is one."""

_PROMPT = """You name the relations of a knowledge graph. An edge is (head, relation, tail). Give two short English nouns or \
noun phrases, in lower case and without an article:
- "tail": what the tail is to the head, to complete "the ... of <head>";
- "head": what the head is to the tail, to complete "the ... of <tail>".
The two must differ unless the relation means the same in both directions. Answer with one JSON object and nothing else.
Example: relation foundedBy -> {"tail": "founder", "head": "founded organisation"}"""


def relation_words(label: str) -> list[str]:
    """Return the words of a relation: of ``foundedBy``, ``born_in``, ``dbo:birthPlace``, an address of the web."""
    text = label.strip().strip("<>")
    if "://" in text or text.startswith(("/", "urn:")):
        text = re.split(r"[#/:]", re.sub(r"^[\w+.-]+://", "", text).rstrip("#/:"))[-1]
    elif " " not in text and text.count(".") >= 2:  # people.person.place_of_birth
        text = text.rsplit(".", 1)[-1]
    text = _PREFIX.sub("", text)
    shouted = text.isupper() and len(text) > 4
    found = _WORD.findall(_HUMP.sub(" ", text.lower() if shouted else text))
    for at in range(len(found) - 2, -1, -1):
        if found[at].lower() in _PREFIXES:
            found[at : at + 2] = [f"{found[at].lower()}-{found[at + 1].lower()}"]
    return [word if word.isupper() and len(word) > 1 else word.lower() for word in found]


def named_by_rules(label: str) -> RelationNouns | None:
    """Return a relation's nouns by rules alone; None if the label has no words."""
    words = relation_words(label)
    if not words:
        return None
    known = TABLE.get(normal(words))
    while known is None and len(words) > 1 and words[0] in _AUXILIARY:
        words = words[1:]
        known = TABLE.get(normal(words))
    if known is not None:
        return known
    if len(words) > 1 and words[0] in _HAVING:
        words = words[2:] if words[1] == "been" and len(words) > 2 else words[1:]
        known = TABLE.get(normal(words)) if len(words) > 1 or verb(words[0]) is None else None
        if known is not None:
            return known
    if len(words) > 1 and words[-1] in PREPOSITIONS:
        return _before_preposition(words[:-1], words[-1])
    doing = verb(words[0])
    if doing is not None and len(words) == 1:
        return _done_by_head(words[0])
    if doing is not None and (words[0] in _OBJECT_TAKERS or words[0] not in (doing.participle, doing.base)):
        return _of_noun(" ".join(words[1:]), doing.agent)  # "won award": the award of the head, the winner of the tail
    return _of_noun(" ".join(words))


def _of_noun(noun: str, other: str | None = None) -> RelationNouns:
    """Return the nouns of a relation whose tail is the `noun` of its head."""
    other = other or converse(noun.casefold())
    if other is not None:
        return RelationNouns(noun, other)
    asked = (f"Whose {noun} is {{n}}?", f"What has {{n}} as its {noun}?")
    return RelationNouns(noun, f"entity with this {noun}", (), asked)


def _done_by_head(word: str) -> RelationNouns:
    """Return the nouns of a verb whose subject is the head: "acquired"."""
    doing = verb(word)
    assert doing is not None
    done = converse(doing.agent) or f"{doing.participle} entity"
    of_head: tuple[str, ...] = (f"What was {doing.participle} by {{n}}?",)
    if doing.base:
        of_head = (f"What did {{n}} {doing.base}?", *of_head)
    of_tail = (f"Who or what {doing.past} {{n}}?", f"What was {{n}} {doing.participle} by?")
    return RelationNouns(done, doing.agent, of_head, of_tail)


def _before_preposition(words: list[str], preposition: str) -> RelationNouns:
    doing = verb(words[-1], governs=True)
    if doing is not None and preposition == "by":
        return _done_by_head(words[-1]).swapped()
    if doing is not None and len(words) == 1:
        return _verb_and_preposition(words[0], preposition)
    if preposition == "by" and verb(words[0], governs=True) is not None:  # "carried out by"
        done = " ".join(words)
        asked = ((f"What was {{n}} {done} by?",), (f"What was {done} by {{n}}?",))
        return RelationNouns("responsible party", f"entity {done} by it", *asked)
    noun = " ".join(words)
    if preposition in ("of", "in", "at", "for", "to"):  # "capital of": the head is the capital of the tail
        return _of_noun(noun).swapped()
    return _of_noun(f"{noun} {PREPOSITIONS[preposition]}")


def _verb_and_preposition(word: str, preposition: str) -> RelationNouns:
    doing = verb(word, governs=True)
    assert doing is not None
    gerund = doing.gerund or (word[:-2] + "ing")
    active = doing.base in _ACTIVE or word not in (doing.past, doing.participle)
    led_to = PREPOSITIONS[preposition]
    of_head = f"place of {gerund}" if led_to == "place" else f"{gerund} {led_to}"
    of_tail = f"entity {gerund if active else doing.participle} {'there' if preposition in _WHERE else preposition + ' it'}"
    if active and doing.base:
        ask = f"Where did {{n}} {doing.base}?" if preposition in _WHERE else f"What did {{n}} {doing.base} {preposition}?"
        back = f"Who or what {doing.past} {preposition} {{n}}?"
    else:
        was = f"was {{n}} {doing.participle}"
        ask = f"Where {was}?" if preposition in _WHERE else f"What {was} {preposition}?"
        back = f"What was {doing.participle} {preposition} {{n}}?"
    return RelationNouns(of_head, of_tail, (ask,), (back,))


class RelationNamer:
    """Names relations as nouns, each once: given names first, then a chat model's, then the rules'.

    Args:
        chat: asked once per relation; it is told the relation and nothing of the entities. A reply that is no
            usable pair of nouns is counted in ``refused`` and the rules name the relation. What it raises is
            not caught; relations named before that stay named.
        given: nouns by relation label, which need no model and no rule.

    Raises:
        ConfigurationError: a given noun is not usable.
    """

    def __init__(self, chat: ChatModel | None = None, given: Mapping[str, RelationNouns] | None = None) -> None:
        self._chat = chat
        self._named: dict[str, RelationNouns | None] = {}
        self._owner: dict[tuple[str, str], str] = {}
        self.refused: dict[str, str] = {}
        """Relation -> why the chat model's nouns for it were not taken."""
        for label, nouns in (given or {}).items():
            for noun in (nouns.of_head, nouns.of_tail):
                if problem := _noun_problem(noun):
                    raise ConfigurationError(f"relation {label!r}: expected a noun, got {noun!r}: {problem}")
            for question in (*nouns.ask_of_head, *nouns.ask_of_tail):
                if question.count("{n}") != 1 or "{" in question.replace("{n}", ""):
                    raise ConfigurationError(f"relation {label!r}: expected a question with one {{n}}, got {question!r}")
            self._named[label] = replace(nouns, source="given")
            self._own(label, nouns)

    @property
    def named(self) -> dict[str, RelationNouns]:
        """The relations named so far; ``given=`` takes them back in another run."""
        return {label: nouns for label, nouns in self._named.items() if nouns is not None}

    def __call__(self, label: str) -> RelationNouns | None:
        """Return the nouns of a relation; None if its label has no words."""
        if label not in self._named:
            by_rules = named_by_rules(label)
            by_model = self._by_model(label, by_rules) if self._chat is not None and by_rules is not None else None
            nouns = self._named[label] = by_model or by_rules
            if nouns is not None:
                self._own(label, nouns)
        return self._named[label]

    def _own(self, label: str, nouns: RelationNouns) -> None:
        self._owner.setdefault(("head", nouns.of_head.casefold()), label)
        self._owner.setdefault(("tail", nouns.of_tail.casefold()), label)

    def _by_model(self, label: str, by_rules: RelationNouns) -> RelationNouns | None:
        assert self._chat is not None
        question = f"relation: {label} (in words: {' '.join(relation_words(label))})"
        reply = self._chat([{"role": "system", "content": _PROMPT}, {"role": "user", "content": question}])
        try:
            of_head, of_tail = _parsed(reply)
            self._check_distinct(label, of_head, of_tail, by_rules)
        except ValueError as error:
            self.refused[label] = str(error)
            return None
        return RelationNouns(of_head, of_tail, by_rules.ask_of_head, by_rules.ask_of_tail, "model")

    def _check_distinct(self, label: str, of_head: str, of_tail: str, by_rules: RelationNouns) -> None:
        if of_head.casefold() == of_tail.casefold() and not by_rules.symmetric:
            raise ValueError(f"the same noun for both directions: {of_head!r}")
        for side, noun in (("head", of_head), ("tail", of_tail)):
            owner = self._owner.get((side, noun.casefold()))
            if owner is not None:  # two relations under one noun would mix their values
                raise ValueError(f"{noun!r} is taken by {owner!r}")


def _parsed(reply: object) -> tuple[str, str]:
    """Return the two nouns of a chat model's reply.

    Raises:
        ValueError: it is not an object with two usable nouns.
    """
    found = re.search(r"\{[^{}]*\}", reply) if isinstance(reply, str) else None
    if found is None:
        raise ValueError("expected a JSON object")
    try:
        data = json.loads(found.group())
    except json.JSONDecodeError:
        raise ValueError("not JSON") from None
    nouns = []
    for side in ("tail", "head"):
        noun = data.get(side)
        if not isinstance(noun, str):
            raise ValueError(f"expected a text under {side!r}")
        noun = re.sub(r"^(?:the|a|an)\s+", "", " ".join(noun.split()).rstrip("."), flags=re.IGNORECASE)
        if problem := _noun_problem(noun):
            raise ValueError(f"{noun!r}: {problem}")
        nouns.append(noun)
    return nouns[0], nouns[1]


def _noun_problem(noun: str) -> str:
    words = noun.split()
    if not words or len(words) > MAX_NOUN_WORDS or len(noun) > MAX_NOUN:
        return f"expected 1 to {MAX_NOUN_WORDS} words and at most {MAX_NOUN} characters"
    if not re.fullmatch(r"[^\W\d_][\w '’/&-]*", noun) or "_" in noun:
        return "expected letters"
    if words[-1].lower() in PREPOSITIONS or words[0].lower() in _AUXILIARY | _HAVING:
        return "expected a noun, not a verb phrase"
    return ""
