"""Keys in a vector service, in Qdrant's local mode: the same client and code as for a server."""

import sys

import numpy as np
import pytest

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import ConfigurationError, KnowledgeBaseError, MissingDependencyError
from kblam_engine.search.remote import connect
from kblam_engine.search.snapshot_search import SnapshotSearch


@pytest.fixture
def kb(tmp_path, hashing_encoder):
    with KnowledgeBase.open(tmp_path / "big.kb", encoder=hashing_encoder) as kb:
        kb.add([Triple(f"Orca {n // 3}", ("founder", "price", "colour")[n % 3], f"value {n}") for n in range(200)])
        yield kb


@pytest.fixture
def queries(hashing_encoder):
    return hashing_encoder.encode(["What is the price of Orca 12?", "Who is the founder of Orca 33?"])


def check(snapshot, index, queries, k=6):
    found, truth = SnapshotSearch(snapshot, index).search(queries, k), SnapshotSearch(snapshot).search(queries, k)
    np.testing.assert_allclose(found.scores, truth.scores, atol=2e-3)
    assert (found.at < len(snapshot)).all()


def test_the_service_finds_what_scoring_every_key_finds(kb, queries):
    index = connect(":memory:", "orcas")
    assert index.n_slots == 0
    assert index.send(kb.snapshot()) == 200 == index.n_slots
    assert index.send(kb.snapshot()) == 0
    assert SnapshotSearch(kb.snapshot(), index).kind == "remote"
    check(kb.snapshot(), index, queries)


def test_changes_are_seen_before_they_are_sent(kb, queries, hashing_encoder):
    index = connect(":memory:", "orcas")
    index.send(kb.snapshot())
    kb.remove("Orca 12")
    kb.set("Narwhal", "depth", "900 m")
    check(kb.snapshot(), index, queries)
    query = hashing_encoder.encode(["the depth of Narwhal"])
    at = SnapshotSearch(kb.snapshot(), index).search(query, 1).at
    assert kb.snapshot().triple(int(at[0, 0])).value == "900 m"
    assert index.send(kb.snapshot()) == 1
    check(kb.snapshot(), index, queries)


def test_many_removed_keys_do_not_hide_the_others(kb, queries):
    index = connect(":memory:", "orcas")
    index.send(kb.snapshot())
    for n in range(60):
        kb.remove(f"Orca {n}")
    check(kb.snapshot(), index, queries)


def test_a_collection_in_a_folder_is_taken_up_again(kb, queries, tmp_path):
    first = connect(str(tmp_path / "vectors"), "orcas")
    first.send(kb.snapshot())
    first._client.close()
    check(kb.snapshot(), connect(str(tmp_path / "vectors"), "orcas"), queries)


def test_the_collection_of_another_knowledge_base_is_refused(kb, tmp_path, hashing_encoder):
    index = connect(":memory:", "orcas")
    index.send(kb.snapshot())
    with KnowledgeBase.open(tmp_path / "other.kb", encoder=hashing_encoder) as other:
        other.add([Triple("a", "b", "c")])
        with pytest.raises(KnowledgeBaseError, match="take another collection"):
            index.send(other.snapshot())


def test_a_collection_has_a_name():
    with pytest.raises(ConfigurationError, match="collection"):
        connect(":memory:", "")


def test_without_the_client_the_command_to_install_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(MissingDependencyError, match=r"kblam-engine\[remote\]"):
        connect(":memory:", "orcas")
