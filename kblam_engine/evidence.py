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

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kblam_engine.leads import best_of_others, leads_among_siblings, leads_of_names
from kblam_engine.products import Floats, product
from kblam_engine.triples import Triple
from kblam_engine.word_evidence import left_over, mention_of, overlap, places_of, turn_words, unexplained
from kblam_engine.wording import (
    ASKS,
    VALUE_KINDS,
    Rarity,
    asks,
    refers_back,
    short_name,
    spans_of,
    stem,
    value_shape,
    words,
)

FEATURES = (
    "cos_turn", "cos_conversation", "cos_hidden", "rank_score", "name_score_lead", "name_conversation_lead",
    "name_cos", "name_cos_conversation", "name_cos_lead",
    "statement_cos", "statement_lead", "name_value_lead",
    "name_in_turn", "name_phrase_in_turn", "name_identifier_in_turn", "name_in_history", "name_recency",
    "other_name_margin", "any_name_in_turn", "fuzzy_name",
    "turn_by_name", "turn_by_name_margin", "names_as_good",
    "unexplained_number", "unexplained_word", "unexplained_share",
    "unexplained_capital", "unexplained_beside_name", "refers_back",
    "property_cos", "property_sibling_margin", "property_kb_margin", "property_words", "property_words_margin",
    "property_words_kb_margin", "compared_kb_margin",
    "value_cos", "value_sibling_margin", "compared", "compared_sibling_margin", "compared_margin",
    "n_siblings", "turn_length", "is_first_turn",
    *(f"asks_{k}" for k in ASKS),
    *(f"value_{k}" for k in VALUE_KINDS),
)  # fmt: skip


VALUE_SHARE = 0.3
"""Weight of the value beside the key where the two stand for the statement "the property of name is value"."""
N_RIVALS = 24
"""Properties of the KB that are compared with the question, besides the candidates' own."""


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
        keys: f(the property of the name) of each candidate, [n, embed_dim].
        properties: f(property) of each candidate, [n, embed_dim].
        values: f(value) of each candidate, [n, embed_dim].
        all_properties: f(property) of every property in the KB, [n_properties, embed_dim].
        property_names: those properties.
    """

    keys: Floats
    properties: Floats
    values: Floats
    all_properties: Floats
    property_names: Sequence[str]


@dataclass(frozen=True)
class Comparison:
    """A learned comparison: a question, its name masked, with a property and its value.

    The maps [embed_dim, embed_dim] are applied from the right; the score is a cosine.
    """

    question_map: Floats
    property_map: Floats
    value_map: Floats

    def questions(self, rows: Floats) -> Floats:
        """Return mapped questions, [n, embed_dim]."""
        return product(rows, self.question_map)

    def properties(self, rows: Floats) -> Floats:
        """Return mapped properties, [n, embed_dim], to compare with mapped questions."""
        return product(rows, self.property_map)

    def values(self, rows: Floats) -> Floats:
        """Return mapped values, [n, embed_dim]; added to its mapped property a value joins the comparison."""
        return product(rows, self.value_map)

    def scores(self, questions: Floats, properties: Floats, values: Floats) -> Floats:
        """Return one score per row of the three [n, embed_dim]."""
        return cosines(self.questions(questions), self.properties(properties) + self.values(values))


def cosines(a: Floats, b: Floats) -> Floats:
    """Return the cosine of each row of the two [n, d]; 0 for a row of zeros."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1) + 1e-6
    found: Floats = np.einsum("nd,nd->n", a, b) / lengths
    return found


def name_cosines(queries: Floats, table: CandidateEmbeddings) -> Floats:
    """Return how close queries are to the names of candidates, whatever their properties, [n_queries, n].

    A key holds name and property. With the property's direction taken out of key and query, what is left of the two is
    about the name, and about what the query says in its place; no name needs an embedding of its own.

    Args:
        queries: [n_queries, embed_dim].
        table: the candidates' embeddings.
    """
    names = _without(table.keys, table.properties)
    rows = (np.broadcast_to(query, names.shape) for query in queries)
    return np.stack([cosines(_without(row, table.properties), names) for row in rows])


