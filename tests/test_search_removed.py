"""Searching a tree where much has been removed: what is alive is found, and no beam is spent on what is not."""

from dataclasses import replace

import numpy as np
import pytest

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.evidence import Examiner
from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.retrieval import Retriever
from kblam_engine.search import live
from kblam_engine.search import tree as tree_module
from kblam_engine.search.exact import scan
from kblam_engine.search.interface import nothing
from kblam_engine.search.live import LiveCounts, Sizes, live_between
from kblam_engine.search.recall import recall_of
from kblam_engine.search.snapshot_search import SnapshotSearch
from kblam_engine.search.tree import Beam
from kblam_engine.search.tree_growth import grow, with_slots
from kblam_engine.wording import Rarity

DIM, N_TOPICS, N = 48, 50, 4_000
NARROW = Beam(3, 16)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def about(topics, seed, spread=0.5):
    """Return a unit row for each topic's number, near its direction."""
    centres = np.random.default_rng(99).standard_normal((N_TOPICS, DIM))
    return unit(centres[topics] + spread * np.random.default_rng(seed).standard_normal((len(topics), DIM)))


TOPIC_OF = np.random.default_rng(5).integers(N_TOPICS, size=N)


@pytest.fixture(scope="module")
def keys():
    return about(TOPIC_OF, 0).astype(np.float16)


@pytest.fixture(scope="module")
def tree(keys):
    grown = replace(grow(keys), beam=NARROW)
    assert len(grown.roots) > 10 * NARROW.roots and len(grown.inters) > 10 * NARROW.inters
    return grown


def queries_about(topics, seed=7):
    return about(np.asarray(topics), seed, spread=0.2).astype(np.float32)


def is_alive(*gone):
    return ~np.isin(TOPIC_OF, gone)


@pytest.mark.parametrize("n_gone", [1, 10, 40])
def test_what_is_alive_is_found_by_questions_about_what_is_not(tree, keys, n_gone):
    alive, queries = is_alive(*range(n_gone)), queries_about([0] * 20)
    found, truth = tree.search(queries, 24, alive), scan(keys, queries, 24, alive)
    assert (found.at >= 0).all() and alive[found.at].all()
    assert (found.scores[:, 0] > truth.scores[:, 23]).all()


def test_a_few_removed_at_one_place_are_passed_by_as_well(tree, keys, monkeypatch):
    """Too few to be counted, and all that the beam leads to."""
    query = queries_about([3])
    alive = np.ones(N, bool)
    alive[scan(keys, query, 300).at] = False
    monkeypatch.setattr(tree_module, "FEW", 0.1)
    tree = replace(tree)
    before = tree.resident_bytes
    found, truth = tree.search(query, 8, alive), scan(keys, query, 8, alive)
    assert (found.at >= 0).all() and alive[found.at].all() and found.scores[0, 0] > truth.scores[0, 7]
    assert tree.resident_bytes == before
    monkeypatch.setattr(tree_module, "FEW", 0.01)
    tree.search(query, 8, alive)
    assert tree.resident_bytes > before  # now they were counted


@pytest.mark.parametrize("n_left", [0, 1, 5])
def test_the_last_ones_alive_are_all_found(tree, keys, n_left):
    alive = np.zeros(N, bool)
    alive[np.random.default_rng(1).permutation(N)[:n_left]] = True
    queries = queries_about([0, 9])
    found, truth = tree.search(queries, 8, alive), scan(keys, queries, 8, alive)
    np.testing.assert_array_equal(found.at, truth.at)
    np.testing.assert_allclose(found.scores, truth.scores, atol=1e-5)
    np.testing.assert_allclose(found.log_normaliser, truth.log_normaliser, atol=1e-4)


def test_as_many_are_found_as_there_are(tree, keys):
    queries = queries_about([0, 9])
    for k, alive in ((N + 500, None), (N + 500, is_alive(1, 2, 3)), (900, None)):
        found, truth = tree.search(queries, k, alive), scan(keys, queries, k, alive)
        np.testing.assert_array_equal(found.at < 0, truth.at < 0)
        assert recall_of(found, truth) > 0.99


def test_questions_about_what_is_left_lose_nothing_and_no_logit_is_shifted(tree, keys):
    gone = range(0, 40, 2)
    alive, queries = is_alive(*gone), queries_about(np.arange(1, 50, 2).repeat(4))
    before = recall_of(tree.search(queries, 10), scan(keys, queries, 10))
    found, truth = tree.search(queries, 10, alive), scan(keys, queries, 10, alive)
    assert recall_of(found, truth) >= before - 0.02
    assert np.abs(found.log_normaliser - truth.log_normaliser).max() < 0.05
    # Counted with the living, the removed ones would shift every logit by the log of their share.
    assert np.abs(tree.search(queries, 10).log_normaliser - truth.log_normaliser).min() > 0.2


def test_the_common_search_follows_one_beam(tree, monkeypatch):
    beams = []
    follow = tree_module.KeyTree._follow
    monkeypatch.setattr(
        tree_module.KeyTree, "_follow", lambda self, beam, *rest: beams.append(beam) or follow(self, beam, *rest)
    )
    tree.search(queries_about([0]), 8)
    tree.search(queries_about([1]), 8, is_alive(0))
    assert beams == [NARROW, NARROW]
    tree.search(queries_about([1]), 100)
    assert beams[2:] == [NARROW, NARROW.widened(), NARROW.widened().widened()]


