"""The retrieval layer: from a conversation to gated triples of a KB (DESIGN 3.2, 3.4).

The KB query has two linear inputs that are both compared with f("the <property> of <name>") in embedding
space: sentence embeddings of the user's turn and of the user's side of the conversation, and, where the
adapter brings a map for it, the LLM's hidden state at the retrieval layer. The best keys become
candidates; the evidence head turns each into a probability, the gate of its native tokens.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from kblam_engine.ellipsis import completed
from kblam_engine.evidence import FEATURES, Candidate, CandidateEmbeddings, Examiner
from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.key_table import KeySearch, KeyTable
from kblam_engine.knowledge_base.reading_ahead import read_ahead
from kblam_engine.mentions import N_MENTIONED_NAMES, names_mentioned
from kblam_engine.products import Floats, product
from kblam_engine.rival_names import LEAST, MOST, outdone
from kblam_engine.search.exact import scan
from kblam_engine.search.interface import Found
from kblam_engine.sentence_encoder import SentenceEncoder
from kblam_engine.triples import Triple
from kblam_engine.wording import n_asked, words

Message = dict[str, str]
_Name = TypeVar("_Name")

N_NEAREST = 24
"""Candidates taken by score alone."""
N_SIBLING_NAMES = 3
"""Names of the best candidates whose other triples become candidates as well."""
N_SIBLINGS = 24
"""Triples taken per such name at most."""
N_MASKED = 2
"""Names for which the turn is encoded again without the name, where they are made of different words of the turn."""
MASKED_AMONG = 6
"""The best names, among which those are."""
SHUT = -6.0
"""Log-odds of a triple whose name is plainly not meant."""
CONVERSATION_TURNS = 3
"""User turns that make up the conversation's embedding."""


KEPT_KEYS = 100_000
"""Keys of a KB up to this size are kept in float32 beside it (1.5 KB each); larger ones are searched."""
CONVERSATION_SHARE = 0.97
"""Of a score that the conversation gives, beside one of the turn alone."""


class EveryKey:
    """A search that scores every key of a table."""

    def __init__(self, table: KeyTable) -> None:
        """Keep the table."""
        self._table = table

    def search(self, queries: Floats, k: int) -> Found:
        """Return the best positions."""
        return scan(self._table.key_embeddings, queries, k)


@dataclass(frozen=True)
class Retrieved:
    """Candidates of one question, best first.

    Attributes:
        positions: int64 [n], positions in the KB.
        triples: the triples there.
        log_odds: float32 [n], that each answers (part of) the question.
    """

    positions: NDArray[np.int64]
    triples: tuple[Triple, ...]
    log_odds: Floats

    @classmethod
    def nothing(cls) -> Retrieved:
        """Return no candidates."""
        return cls(np.zeros(0, np.int64), (), np.zeros(0, np.float32))

    @property
    def probabilities(self) -> Floats:
        """[n]."""
        return np.exp(-np.logaddexp(0.0, -self.log_odds)).astype(np.float32)


@dataclass(frozen=True)
class Questions:
    """The texts that a conversation is retrieved by."""

    turn: str
    conversation: str

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Questions:
        """Return the last user message, and the last few user messages as one text."""
        said = [m["content"] for m in messages if m["role"] == "user"] or [messages[-1]["content"]]
        return cls(said[-1], " ".join(said[-CONVERSATION_TURNS:]))

    @property
    def n_asked(self) -> int:
        """How many triples the turn asks for, as far as its words tell."""
        return n_asked(self.turn)


def up_to_question(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the conversation up to the last user message: an assistant's unfinished answer asks nothing."""
    last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=len(messages) - 1)
    return messages[: last + 1]


