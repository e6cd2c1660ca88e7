"""Names found by their words: what a conversation writes as the KB does, whatever the embeddings say."""

import numpy as np
import pytest

from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.mentions import COMMON_NAMES, names_mentioned, telling_words
from kblam_engine.retrieval import N_NEAREST, N_SIBLINGS, nearest
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.training.pools import EncodedWorld, Pool
from kblam_engine.training.worlds import Known, World
from kblam_engine.triples import Triple

RESOLUTIONS = [
    Triple(f"r {year}-{number:02d} Of winter fuel", prop, f"{prop} {year} {number}")
    for year in (2024, 2025)
    for number in range(1, 41)
    for prop in ("proposer", "status")
]


def rarity(word):
    return 1.0 if word.isdigit() else 0.1 if word in ("who", "proposed", "of") else 0.6


@pytest.fixture(scope="module")
def kb():
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder()) as kb:
        kb.add(RESOLUTIONS)
        yield kb


@pytest.fixture(scope="module")
def pool():
    """The same triples as training holds them."""
    names = list(dict.fromkeys(t.name for t in RESOLUTIONS))
    known = tuple(Known(t, None, names.index(t.name)) for t in RESOLUTIONS)
    entities = tuple(tuple(i for i, k in enumerate(known) if k.entity == e) for e in range(len(names)))
    return Pool(EncodedWorld(World(known, entities), HashingEncoder()), range(len(known)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Who proposed r 2025-03?", ["r", "2025-03", "2025", "03"]),
        ("who proposed it, of 7", ["7"]),
        ("The cross-site one: A/B", ["cross-site", "cross", "site", "one", "a/b", "b"]),
        ("Site, site and SITE", ["site"]),
        ("... -- ?", []),
    ],
)
def test_words_worth_looking_up(text, expected):
    assert telling_words(text, rarity) == expected


def test_a_code_names_its_own_triples(kb):
    snapshot = kb.snapshot()
    (name, *rest) = names_mentioned(snapshot, "Who proposed r 2025-03?", rarity)
    assert snapshot.names[name] == "r 2025-03 Of winter fuel" and rest, "the other year's 03 shares a word"


def test_a_word_of_too_many_names_names_none(kb):
    snapshot = kb.snapshot()
    assert len(snapshot.names_with_word("winter", COMMON_NAMES)) == 0 < len(snapshot.names) - COMMON_NAMES
    assert len(snapshot.names_with_word("winter", 80)) == 80
    assert names_mentioned(snapshot, "winter", rarity) == []


def test_removed_names_are_not_found():
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder()) as kb:
        kb.add(RESOLUTIONS[:6])
        kb.remove(RESOLUTIONS[0].name)
        snapshot = kb.snapshot()
        assert [snapshot.names[i] for i in snapshot.names_with_word("2024", 9)] == [
            RESOLUTIONS[2].name,
            RESOLUTIONS[4].name,
        ]
        kb.remove(RESOLUTIONS[2].name)
        kb.remove(RESOLUTIONS[4].name)
        assert len(kb.snapshot().names_with_word("2024", 9)) == 0


@pytest.mark.parametrize("word", ["2025-03", "2025", "R", "winter fuel", "no such", "fuel-of", "2024-40"])
@pytest.mark.parametrize("at_most", [1, 40, 64, 80])
def test_training_finds_the_names_that_a_kb_finds(kb, pool, word, at_most):
    snapshot = kb.snapshot()
    by_kb = {snapshot.names[i] for i in snapshot.names_with_word(word, at_most)}
    by_pool = {pool.triples(pool.positions_of_name(n)[:1])[0].name for n in pool.names_with_word(word, at_most)}
    assert by_kb == by_pool


def test_triples_of_mentioned_names_become_candidates(kb):
    snapshot = kb.snapshot()
    scores = np.zeros((len(snapshot), 3), np.float32)
    scores[:, 0] = np.linspace(1.0, 0.5, len(snapshot))
    last = int(snapshot.name_index[-1])
    before, _ = nearest(snapshot, scores)
    after, kept = nearest(snapshot, scores, [last])
    own = snapshot.positions_of_name(last)
    assert not np.isin(own, before).any() and np.isin(own, after).all()
    assert len(after) == len(before) + len(own) <= N_NEAREST + 4 * N_SIBLINGS
    assert np.array_equal(kept, scores[after]) and (np.diff(kept[:, 0]) <= 0).all()


def test_the_best_of_the_mentioned_names_stays_however_far_off(kb):
    snapshot = kb.snapshot()
    scores = np.zeros((len(snapshot), 3), np.float32)
    scores[:, 0] = np.linspace(1.0, 0.5, len(snapshot))
    said, *closer = dict.fromkeys(snapshot.name_index[:-12:-1].tolist())  # the farthest first
    positions, _ = nearest(snapshot, scores, [said, *closer])
    assert np.isin(snapshot.positions_of_name(said), positions).all()
    assert np.isin(snapshot.positions_of_name(closer[-1]), positions).all(), "and of the others those that are closest"
    assert not np.isin(snapshot.positions_of_name(closer[0]), positions).any()