def test_keys_added_later_are_counted_too(tree, keys):
    more = np.concatenate([keys, about(np.repeat([3, 7], 400), 8).astype(np.float16)])
    grown = with_slots(tree, more, len(more))
    assert (grown.ends == 0).any() and grown.loose
    alive = np.random.default_rng(2).random(len(more)) < 0.5
    sizes = grown._live(alive)
    np.testing.assert_array_equal(sizes.inters, [alive[grown.members(c)].sum() for c in range(len(grown.inters))])
    np.testing.assert_array_equal(sizes.roots, [sizes.inters[grown.root_of == r].sum() for r in range(len(grown.roots))])
    queries = queries_about([3, 7, 11])
    found, truth = grown.search(queries, 8, alive), scan(more, queries, 8, alive)
    assert alive[found.at].all()
    assert np.abs(found.log_normaliser - truth.log_normaliser).max() < 0.05


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_living_are_counted_in_parts(chunk, monkeypatch):
    monkeypatch.setattr(live, "_CHUNK", chunk)
    slots, alive = np.array([4, 0, 2, 1, 3, 5]), np.array([1, 1, 0, 0, 1, 1], bool)
    begins, ends = np.array([0, 2, 0, 5, 5]), np.array([2, 5, 0, 6, 5])
    assert live_between(begins, ends, slots, alive).tolist() == [2, 1, 0, 1, 0]


class Counter:
    def __init__(self):
        self.n = 0

    def __call__(self, alive):
        self.n += 1
        return Sizes(np.array([alive.sum()]), np.array([self.n]))


def test_a_count_serves_the_masks_that_differ_by_a_few_removals_and_no_others():
    counts, count = LiveCounts(), Counter()
    alive = np.arange(1_000) % 10 > 0
    first = counts.of(alive, count)
    fewer, other, more = alive.copy(), alive.copy(), alive.copy()
    fewer[1:9] = False
    other[1:99] = False
    more[0] = True
    assert counts.of(alive.copy(), count) is first and counts.of(fewer, count) is first and count.n == 1
    assert counts.of(other, count) is not first and count.n == 2
    # One more is alive: what the first count holds for empty may not be.
    assert counts.of(more, count).roots == [901] and count.n == 3
    assert counts.of(other, count).inters == [2] and counts.of(alive, count).roots in ([900], [901]) and count.n == 3


def test_a_mask_changed_in_place_is_another_mask():
    counts, count = LiveCounts(), Counter()
    alive = np.ones(1_000, bool)
    alive[:500] = False
    assert counts.of(alive, count).roots == [500]
    alive[:] = ~alive
    alive[0] = False
    assert counts.of(alive, count).roots == [499]


def test_only_the_last_counts_are_kept():
    counts, count = LiveCounts(), Counter()
    for n in range(12):
        alive = np.zeros(1_600, bool)
        alive[100 * n : 100 * n + 50] = True
        counts.of(alive, count)
    assert counts.nbytes == live._KEPT * (1_600 // 8 + 2 * 8)


PARTS = ("founder", "price", "colour")


@pytest.fixture
def kb(tmp_path, hashing_encoder):
    """A knowledge base with 1,200 triples about submarines among 2,400 about other things."""
    with KnowledgeBase.open(tmp_path / "big.kb", encoder=hashing_encoder) as kb:
        kb.add([Triple(f"Company {n} {chr(97 + n % 26)}", PARTS[n % 3], f"value {n}") for n in range(2_400)])
        kb.add([Triple(f"submarine {n}", f"maximum depth {n % 9}", f"{n} m", namespace="sea") for n in range(1_200)])
        yield kb


def test_a_conversation_about_a_topic_that_was_removed_has_candidates(kb, hashing_encoder, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr("kblam_engine.retrieval.KEPT_KEYS", 100)
    before = kb.snapshot()
    index = replace(grow(before.key_segment()), beam=NARROW)
    kb.remove(namespace="sea")
    snapshot = kb.snapshot()
    assert len(snapshot) == 2_400 and snapshot.n_slots == index.n_slots == 3_600

    def token_ids(text):
        return tiny_tokenizer(text, add_special_tokens=False)["input_ids"]

    retriever = Retriever(
        hashing_encoder,
        Examiner(Rarity(token_ids, 320)),
        EvidenceHead(hidden=8, embed_dim=hashing_encoder.embed_dim),
        lambda table: SnapshotSearch(table, index),
    )
    messages = [{"role": "user", "content": "maximum depth submarine?"}]
    assert {t.name.split()[0] for t in retriever.retrieve(messages, before).triples} == {"submarine"}
    found = retriever.retrieve(messages, snapshot)
    assert len(found.triples) >= 24 and all(t.name.startswith("Company") for t in found.triples)

    class FindsNothing:
        def search(self, queries, k):
            return nothing(len(queries), k)

    retriever._searcher = lambda table: FindsNothing()
    assert retriever.retrieve(messages, snapshot).triples == ()
    candidates, positions, features = retriever.examine(messages, snapshot)
    assert candidates == [] and len(positions) == 0 and features.shape[0] == 0 and features.shape[1] > 40
