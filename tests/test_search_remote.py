"""Keys in a vector service, in Qdrant's local mode: the same client and code as for a server."""

import logging
import shutil
import sys

import numpy as np
import pytest
from engine_parts import BASE, adapter_config, build_llama, engine_fixture, random_adapter, same  # noqa: F401

from kblam_engine import KBLaM, KnowledgeBase, Triple, retrieval
from kblam_engine import engine as engine_module
from kblam_engine.checkpoint import save_adapter
from kblam_engine.errors import (
    ConfigurationError,
    KnowledgeBaseError,
    KnowledgeBaseUnreachableError,
    MissingDependencyError,
)
from kblam_engine.models import LoadedModel
from kblam_engine.search.indexes import Indexes
from kblam_engine.search.remote import RemoteIndex, connect
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


def test_the_collection_of_a_later_copy_is_refused(kb, queries, tmp_path, hashing_encoder):
    """The same knowledge base and generation, and other keys in the same slots."""
    place = kb.path
    kb.close()
    shutil.copytree(place, tmp_path / "copy.kb")
    index = connect(":memory:", "orcas")
    with KnowledgeBase.open(place, encoder=hashing_encoder) as later:
        later.add([Triple(f"Walrus {n}", "weight", f"{n} t") for n in range(100)])
        assert index.send(later.snapshot()) == 300
    with KnowledgeBase.open(tmp_path / "copy.kb", encoder=hashing_encoder) as restored:
        check(restored.snapshot(), index.of(restored.snapshot()), queries)
        assert index.send(restored.snapshot()) == 0
        for n_more in (1, 149):
            restored.add([Triple(f"Narwhal {n_more} {n}", "depth", f"{n} m") for n in range(n_more)])
            for use in (index.of, index.send):
                with pytest.raises(KnowledgeBaseError, match=r"another key in slot .* take another collection"):
                    use(restored.snapshot())


@pytest.mark.parametrize("gone", [0, 199])
def test_a_collection_with_a_slot_left_out_is_refused(kb, gone):
    """It would be sent by nobody: what is missing is told by how many points there are."""
    models = pytest.importorskip("qdrant_client").models
    first = connect(":memory:", "orcas")
    first.send(kb.snapshot())
    first._client.delete("orcas", points_selector=[gone])
    kb.add([Triple("Narwhal", "depth", "900 m")])
    first._client.upsert("orcas", [models.PointStruct(id=200, vector=[0.0] * kb.snapshot().embed_dim, payload={})])
    for use in ("of", "send"):
        with pytest.raises(KnowledgeBaseError, match=f"without slot {gone}; take another collection"):
            getattr(RemoteIndex(first._client, "orcas"), use)(kb.snapshot())


@pytest.mark.parametrize(("width", "distance"), [(7, "DOT"), (None, "COSINE"), (None, None)])
def test_a_collection_of_other_vectors_is_refused(kb, width, distance):
    models = pytest.importorskip("qdrant_client").models
    index, width = connect(":memory:", "orcas"), width or kb.snapshot().embed_dim
    vectors = models.VectorParams(size=width, distance=models.Distance[distance or "DOT"])
    index._client.create_collection("orcas", vectors_config=vectors if distance else {"named": vectors})
    with pytest.raises(KnowledgeBaseError, match="compared by their inner product.* take another collection"):
        index.send(kb.snapshot())


def test_a_collection_has_a_name():
    with pytest.raises(ConfigurationError, match="collection"):
        connect(":memory:", "")


def test_without_the_client_the_command_to_install_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(MissingDependencyError, match=r"kblam-engine\[remote\]"):
        connect(":memory:", "orcas")


QUESTIONS = ["What is the price of Orca 12?", "Who founded Orca 7?"]


class Counting:
    """An index source that tells how often it was asked, and an index that tells how often it was searched."""

    def __init__(self, index):
        self._index, self.asked, self.searched = index, 0, 0
        self.kind = index.kind

    @property
    def n_slots(self):
        return self._index.n_slots

    def of(self, snapshot):
        self.asked += 1
        return self if self._index.of(snapshot) is not None else None

    def search(self, queries, k, alive=None):
        self.searched += 1
        return self._index.search(queries, k, alive)