class Retriever:
    """Scores the keys of a KB and weighs the evidence of the best; holds no KB and no conversation."""

    def __init__(
        self,
        encoder: SentenceEncoder,
        examiner: Examiner,
        head: EvidenceHead,
        searcher: Callable[[KeyTable], KeySearch] | None = None,
    ) -> None:
        """Keep the encoder of questions (in the KB's space), the examiner, the trained head, and what searches the keys of large KBs."""
        self.encoder, self.examiner, self.head = encoder, examiner, head
        self._searcher = searcher or EveryKey
        self._comparison = head.comparison()
        self._kept: weakref.WeakKeyDictionary[KeyTable, Floats] = weakref.WeakKeyDictionary()

    def encode(self, messages: Sequence[Message]) -> tuple[Questions, Floats]:
        """Return the texts and their embeddings [2, embed_dim] (turn, conversation)."""
        texts = Questions.of(messages)
        return texts, self.encoder.encode([texts.turn, texts.conversation])

    def retrieve(
        self, messages: Sequence[Message], table: KeyTable, hidden_query: Floats | None = None
    ) -> Retrieved:
        """Return the candidates for a conversation, best first.

        Args:
            messages: the conversation; the last message is the user's.
            table: the KB.
            hidden_query: [embed_dim], the LLM's hidden state mapped to embedding space, if there is one.
        """
        if not len(table):
            return Retrieved.nothing()
        asking = self._completed(messages, table)
        candidates, positions, features = self.examine(asking, table, hidden_query)
        if not candidates:
            return Retrieved.nothing()
        with torch.no_grad():
            log_odds = self.head(torch.from_numpy(features)).numpy()
        log_odds = _without_rivals(log_odds, asking, candidates)
        order = np.argsort(-log_odds, kind="stable")
        chosen = tuple(candidates[i].triple for i in order)
        return Retrieved(positions[order], chosen, log_odds[order])

    def examine(
        self, messages: Sequence[Message], table: KeyTable, hidden_query: Floats | None = None
    ) -> tuple[list[Candidate], NDArray[np.int64], Floats]:
        """Return candidates, their positions and features, ordered by retrieval score; none where the search finds none."""
        messages = up_to_question(messages)
        texts = Questions.of(messages)
        mentioned = names_mentioned(table, texts.conversation, self.examiner.rarity)
        encoded = self._encode_ahead(texts, table, mentioned)
        queries = np.stack([encoded[texts.turn], encoded[texts.conversation]])
        if isinstance(table, KeySearch):
            positions, scores = searched(table, table, queries, hidden_query, mentioned)
        elif len(table) <= KEPT_KEYS:
            positions, scores = nearest(table, self._score(table, queries, hidden_query), mentioned)
        else:
            positions, scores = searched(table, self._searcher(table), queries, hidden_query, mentioned)
        if not len(positions):  # an application's own index may find nothing
            return [], positions, np.zeros((0, len(FEATURES)), np.float32)
        values = table.value_embeddings()
        read_ahead(values, positions)  # while texts are read and words compared
        names = table.name_index[positions]
        candidates = [
            Candidate(triple, int(name), float(s[0]), float(s[1]), float(s[2]))
            for triple, name, s in zip(table.triples(positions), names, scores, strict=True)
        ]
        asked = self._asked(texts.turn, encoded, candidates)
        embeddings = CandidateEmbeddings(
            keys=np.asarray(table.key_embeddings[positions], np.float32),
            properties=table.property_embeddings[table.property_index[positions]],
            values=np.asarray(values[positions], np.float32),
            all_properties=table.property_embeddings,
            property_names=table.properties,
        )
        features = self.examiner.features(
            messages, candidates, asked, queries[1], embeddings, self._comparison
        )
        return candidates, positions, features

    def _completed(self, messages: Sequence[Message], table: KeyTable) -> Sequence[Message]:
        """Return the messages up to the question, which says what it asks where it only names something."""
        asking = up_to_question(messages)
        said = [m["content"] for m in asking if m["role"] == "user"]
        if len(said) < 2:
            return asking
        turn = completed(said, table, self.examiner)
        if turn.text == said[-1]:
            return asking
        return [*(() if turn.stands_alone else asking[:-1]), {"role": "user", "content": turn.text}]

    def _score(self, table: KeyTable, queries: Floats, hidden_query: Floats | None) -> Floats:
        """Return the scores of every key, [n_triples, 3]: turn, conversation, hidden state."""
        rows = [queries[0]]
        if not np.array_equal(queries[0], queries[1]):  # in a first turn they are the same
            rows.append(queries[1])
        if hidden_query is not None:
            rows.append(hidden_query)
        kept = self._kept.get(table)
        if kept is None:
            kept = self._kept[table] = np.asarray(table.key_embeddings, np.float32)
        found = [product(kept, row) for row in rows]  # one product per query: a thin matrix product is slower
        hidden = found.pop() if hidden_query is not None else np.zeros_like(found[0])
        return np.stack([found[0], found[-1], hidden], 1)

    def _encode_ahead(self, texts: Questions, table: KeyTable, mentioned: Sequence[int]) -> dict[str, Floats]:
        """Return the embeddings of the texts, and of the turn without each name that is likely to be a candidate's.

        Three short texts at once take about two thirds of the time of one and then two.
        """
        first = [int(table.positions_of_name(name)[0]) for name in mentioned[:MASKED_AMONG]]
        masked = self._masked(texts.turn, ((triple.name, triple.name) for triple in table.triples(first)))
        ahead = list(dict.fromkeys((texts.turn, texts.conversation, *masked.values())))
        return dict(zip(ahead, self.encoder.encode(ahead), strict=True))

    def _asked(
        self, turn: str, encoded: dict[str, Floats], candidates: Sequence[Candidate]
    ) -> dict[int, Floats]:
        names = {candidate.name_id: candidate.triple.name for candidate in candidates}
        masked = self._masked(turn, islice(names.items(), MASKED_AMONG))
        missing = [text for text in dict.fromkeys(masked.values()) if text not in encoded]
        if missing:
            encoded = encoded | dict(zip(missing, self.encoder.encode(missing), strict=True))
        return {-1: encoded[turn], **{name_id: encoded[text] for name_id, text in masked.items()}}

    def _masked(self, turn: str, names: Iterable[tuple[_Name, str]]) -> dict[_Name, str]:
        """Return the turn without each of the first names that it mentions, by what the names are told apart by.

        One that is made of words of an earlier one is passed over: "Orca 3" where "Orca 2" is asked about.
        """
        found: dict[_Name, str] = {}
        said, gone = set(words(turn)), set[str]()
        for which, name in names:
            if len(found) == N_MASKED:
                break
            text = self.examiner.mask_name(turn, name)
            own = said.difference(words(text))
            if own and own.isdisjoint(gone):
                found[which] = text
                gone |= own
        return found


