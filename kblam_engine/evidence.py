"""Evidence that a triple answers a question: is it this name, is it this property (DESIGN 3.4).

Retrieval scores rank triples, but hardly tell "the battery life of the Narwhal" from that of the Orca. So
every candidate is looked at in parts: how much of its name the conversation mentions and where, which
telling words of the question nothing in the candidate explains, how close the question without the name
is to the property and to the other properties of the same name, and whether the value has the shape that
the question asks for. A small calibrated head turns these into one probability per candidate; what no
candidate answers is the null triple's.

Features are plain numbers that mean the same in every domain: the head is trained on many sources and
judged on others. No LLM in here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kblam_engine.triples import Triple

Floats = NDArray[np.float32]

_WORD = re.compile(r"[^\W\d_]+|\d+", re.UNICODE)
_ASKS = {
    "who": r"\bwho(?:m|se|'s)?\b|\bby whom\b|\bperson\b",
    "when": r"\bwhen\b|\bwhat (?:day|date|year|time)\b|\bhow old\b|\bdeadline\b|\buntil\b",
    "where": r"\bwhere\b|\bwhich (?:city|town|country|place|room)\b|\blocated\b|\baddress\b",
    "many": r"\bhow (?:many|much|long|far|tall|heavy|big|fast|hot|high|large|deep|wide|often|strong|dense)\b|\bnumber\b",
    "cost": r"\bcosts?\b|\bprice\b|\bpay\b|\bfee\b|\bexpensive\b|\bcharge[sd]?\b|\bmoney\b",
    "mail": r"\be-?mail\b|\bmail\b|\bwrite to\b|\bphone\b|\bcall\b|\bcontact\b|\breach\b",
    "why": r"\bwhy\b|\bwhat (?:is|are|does|do)\b|\bexplain\b|\bdescribe\b|\bdefin|\bmeans?\b",
    "yes": r"^(?:is|are|does|do|can|has|have|will|did|was|may)\b",
}
_ASKS_RE = tuple(re.compile(p) for p in _ASKS.values())
_FUNCTION_WORDS = frozenset(
    "a an the of for to in on at by is are was were be do does did i it its he she they we you and or what when where "
    "who which how why can could would please me my our your this that with from about s".split()
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

FEATURES = (
    "cos_turn", "cos_conversation", "cos_hidden", "rank_score",
    "name_in_turn", "name_phrase_in_turn", "name_identifier_in_turn", "name_in_history", "name_recency",
    "other_name_margin", "any_name_in_turn", "fuzzy_name",
    "unexplained_sum", "unexplained_max", "unexplained_share", "unexplained_number",
    "unexplained_capital", "unexplained_beside_name",
    "property_cos", "property_sibling_margin", "property_kb_margin", "property_words", "property_words_margin",
    "value_cos", "value_sibling_margin", "compared", "compared_sibling_margin", "compared_margin",
    "n_siblings", "turn_length", "is_first_turn",
    *(f"asks_{k}" for k in _ASKS),
    *(f"value_{k}" for k in ("number", "date", "money", "person", "address", "long", "capital")),
)  # fmt: skip


def words(text: str) -> list[str]:
    """Return the case-folded words and numbers of a text; "e-mail2" is "e", "mail", "2"."""
    return _WORD.findall(text.casefold())


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
    if sorted(a) == sorted(b) and a[0] == b[0]:
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
    return 0.7 if wrong <= 1 and len(longer) >= 5 else 0.0


@dataclass(frozen=True)
class Candidate:
    """A triple that retrieval found, with its scores.

    Attributes:
        triple: the triple.
        name_id: equal for triples of one name.
        cos_turn: cosine of the key and the last user message.
        cos_conversation: cosine of the key and the user's messages so far.
        cos_hidden: score of the key against the LLM's hidden state, 0 without one.
    """

    triple: Triple
    name_id: int
    cos_turn: float
    cos_conversation: float
    cos_hidden: float = 0.0

    @property
    def score(self) -> float:
        """What the candidates are ordered by before the evidence is in."""
        return max(self.cos_turn, 0.97 * self.cos_conversation) + self.cos_hidden


@dataclass(frozen=True)
class CandidateEmbeddings:
    """Embeddings that evidence is read from.

    Attributes:
        properties: f(property) of each candidate, [n, embed_dim].
        values: f(value) of each candidate, [n, embed_dim].
        all_properties: f(property) of every property in the KB, [n_properties, embed_dim].
    """

    properties: Floats
    values: Floats
    all_properties: Floats


@dataclass(frozen=True)
class Comparison:
    """A learned comparison: a question, its name masked, with a property and its value.

    The maps [embed_dim, embed_dim] are applied from the right; the score is a cosine.
    """

    question_map: Floats
    property_map: Floats
    value_map: Floats

    def scores(self, questions: Floats, properties: Floats, values: Floats) -> Floats:
        """Return one score per row of the three [n, embed_dim]."""
        asked = questions @ self.question_map
        keys = properties @ self.property_map + values @ self.value_map
        lengths = np.linalg.norm(asked, axis=1) * np.linalg.norm(keys, axis=1) + 1e-6
        scores: Floats = np.einsum("nd,nd->n", asked, keys) / lengths
        return scores


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
        if len(word) == 1:
            return 0.1
        best = min((self._token_ids(" " + w) for w in (word, word.capitalize())), key=len)
        if len(best) == 1:
            return float(np.log1p(best[0] / 500)) / self._scale
        return min(1.6, 0.8 + 0.2 * len(best))


class Examiner:
    """Computes the features of candidates; pure functions of its arguments but for a word cache."""

    def __init__(self, rarity: Rarity) -> None:
        """Keep the rarity of words."""
        self.rarity = rarity

    def mask_name(self, turn: str, name: str) -> str:
        """Return the turn with the words of ``name`` replaced by "it", for comparison with properties."""
        name_words = [w for w in words(name) if self.rarity(w) > 0.25 or w.isdigit()]
        masked, last_end, previous_masked = [], 0, False
        for found in _WORD.finditer(turn):
            word = found.group().casefold()
            hit = any(same_word(word, n) > 0 for n in name_words)
            between = turn[last_end : found.start()]
            if not (hit and previous_masked and not between.strip(" -'’.&")):
                masked.append(between)
                masked.append("it" if hit else found.group())
            last_end, previous_masked = found.end(), hit
        return "".join((*masked, turn[last_end:]))

    def features(
        self,
        messages: Sequence[dict[str, str]],
        candidates: Sequence[Candidate],
        asked: dict[int, Floats],
        table: CandidateEmbeddings,
        comparison: Comparison,
    ) -> Floats:
        """Return one row of ``FEATURES`` per candidate.

        Args:
            messages: the conversation; the last is the user's.
            candidates: what retrieval found, best first.
            asked: per name id the embedding of the turn with that name masked; -1: the turn itself.
            table: the candidates' embeddings.
            comparison: the learned comparison of questions with properties and values.
        """
        turn = messages[-1]["content"]
        turn_words = words(turn)
        history = [words(m["content"]) for m in messages[:-1] if m["role"] != "system"]
        names = {c.name_id: c.triple.name for c in candidates}
        mentions = {i: self._mention(words(n), turn_words, history) for i, n in names.items()}
        asked_rows = np.stack([asked.get(c.name_id, asked[-1]) for c in candidates])
        best_of = {i: float((table.all_properties @ row).max()) for i, row in asked.items()}
        kb_best = {i: best_of.get(i, best_of[-1]) for i in names}
        own_property = np.einsum("nd,nd->n", table.properties, asked_rows)
        own_value = np.einsum("nd,nd->n", table.values, asked_rows)
        compared = comparison.scores(asked_rows, table.properties, table.values)
        name_ids = np.array([c.name_id for c in candidates])
        stems = {stem(w) for w in turn_words if self.rarity(w) > 0.2}
        overlap = np.array([self._overlap(c.triple.property, stems) for c in candidates], np.float32)
        asks = [1.0 if p.search(turn.casefold()) else 0.0 for p in _ASKS_RE]
        best_turn = max((m[0] for m in mentions.values()), default=0.0)
        best_score = max((c.score for c in candidates), default=0.0)
        left_over = {i: self._left_over(turn, n) for i, n in names.items()}
        rows = np.zeros((len(candidates), len(FEATURES)), np.float32)
        for at, c in enumerate(candidates):
            mine = mentions[c.name_id]
            others = max((m[0] for i, m in mentions.items() if i != c.name_id), default=0.0)
            siblings = name_ids == c.name_id
            siblings[at] = False
            rows[at] = (
                c.cos_turn, c.cos_conversation, c.cos_hidden, c.score - best_score,
                mine[0], mine[1], mine[2], mine[3], mine[4],
                mine[0] - others, best_turn, mine[5],
                *self._unexplained(turn_words, c.triple), *left_over[c.name_id],
                own_property[at], _lead(own_property, at, siblings), own_property[at] - kb_best[c.name_id],
                overlap[at], _lead(overlap, at, siblings),
                own_value[at], _lead(own_value, at, siblings),
                compared[at], _lead(compared, at, siblings), compared[at] - compared.max(),
                np.log1p(siblings.sum()), np.log1p(len(turn_words)), float(not history),
                *asks, *_value_shape(c.triple.value),
            )  # fmt: skip
        return rows

    def _left_over(self, turn: str, name: str) -> tuple[float, float]:
        """Return what the name leaves of other names in the turn: capitalised words, telling words beside it."""
        found = list(_WORD.finditer(turn))
        name_words = words(name)
        hits = [any(same_word(f.group().casefold(), n) > 0 for n in name_words) for f in found]
        capitals = beside = 0.0
        for at, f in enumerate(found):
            word = f.group()
            if hits[at] or word.casefold() in _FUNCTION_WORDS:
                continue
            starts = at == 0 or turn[: f.start()].rstrip()[-1:] in (".", "?", "!", ":", "")
            marked = word.isdigit() or (word[0].isupper() and not starts)
            if marked:
                capitals += 1.0
            if (at > 0 and hits[at - 1]) or (at + 1 < len(hits) and hits[at + 1]):
                single = len(word) == 1 and word.isalpha()
                beside = max(beside, 1.0 if marked or single else 0.5 * self.rarity(word.casefold()))
        return capitals, beside

    def _mention(
        self, name: list[str], turn: list[str], history: list[list[str]]
    ) -> tuple[float, float, float, float, float, float]:
        """Return how the turn and the history mention a name.

        (weighted share of its words in the turn, whole phrase in the turn, its most telling word in the
        turn, share in the history, how recently, share in the turn that is only nearly the same word)
        """
        weights = [0.15 + self.rarity(w) for w in name] or [1.0]
        total = sum(weights)
        found = [max((same_word(w, t) for t in turn), default=0.0) for w in name] or [0.0]
        in_turn = sum(w * f for w, f in zip(weights, found, strict=True)) / total
        fuzzy = sum(w for w, f in zip(weights, found, strict=True) if 0 < f < 0.9) / total
        phrase = float(bool(name) and " ".join(name) in " ".join(turn))
        # A number in a name ("ERR-2041 Loss of signal") identifies it; without one, its rarest word does.
        numbers = [f for w, f in zip(name, found, strict=False) if w.isdigit()]
        telling = min(numbers) if numbers else found[int(np.argmax(weights))] if name else 0.0
        share, recency = 0.0, 0.0
        for age, message in enumerate(reversed(history)):
            seen = set(message)
            covered = sum(w for w, n in zip(weights, name, strict=False) if n in seen) / total
            if covered > share + 0.05:
                share, recency = covered, 1.0 / (1 + age)
        return in_turn, phrase, telling, share, recency, fuzzy

    def _unexplained(self, turn: list[str], triple: Triple) -> tuple[float, float, float, float]:
        """Return what telling words of the turn are in neither name nor property: sum, maximum, share, numbers."""
        name, prop = words(triple.name), {stem(w) for w in words(triple.property)}
        value = set(words(triple.value))
        total = left = most = numbers = 0.0
        for word in set(turn):
            weight = max(0.0, self.rarity(word) - 0.3)
            total += weight
            if stem(word) in prop or any(same_word(word, n) > 0 for n in name):
                continue
            if word.isdigit():
                numbers += 0.0 if word in value else 1.0
            left += weight
            most = max(most, weight)
        return left, most, left / total if total else 0.0, numbers

    def _overlap(self, property_name: str, stems: set[str]) -> float:
        telling = [stem(w) for w in words(property_name) if len(w) > 2]
        return sum(s in stems for s in telling) / len(telling) if telling else 0.0


def _lead(scores: Floats, at: int, siblings: NDArray[np.bool_]) -> float:
    """Return how far a candidate's score is ahead of its best sibling's (of 0 without siblings)."""
    return float(scores[at] - scores[siblings].max()) if siblings.any() else float(scores[at])


def _value_shape(value: str) -> tuple[float, ...]:
    digits = sum(ch.isdigit() for ch in value) / max(1, len(value))
    return (
        digits,
        float(bool(_DATE.search(value))),
        float(bool(_MONEY.search(value))),
        float(bool(_PERSON.match(value))),
        float(bool(_ADDRESS.search(value))),
        min(1.0, len(value.split()) / 20),
        float(value[:1].isupper()),
    )


class EvidenceHead(nn.Module):
    """Features to the log-odds that the candidate answers (part of) the question; a small MLP.

    Shapes: [n, len(FEATURES)] -> [n].
    """

    def __init__(self, hidden: int = 32, embed_dim: int = 384) -> None:
        """Make a head; ``mean`` and ``scale`` standardise its input and are set from training data."""
        super().__init__()
        n = len(FEATURES)
        self.mean = nn.Parameter(torch.zeros(n), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(n), requires_grad=False)
        self.inner = nn.Linear(n, hidden)
        self.outer = nn.Linear(hidden, 1)
        self.direct = nn.Linear(n, 1, bias=False)
        self.question_map = nn.Parameter(torch.eye(embed_dim))
        self.property_map = nn.Parameter(torch.eye(embed_dim))
        self.value_map = nn.Parameter(torch.eye(embed_dim) * 0.5)

    def comparison(self) -> Comparison:
        """Return the learned comparison as arrays."""
        return Comparison(
            *(
                m.detach().float().cpu().numpy()
                for m in (self.question_map, self.property_map, self.value_map)
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return log-odds."""
        x = ((features - self.mean) * self.scale).clamp(-5, 5)
        log_odds: Tensor = (self.outer(torch.tanh(self.inner(x))) + self.direct(x)).squeeze(-1)
        return log_odds
