"""Words: what evidence is read from in plain text. No tensors, no embeddings.

Everything here means the same in every domain: words and their near-equals, how telling a word is, what kind of
answer a question asks for and what kind a value is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

WORD = re.compile(r"[^\W\d_]+|\d+", re.UNICODE)
ASKS = {
    "who": r"\bwho(?:m|se|'s)?\b|\bby whom\b|\bperson\b",
    "when": r"\bwhen\b|\bwhat (?:day|date|year|time)\b|\bhow old\b|\bdeadline\b|\buntil\b",
    "where": r"\bwhere\b|\bwhich (?:city|town|country|place|room)\b|\blocated\b|\baddress\b",
    "many": r"\bhow (?:many|much|long|far|tall|heavy|big|fast|hot|high|large|deep|wide|often|strong|dense)\b|\bnumber\b",
    "cost": r"\bcosts?\b|\bprice\b|\bpay\b|\bfee\b|\bexpensive\b|\bcharge[sd]?\b|\bmoney\b",
    "mail": r"\be-?mail\b|\bmail\b|\bwrite to\b|\bphone\b|\bcall\b|\bcontact\b|\breach\b",
    "why": r"\bwhy\b|\bwhat (?:is|are|does|do)\b|\bexplain\b|\bdescribe\b|\bdefin|\bmeans?\b",
    "two": r"\band\b|\bboth\b|\bvs\b|\bversus\b|\bcompar|\bdiffer|;|\?.+\?",
    "yes": r"^(?:is|are|does|do|can|has|have|will|did|was|may)\b",
}
_REFERS_BACK = re.compile(
    r"^\W*(?:and|also|but|so|then|or|ok|okay)\b|\b(?:what|how) about\b|"
    r"\b(?:it|its|they|them|their|theirs|he|him|his|she|her|hers|this|that|these|those|there|one|ones|same|former|latter)\b",
    re.IGNORECASE,
)
_ASKS_RE = tuple(re.compile(p) for p in ASKS.values())
_ASKS_TWO = re.compile(ASKS["two"])
_GOES_ON = re.compile(r"^\W*(?:and|but|so|ok|okay)\b")
FUNCTION_WORDS = frozenset(
    "a an the of for to in on at by is are was were be do does did i it its he she they we you and or what when where "
    "who which how why can could would please me my our your this that with from about s t d m ll re ve".split()
)
_PERSON = re.compile(
    r"^(?:(?:Dr|Prof|Mr|Mrs|Ms)\.? )?[A-ZÀ-Þ][\w'’-]+(?: (?:[A-Z]\.|de|van|von|da|al|[A-ZÀ-Þ][\w'’-]+)){1,3}$"
)
_DATE = re.compile(
    r"\b(?:1[5-9]\d\d|20\d\d)\b|\b(?:january|february|march|april|may|june|july|august|september|october|november|"
    r"december|monday|tuesday|wednesday|thursday|friday|saturday|sunday|daily)\b|\d{1,2}:\d\d",
    re.IGNORECASE,
)
_MONEY = re.compile(r"[€$£¥]|\b(?:euros?|dollars?|usd|eur|gbp|free)\b", re.IGNORECASE)
_ADDRESS = re.compile(r"@|#\w|\+\d|\d{3}[ -]\d{3,}|https?:|www\.")

VALUE_KINDS = ("number", "date", "money", "person", "address", "long", "capital")


def words(text: str) -> list[str]:
    """Return the case-folded words and numbers of a text; "e-mail2" is "e", "mail", "2"."""
    return WORD.findall(text.casefold())


@lru_cache(maxsize=65536)
def short_name(name: str) -> tuple[str, ...]:
    """Return the words that a name is called by: of a numbered title ("NX-117 Hot surface near solvents") the number."""
    parts = name.split()
    numbered = next((i for i, part in enumerate(parts[:3]) if any(c.isdigit() for c in part)), None)
    if numbered is not None and len(parts) >= max(4, numbered + 3):
        parts = parts[: numbered + 1]
    return tuple(words(" ".join(parts)))


def spans_of(phrase: Sequence[str], text: Sequence[str]) -> list[range]:
    """Return where the words of a phrase stand in a row."""
    n = len(phrase)
    return [
        range(i, i + n) for i in range(len(text) - n + 1) if n and all(text[i + j] == phrase[j] for j in range(n))
    ]


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Return a crude stem, enough to see that "weighs" and "weight" share a beginning."""
    for ending in ("ations", "ation", "ings", "ing", "ies", "ed", "es", "s", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


@lru_cache(maxsize=65536)
def same_word(a: str, b: str) -> float:
    """Return how far two words are the same up to a typing mistake: 1 equal, 0 different."""
    if a == b:
        return 1.0
    if min(len(a), len(b)) < 4 or abs(len(a) - len(b)) > 2 or a.isdigit() or b.isdigit():
        return 0.0
    if a[0] != b[0] and a[-1] != b[-1]:  # one slip leaves the first letter or the last; most words end here
        return 0.0
    if a[0] == b[0] and sorted(a) == sorted(b):
        return 0.8  # letters swapped
    if a.rstrip("s") == b.rstrip("s"):
        return 0.95
    shorter, longer = sorted((a, b), key=len)
    head = next((i for i, (x, y) in enumerate(zip(shorter, longer, strict=False)) if x != y), len(shorter))
    tail = next(
        (i for i, (x, y) in enumerate(zip(reversed(shorter), reversed(longer), strict=False)) if x != y),
        len(shorter),
    )
    wrong = max(len(longer) - head - tail, 0)
    if wrong > 1 or len(longer) < 5:
        return 0.0
    # A letter left out or doubled is a slip; another letter in its place may well be another word.
    return 0.7 if len(longer) > len(shorter) else 0.5


class Rarity:
    """How telling a word is, from the LLM's own vocabulary: frequent words are early, single tokens."""

    def __init__(self, token_ids: Callable[[str], list[int]], vocabulary: int) -> None:
        """Keep the tokenizer's function from text to ids."""
        self._token_ids = token_ids
        self._scale = float(np.log1p(vocabulary / 500))
        self._of = lru_cache(maxsize=65536)(self._rarity)

    def __call__(self, word: str) -> float:
        """Return 0 for the commonest words, 1 for rare ones, up to 1.6 for words in many pieces."""
        return self._of(word)

    def _rarity(self, word: str) -> float:
        if word.isdigit():
            return 1.0
        if len(word) == 1:  # "length b" is not "length a"
            return 0.1 if word in FUNCTION_WORDS else 0.6
        best = min((self._token_ids(" " + w) for w in (word, word.capitalize())), key=len)
        if len(best) == 1:
            return float(np.log1p(best[0] / 500)) / self._scale
        return min(1.6, 0.8 + 0.2 * len(best))


def asks(turn: str) -> list[float]:
    """Return one number per kind in ``ASKS``: 1 where the question asks for it."""
    return [1.0 if p.search(turn.casefold()) else 0.0 for p in _ASKS_RE]


def n_asked(turn: str) -> int:
    """Return how many triples a turn asks for, as far as its words tell: 2 for "X and Y", not for "And X?"."""
    return 2 if _ASKS_TWO.search(_GOES_ON.sub("", turn.casefold())) else 1


def refers_back(turn: str) -> bool:
    """Say whether a turn has a word that may stand for what was said before ("it", "there"), or goes on ("And ...")."""
    return bool(_REFERS_BACK.search(turn))


@lru_cache(maxsize=65536)
def stems_of(text: str) -> frozenset[str]:
    """Return the stems of a text's words, and its numbers."""
    return frozenset(stem(word) for word in words(text))


def value_shape(value: str) -> tuple[float, ...]:
    """Return one number per kind in ``VALUE_KINDS``: how far the value looks like it."""
    digits = sum(map(str.isdigit, value)) / max(1, len(value))
    return (
        digits,
        float(bool(_DATE.search(value))),
        float(bool(_MONEY.search(value))),
        float(bool(_PERSON.match(value))),
        float(bool(_ADDRESS.search(value))),
        min(1.0, len(value.split()) / 20),
        float(value[:1].isupper()),
    )