def _without(rows: Floats, directions: Floats) -> Floats:
    """Return rows less what lies along unit directions; both [n, d]."""
    along: Floats = np.einsum("nd,nd->n", rows, directions)
    return rows - along[:, None] * directions


def _best_cosines(queries: Floats, rows: Floats) -> Floats:
    """Return the cosine of each row [n, d] with the query it is closest to."""
    lengths = np.linalg.norm(rows, axis=1) + 1e-6
    found: Floats = product(rows, np.ascontiguousarray(queries.T)).max(1) / lengths
    return found


class Examiner:
    """Computes the features of candidates; pure functions of its arguments but for a word cache."""

    def __init__(self, rarity: Rarity) -> None:
        """Keep the rarity of words."""
        self.rarity = rarity

    def mask_name(self, turn: str, name: str, by: str = "it") -> str:
        """Return the turn with the words of ``name`` replaced by "it" (or another word), to compare what is left."""
        said = turn_words(turn)
        hits = said.alike_any(w for w in words(name) if self.rarity(w) > 0.25 or w.isdigit())
        if not hits:
            return turn
        masked, last_end, previous_masked = [], 0, False
        for found, word in zip(said.places, said.at_places, strict=True):
            hit = word in hits
            between = turn[last_end : found.start()]
            if not (hit and previous_masked and not between.strip(" -'’.&")):
                masked.append(between)
                masked.append(by if hit else found.group())
            last_end, previous_masked = found.end(), hit
        return "".join((*masked, turn[last_end:]))

    def features(
        self,
        messages: Sequence[dict[str, str]],
        candidates: Sequence[Candidate],
        asked: dict[int, Floats],
        conversation: Floats,
        table: CandidateEmbeddings,
        comparison: Comparison,
    ) -> Floats:
        """Return one row of ``FEATURES`` per candidate.

        Args:
            messages: the conversation; the last is the user's.
            candidates: what retrieval found, best first.
            asked: per name id the embedding of the turn with that name masked; -1: the turn itself.
            conversation: embedding of the user's messages so far, [embed_dim].
            table: the candidates' embeddings.
            comparison: the learned comparison of questions with properties and values.
        """
        turn = messages[-1]["content"]
        said = turn_words(turn)
        history = [frozenset(words(m["content"])) for m in messages[:-1] if m["role"] != "system"]
        names = {c.name_id: c.triple.name for c in candidates}
        name_words = {i: words(n) for i, n in names.items()}
        spans = {
            i: spans_of(name_words[i], said.words) or spans_of(short_name(n), said.words) for i, n in names.items()
        }
        mentions = {i: mention_of(n, said, history, self.rarity) for i, n in name_words.items()}
        # A turn is masked for a few names only: what depends on the masked turn alone is computed once for each.
        row_of = {name_id: row for row, name_id in enumerate(asked)}
        asked_at = np.array([row_of.get(c.name_id, row_of[-1]) for c in candidates])
        questions = np.stack(list(asked.values()))
        mapped, asked_rows = comparison.questions(questions), questions[asked_at]
        stems = {stem(w) for w in said.words if self.rarity(w) > 0.2}
        rivals = [self._rivals(q, m, stems, table, comparison) for q, m in zip(questions, mapped, strict=True)]
        own_property = np.einsum("nd,nd->n", table.properties, asked_rows)
        own_value = np.einsum("nd,nd->n", table.values, asked_rows)
        properties = comparison.properties(table.properties)
        compared = cosines(mapped[asked_at], properties + comparison.values(table.values))
        by_property = cosines(mapped[asked_at], properties)
        name_ids = [c.name_id for c in candidates]
        shared = np.array([overlap(c.triple.property, stems) for c in candidates], np.float32)
        kinds = asks(turn)
        best_turn = max((m.in_turn for m in mentions.values()), default=0.0)
        best_score = max((c.score for c in candidates), default=0.0)
        queries = np.stack((asked[-1], conversation))
        name_cos, name_cos_conversation = name_cosines(queries, table)
        name_cos_leads = leads_of_names(name_ids, np.maximum(name_cos, name_cos_conversation).tolist())
        # What is not named is described, at times by what another of its triples says.
        statement_cos = _best_cosines(queries, table.keys + VALUE_SHARE * table.values)
        statement_leads = leads_of_names(name_ids, statement_cos.tolist())
        value_leads = leads_of_names(name_ids, _best_cosines(queries, table.values).tolist())
        score_leads = leads_of_names(name_ids, [c.score for c in candidates])
        conversation_leads = leads_of_names(name_ids, [c.cos_conversation for c in candidates])
        places = places_of(said, self.rarity)
        of_names = {i: said.alike_any(n) for i, n in name_words.items()}
        others_said = {i: left_over(places, of_name, _apart(i, spans)) for i, of_name in of_names.items()}
        # In order: a set's would change the last digit from process to process.
        telling = {w: max(0.0, self.rarity(w) - 0.15) for w in dict.fromkeys(said.words)}
        by_name = {i: sum(weight * m.get(w, 0.0) for w, weight in telling.items()) for i, m in of_names.items()}
        goes_on = refers_back(turn)
        ahead, n_siblings = leads_among_siblings(name_ids, np.stack((own_property, shared, own_value, compared), 1))
        best_compared = compared.max(initial=-np.inf)
        other_mentions, others_explained = best_of_others({i: m.in_turn for i, m in mentions.items()}), best_of_others(by_name)
        ascending = sorted(by_name.values())
        n_as_good = {i: len(ascending) - bisect_left(ascending, x - 0.2) - 1 for i, x in by_name.items()}
        rows = np.zeros((len(candidates), len(FEATURES)), np.float32)
        for at, c in enumerate(candidates):
            mine, rival = mentions[c.name_id], rivals[asked_at[at]]
            explained = by_name[c.name_id]
            rows[at] = (
                c.cos_turn, c.cos_conversation, c.cos_hidden, c.score - best_score,
                score_leads[c.name_id], conversation_leads[c.name_id],
                name_cos[at], name_cos_conversation[at], name_cos_leads[c.name_id],
                statement_cos[at], statement_leads[c.name_id], value_leads[c.name_id],
                mine.in_turn, bool(spans[c.name_id]), mine.identifier, mine.in_history, mine.recency,
                mine.in_turn - other_mentions[c.name_id], best_turn, mine.fuzzy,
                explained, explained - others_explained[c.name_id], np.log1p(n_as_good[c.name_id]),
                *unexplained(telling, of_names[c.name_id], c.triple), *others_said[c.name_id], goes_on,
                own_property[at], ahead[at, 0], own_property[at] - rival.cosine,
                shared[at], ahead[at, 1],
                shared[at] - rival.words, by_property[at] - rival.compared,
                own_value[at], ahead[at, 2],
                compared[at], ahead[at, 3], compared[at] - best_compared,
                np.log1p(n_siblings[at]), np.log1p(len(said.words)), float(not history),
                *kinds, *value_shape(c.triple.value),
            )  # fmt: skip
        return rows

    def _rivals(
        self, asked: Floats, mapped: Floats, stems: set[str], table: CandidateEmbeddings, comparison: Comparison
    ) -> _Rivals:
        """Return how well any property in the KB fits the question: what it asks may be a property of others."""
        scores = product(table.all_properties, asked)
        near = np.argsort(-scores)[:N_RIVALS]
        compared = cosines(mapped[None].repeat(len(near), 0), comparison.properties(table.all_properties[near]))
        shared = max(overlap(table.property_names[i], stems) for i in near)
        return _Rivals(float(scores[near[0]]), shared, float(compared.max()))


@dataclass(frozen=True)
class _Rivals:
    """The best that a property of the KB does against a question: cosine, share of its words, comparison."""

    cosine: float
    words: float
    compared: float


def _apart(name_id: int, spans: dict[int, list[range]]) -> set[int]:
    """Return the places of the turn that belong to other names than this one, which stands somewhere else."""
    own = {at for span in spans[name_id] for at in span}
    if not own:
        return set()
    others = [span for i, each in spans.items() if i != name_id for span in each]
    return {at for span in others if own.isdisjoint(span) for at in span}
