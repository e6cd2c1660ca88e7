"""Which search serves a knowledge base: chosen by cost and by wish, built and grown in the background."""

import gc
import json
import logging
import shutil
import threading
import weakref

import numpy as np
import pytest
from engine_parts import token_ids, user

from kblam_engine import KnowledgeBase, Triple, retrieval
from kblam_engine.errors import ConfigurationError
from kblam_engine.evidence import Examiner
from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.retrieval import N_NEAREST, Retriever
from kblam_engine.search import following
from kblam_engine.search import indexes as indexes_module
from kblam_engine.search.build import build_index, open_index
from kblam_engine.search.exact import ExactIndex
from kblam_engine.search.files import read_record
from kblam_engine.search.indexes import Indexes
from kblam_engine.search.recall import GOAL
from kblam_engine.search.snapshot_search import SnapshotSearch
from kblam_engine.wording import Rarity


def triples(start, stop):
    parts = ("battery life", "founder", "price", "colour")
    return [Triple(f"Orca {n // 4} {chr(97 + n // 4 % 26)}", parts[n % 4], f"value {n}") for n in range(start, stop)]


@pytest.fixture
def kb(tmp_path, hashing_encoder):
    with KnowledgeBase.open(tmp_path / "big.kb", encoder=hashing_encoder) as kb:
        kb.add(triples(0, 400))
        yield kb


def slow_keys(monkeypatch, seconds=1.0):
    monkeypatch.setattr(indexes_module, "seconds_per_key", lambda snapshot: seconds)


def record_with(kb, **facts):
    """Write other facts into the record of an index."""
    path = kb.path / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def opened(folder, encoder):
    kb = KnowledgeBase.open(folder, encoder=encoder)
    kb.add(triples(0, 40))
    return kb


def asked(encoder):
    return encoder.encode(["the price of Orca 7 h", "the colour of Orca 33 h"])


def as_exact(snapshot, search, queries, k=5):
    """Say whether a search finds what scoring every key does."""
    found, truth = search.search(queries, k), SnapshotSearch(snapshot).search(queries, k)
    return np.allclose(found.scores, truth.scores, atol=2e-3)


def test_exact_never_takes_an_index(kb):
    build_index(kb.snapshot())
    assert Indexes("exact").of(kb.snapshot()).kind == "exact"


def test_auto_scores_every_key_while_that_is_cheap_and_takes_the_index_when_it_is_not(kb, monkeypatch):
    build_index(kb.snapshot())
    record_with(kb, recall=0.99, time_ratio=0.1)  # of 400 keys a search takes as long as a scan
    assert Indexes("auto", lambda: 3600.0).of(kb.snapshot()).kind == "exact"
    assert Indexes("auto").of(kb.snapshot()).kind == "exact"
    slow_keys(monkeypatch)
    assert Indexes("auto", lambda: 1.0).of(kb.snapshot()).kind == "tree"
    # A quarter of the prefill is what scoring every key may cost.
    slow_keys(monkeypatch, 0.24 / 400)
    assert Indexes("auto", lambda: 1.0).of(kb.snapshot()).kind == "exact"


def test_an_index_that_is_wanted_is_built_in_the_background(kb):
    indexes = Indexes("tree")
    first = indexes.of(kb.snapshot())
    assert first.kind == "exact"
    indexes.wait()
    assert indexes.of(kb.snapshot()).kind == "tree" == read_record(kb.path).kind
    assert indexes.of(kb.snapshot()).index is indexes.of(kb.snapshot()).index


def test_nothing_is_built_unless_wanted(kb, memory_kb):
    indexes = Indexes("tree", background=False)
    assert indexes.of(kb.snapshot()).kind == "exact" and read_record(kb.path) is None
    in_memory = Indexes("tree")
    assert in_memory.of(memory_kb.snapshot()).kind == "exact"
    in_memory.wait()


def test_an_index_of_another_kind_is_not_taken_for_the_one_that_was_asked_for(kb):
    build_index(kb.snapshot(), "ann")
    indexes = Indexes("tree")
    assert indexes.of(kb.snapshot()).kind == "exact"
    indexes.wait()
    assert indexes.of(kb.snapshot()).kind == "tree"


def test_a_tree_takes_in_what_has_been_added(kb, monkeypatch):
    build_index(kb.snapshot())
    monkeypatch.setattr(following, "TAIL", 10)
    kb.add(triples(400, 430))
    indexes = Indexes("tree")
    assert indexes.of(kb.snapshot()).n_unindexed == 30
    indexes.wait()
    search = indexes.of(kb.snapshot())
    assert search.n_unindexed == 0 and read_record(kb.path).n_slots == 400
    at = search.search(np.asarray(kb.snapshot().key_embeddings[[425]], np.float32), 1).at
    assert kb.snapshot().triple(int(at[0, 0])).key_text == kb.snapshot().triple(425).key_text