def _without_rivals(log_odds: Floats, messages: Sequence[Message], candidates: Sequence[Candidate]) -> Floats:
    """Return the log-odds with those of triples shut whose name is plainly not the one that is meant."""
    probable = np.argsort(-log_odds, kind="stable")[:MOST]
    probable = probable[log_odds[probable] >= np.log(LEAST / (1 - LEAST))]
    said = [m["content"] for m in reversed(messages) if m["role"] != "system"]
    shut = outdone(said, [candidates[i].triple for i in probable])
    found = log_odds.copy()
    found[probable[shut]] = SHUT
    return found


def nearest(
    table: KeyTable, scores: Floats, mentioned: Sequence[int] = ()
) -> tuple[NDArray[np.int64], Floats]:
    """Return candidate positions, best first, and their scores [n, 3].

    Args:
        table: the KB.
        scores: of every key, [n_triples, 3].
        mentioned: names whose triples are candidates whatever their scores, best first: the first of them, and the closest
            of the others.
    """
    total = _mixed(scores)
    n = min(N_NEAREST, len(total))
    best = np.argpartition(-total, n - 1)[:n]
    best = best[np.argsort(-total[best], kind="stable")]
    return _with_siblings(table, best, lambda positions: scores[positions], mentioned)


def searched(
    table: KeyTable,
    search: KeySearch,
    queries: Floats,
    hidden_query: Floats | None,
    mentioned: Sequence[int] = (),
) -> tuple[NDArray[np.int64], Floats]:
    """Return candidate positions, best first, and their scores [n, 3], from a search of the keys.

    The score of a key is the larger of two inner products: with the turn's query and with the conversation's, each
    joined with the hidden state's. So the best keys are among the best of these two, and no other key is looked at.

    Args:
        table: the KB.
        search: of its keys.
        queries: [2, embed_dim], turn and conversation.
        hidden_query: [embed_dim], if there is one.
        mentioned: as for ``nearest``.
    """
    hidden = np.zeros_like(queries[0]) if hidden_query is None else np.asarray(hidden_query, np.float32)
    columns = np.stack([*queries, hidden], 1)

    def scores_at(positions: NDArray[np.int64]) -> Floats:
        read_ahead(table.key_embeddings, positions)
        return product(np.asarray(table.key_embeddings[positions], np.float32), columns)

    asked = np.stack([queries[0], CONVERSATION_SHARE * queries[1]])
    if np.array_equal(queries[0], queries[1]):  # in a first turn they are the same
        asked = asked[:1]
    at = np.unique(search.search(asked + hidden, N_NEAREST).at)
    at = at[at >= 0]
    best = at[np.argsort(-_mixed(scores_at(at)), kind="stable")][:N_NEAREST]
    return _with_siblings(table, best, scores_at, mentioned)


def _mixed(scores: Floats) -> Floats:
    """Return one score a key, [n], from those of turn, conversation and hidden state, [n, 3]."""
    total: Floats = np.maximum(scores[:, 0], CONVERSATION_SHARE * scores[:, 1]) + scores[:, 2]
    return total


def _with_siblings(
    table: KeyTable,
    best: NDArray[np.int64],
    scores_at: Callable[[NDArray[np.int64]], Floats],
    mentioned: Sequence[int],
) -> tuple[NDArray[np.int64], Floats]:
    """Return the best positions, other triples of their names, and those of names mentioned; best first, with scores."""
    chosen = best.tolist()
    seen = set(chosen)
    leading = list(dict.fromkeys(table.name_index[best].tolist()))[:N_SIBLING_NAMES]
    # The name with the rarest words of all stays, however far off its triples are: "R 2023-31" is said, and hardly embedded.
    first = [table.positions_of_name(name) for name in mentioned[:1] if name not in leading]
    others = [table.positions_of_name(name) for name in mentioned[1:] if name not in leading]
    others.sort(key=lambda positions: -float(_mixed(scores_at(positions)).max()))
    named = (*first, *others)[:N_MENTIONED_NAMES]
    for siblings in (*map(table.positions_of_name, leading), *named):
        ordered = siblings[np.argsort(-_mixed(scores_at(siblings)), kind="stable")][:N_SIBLINGS]
        chosen.extend(p for p in ordered.tolist() if p not in seen)
        seen.update(ordered.tolist())
    positions = np.array(chosen, np.int64)
    scores = scores_at(positions)
    order = np.argsort(-_mixed(scores), kind="stable")
    return positions[order], scores[order].astype(np.float32)