def test_the_model_answers_over_the_service_as_over_every_key(engine, kb, monkeypatch):
    monkeypatch.setattr(retrieval, "KEPT_KEYS", 10)
    monkeypatch.setattr(engine, "indexes", Indexes("exact"))
    exact = engine.answer_batch(QUESTIONS, kb, max_new_tokens=6)
    remote = connect(":memory:", "orcas")
    remote.send(kb.snapshot())
    counting = Counting(remote)
    monkeypatch.setattr(engine, "indexes", Indexes(counting))
    for one, other in zip(exact, engine.answer_batch(QUESTIONS, kb, max_new_tokens=6), strict=True):
        assert one.attended
        same(one, other)
    assert (counting.asked, engine.indexes.of(kb.snapshot()).kind) == (1, "remote") and counting.searched >= 2
    kb.remove("Orca 12", "price")
    kb.set("Orca 7", "founder", "Ida")
    found = [f.triple for f in engine.retrieve(QUESTIONS[1], kb, 20)]
    assert Triple("Orca 7", "founder", "Ida") in found and counting.asked == 2
    assert all(t.key_text != "the price of Orca 12" for t in found)


def test_from_pretrained_takes_a_source_of_indexes(kb, tmp_path, tiny_tokenizer, hashing_encoder, monkeypatch):
    loaded = LoadedModel(build_llama(), tiny_tokenizer, "tiny-llama", BASE, None, next(build_llama().parameters()).device)
    monkeypatch.setattr(engine_module, "load_base_model", lambda *_, **__: loaded)
    monkeypatch.setattr(engine_module, "resolve_model", lambda _: None)
    monkeypatch.setattr(engine_module, "load_sentence_encoder", lambda _: hashing_encoder)
    folder = save_adapter(random_adapter(adapter_config(hashing_encoder)), tmp_path / "adapter")
    remote = connect(":memory:", "orcas")
    remote.send(kb.snapshot())
    model = KBLaM.from_pretrained("tiny", adapter=folder, index=remote)
    assert model.indexes.of(kb.snapshot()).index is remote
    model.injection.detach()
    with pytest.raises(ConfigurationError, match=r"of\(snapshot\)"):
        KBLaM.from_pretrained("tiny", adapter=folder, index=object())


def test_nothing_sent_and_the_keys_of_another_knowledge_base_are_not_used(kb, tmp_path, hashing_encoder, caplog):
    remote = connect(":memory:", "orcas")
    indexes = Indexes(remote)
    assert indexes.of(kb.snapshot()).kind == "exact"
    remote.send(kb.snapshot())
    assert indexes.of(kb.snapshot()).kind == "exact", "asked once for each revision"
    kb.set("Orca 7", "founder", "Ida")
    assert indexes.of(kb.snapshot()).kind == "remote"
    with KnowledgeBase.open(tmp_path / "other.kb", encoder=hashing_encoder) as other:
        other.add([Triple("a", "b", "c")])
        with caplog.at_level(logging.WARNING):
            assert indexes.of(other.snapshot()).kind == "exact"
    assert "take another collection" in caplog.text


def test_what_another_process_has_sent_disturbs_no_earlier_revision(kb, queries, tmp_path):
    index = connect(str(tmp_path / "vectors"), "orcas")
    index.send(kb.snapshot())
    earlier = SnapshotSearch(kb.snapshot(), index)
    truth = SnapshotSearch(kb.snapshot()).search(queries, 6)
    earlier.search(queries, 6)
    kb.add([Triple(f"Orca {n}", "weight", f"{n} t") for n in range(40)])
    index._client.close()
    other = connect(str(tmp_path / "vectors"), "orcas")
    assert other.send(kb.snapshot()) == 40
    index._client = other._client
    np.testing.assert_allclose(earlier.search(queries, 6).scores, truth.scores, atol=2e-3)
    check(kb.snapshot(), index, queries)
    assert index.n_slots == 200 and index.of(kb.snapshot()).n_slots == 240
    check(kb.snapshot(), index, queries)


@pytest.mark.parametrize("place", ["http://127.0.0.1:1", "http://no-such-host.invalid:6333"])
def test_a_service_that_cannot_be_reached_is_told_with_its_address(kb, queries, recwarn, place):
    index = connect(place, "orcas", timeout=2)
    for use in (lambda: index.send(kb.snapshot()), lambda: index.of(kb.snapshot()), lambda: index.search(queries, 3)):
        with pytest.raises(KnowledgeBaseUnreachableError) as caught:
            use()
        told = str(caught.value)
        assert told.startswith(f"collection 'orcas' at {place}: expected an answer") and "check its address" in told
        assert "\n" not in told
    indexes = Indexes(index, lambda: 0.0)
    for _ in range(2):  # every question asks again, and none is answered by scoring every key
        with pytest.raises(KnowledgeBaseUnreachableError):
            indexes.of(kb.snapshot())
    assert not [warning for warning in recwarn if "server version" in str(warning.message)]


def test_an_address_of_another_kind_is_told():
    with pytest.raises(ConfigurationError, match="expected an address such as http://localhost:6333, got gopher://x"):
        connect("gopher://x", "orcas")