def test_an_index_far_behind_is_built_again(kb):
    build_index(kb.snapshot())
    kb.add(triples(400, 600))
    indexes = Indexes("tree")
    assert indexes.of(kb.snapshot()).n_unindexed == 200
    indexes.wait()
    assert indexes.of(kb.snapshot()).n_unindexed == 0 and read_record(kb.path).n_slots == 600


def test_a_tree_that_finds_less_than_it_did_is_built_again(kb, monkeypatch):
    build_index(kb.snapshot())
    monkeypatch.setattr(following, "TAIL", 10)
    monkeypatch.setattr(following, "recall_of", lambda found, truth: 0.1)
    kb.add(triples(400, 430))
    indexes = Indexes("tree")
    indexes.of(kb.snapshot())
    indexes.wait()
    assert read_record(kb.path).n_slots == 430


def test_a_build_that_fails_is_told_once_and_every_key_is_scored(kb, monkeypatch, caplog):
    monkeypatch.setattr(following, "build_index", lambda *_, **__: 1 / 0)
    indexes = Indexes("tree")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert indexes.of(kb.snapshot()).kind == "exact"
            indexes.wait()
    assert len(caplog.records) == 1


def test_a_damaged_index_is_told_and_every_key_is_scored(kb, caplog):
    record = build_index(kb.snapshot())
    (kb.path / record.folder / "root_of.npy").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert Indexes("tree", background=False).of(kb.snapshot()).kind == "exact"
    assert "root_of.npy" in caplog.text


def test_a_small_view_is_scored_key_by_key(kb):
    kb.add([Triple("Narwhal", "depth", "900 m", namespace="sea")])
    build_index(kb.snapshot())
    assert Indexes("tree").of(kb.view(namespace="sea").snapshot()).kind == "exact"


def test_a_snapshot_that_nobody_uses_is_not_kept(kb, hashing_encoder):
    build_index(kb.snapshot())
    indexes, seen = Indexes("tree", background=False), []
    for n in range(12):
        kb.set("Orca 7 h", "price", f"{n} euros")
        snapshot = kb.snapshot()
        assert indexes.of(snapshot).kind == "tree" and as_exact(snapshot, indexes.of(snapshot), asked(hashing_encoder))
        view = kb.view().snapshot()
        indexes.of(view).search(asked(hashing_encoder), 3)
        seen += [weakref.ref(snapshot), weakref.ref(view)]
        del snapshot, view
    gc.collect()
    assert sum(each() is not None for each in seen) <= 2, "the newest and the view of it"


def test_a_compaction_is_not_held_up_by_a_search_that_is_over(kb, hashing_encoder):
    build_index(kb.snapshot())
    indexes = Indexes("tree", background=False)
    indexes.of(kb.snapshot()).search(asked(hashing_encoder), 3)
    kb.remove(ids=[int(each) for each in kb.snapshot().ids[:20]])
    assert kb.compact().n_dropped == 20


def test_the_index_of_an_application_is_asked_for_once_and_keeps_no_snapshot(kb):
    class Source:
        asked = 0

        def of(self, snapshot):
            self.asked += 1
            return ExactIndex(snapshot.key_segment())

    source = Source()
    indexes, snapshot = Indexes(source), kb.snapshot()
    assert indexes.of(snapshot).index is indexes.of(snapshot).index is not None and source.asked == 1
    kept = weakref.ref(snapshot)
    kb.set("Narwhal", "depth", "900 m")
    indexes.of(kb.snapshot())
    del snapshot
    gc.collect()
    assert kept() is None and source.asked == 2


def test_folders_that_are_gone_are_forgotten(kb, tmp_path, hashing_encoder, monkeypatch):
    indexes = Indexes("tree", background=False)
    with opened(tmp_path / "other.kb", hashing_encoder) as other:
        indexes.of(other.snapshot())
    assert list(indexes._folders) == [tmp_path / "other.kb"]
    shutil.rmtree(tmp_path / "other.kb")
    indexes.of(kb.snapshot())
    assert list(indexes._folders) == [kb.path]
    monkeypatch.setattr("kblam_engine.search.indexes.MOST_FOLDERS", 1)
    with opened(tmp_path / "third.kb", hashing_encoder) as third:
        indexes.of(third.snapshot())
        assert list(indexes._folders) == [third.path]


# What "auto" takes.


@pytest.mark.parametrize(
    ("facts", "taken"),
    [
        ({"recall": 0.99, "time_ratio": 0.2}, "tree"),
        ({"recall": GOAL - 0.02, "time_ratio": 0.9}, "tree"),
        ({"recall": 0.99, "time_ratio": 1.48}, "exact"),
        ({"recall": 0.9, "time_ratio": 0.2}, "exact"),
    ],
)
def test_auto_takes_an_index_that_is_faster_and_finds_nearly_as_much(kb, monkeypatch, caplog, facts, taken):
    monkeypatch.setattr("kblam_engine.search.indexes.seconds_per_key", lambda snapshot: 1.0)
    folder = build_index(kb.snapshot()).folder
    record_with(kb, **facts)
    indexes = Indexes("auto", lambda: 1.0)
    with caplog.at_level(logging.WARNING):
        assert indexes.ready(kb.snapshot()).kind == taken
        kb.set("Narwhal", "depth", "900 m")
        assert indexes.ready(kb.snapshot()).kind == taken
    assert read_record(kb.path).folder == folder, "another would be no better"
    assert len(caplog.records) == (taken == "exact") and ("the index" in caplog.text) == (taken == "exact")
    # Who wants one, or says that nothing is fast enough, gets it.
    assert Indexes("tree").of(kb.snapshot()).kind == Indexes("auto", lambda: 0.0).of(kb.snapshot()).kind == "tree"


# Nobody waits for another knowledge base.


def test_opening_one_index_holds_up_no_other_knowledge_base(kb, tmp_path, hashing_encoder, monkeypatch):
    build_index(kb.snapshot())
    begun, going_on = threading.Event(), threading.Event()

    def slow(snapshot):
        if snapshot.folder == kb.path:
            begun.set()
            assert going_on.wait(60)
        return open_index(snapshot)

    monkeypatch.setattr(following, "open_index", slow)
    indexes, found = Indexes("tree", background=False), []
    thread = threading.Thread(target=lambda: found.append(indexes.of(kb.snapshot()).kind))
    with opened(tmp_path / "other.kb", hashing_encoder) as other:
        build_index(other.snapshot())
        thread.start()
        assert begun.wait(60) and not found
        assert indexes.of(other.snapshot()).kind == "tree" and not found
        going_on.set()
        thread.join()
    assert found == ["tree"]


def test_measuring_the_prefill_holds_up_nobody_who_does_not_need_it(kb, memory_kb):
    begun, going_on = threading.Event(), threading.Event()

    def prefill():
        begun.set()
        assert going_on.wait(60)
        return 3600.0

    indexes, found = Indexes("auto", prefill), []
    thread = threading.Thread(target=lambda: found.append(indexes.of(kb.snapshot()).kind))
    thread.start()
    assert begun.wait(60)
    assert indexes.of(memory_kb.snapshot()).kind == "exact" and not found
    going_on.set()
    thread.join()
    assert found == ["exact"]


def test_an_unknown_index_is_refused():
    with pytest.raises(ConfigurationError, match="auto, exact, tree, ann"):
        Indexes("forest")


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("said", [["Who is the founder of Orca 7 h?"], ["Tell me about Orca 7 h.", "Its founder?"]])
def test_candidates_of_a_large_kb_are_those_of_scoring_every_key(kb, hashing_encoder, monkeypatch, hidden, said):
    build_index(kb.snapshot())
    indexes = Indexes("tree")
    retriever = Retriever(hashing_encoder, Examiner(Rarity(token_ids, 320)), EvidenceHead(hidden=8, embed_dim=64), indexes.of)
    messages = [message for text in said for message in user(text)]
    query = 0.3 * hashing_encoder.encode(["the founder of Orca 7 h"])[0] if hidden else None
    table = kb.snapshot()
    small = retriever.examine(messages, table, query)
    monkeypatch.setattr(retrieval, "KEPT_KEYS", 10)
    large = retriever.examine(messages, table, query)
    without_index = Retriever(hashing_encoder, retriever.examiner, retriever.head).examine(messages, table, query)
    assert indexes.of(table).kind == "tree" and len(small[1]) > N_NEAREST
    for candidates, _, features in (large, without_index):
        assert [c.triple.key_text for c in candidates][:8] == [c.triple.key_text for c in small[0]][:8]
        np.testing.assert_allclose(features[:8], small[2][:8], atol=2e-3)
