"""Words, provenance, history and views of a knowledge base."""

from datetime import date

import numpy as np
import pytest
from kb_parts import ACME, CountingEncoder, assert_consistent, kb_fixture, open_kb  # noqa: F401

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.errors import ConfigurationError, KnowledgeBaseError, ReadOnlyError, TripleError
from kblam_engine.knowledge_base import KBView
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triple_files import read_triples, write_triples
from kblam_engine.triples import Provenance

PAGE = Provenance("handbook", "https://acme.example/handbook", (120, 164), "rules", 0.8)
PLACED = [
    Triple("Acme", "founder", "Lena Hoffmann", provenance=PAGE, tags=("people",)),
    Triple("Acme", "seat", "Berlin", valid_to="2020"),
    Triple("Acme", "seat", "Bonn", namespace="sales", tags=("places", "checked"), valid_from="2020-01"),
    Triple("Borealis", "seat", "Nuuk", provenance=Provenance("atlas"), tags=("places",), valid_from=date(2021, 3, 4)),
]


def values(found):
    return [triple.value for triple in found]


# Words


def test_every_word_has_to_occur_in_whatever_part(kb):
    kb.add([*ACME, Triple("Zürich", "description", "where Acme sells most")])
    assert values(hit.triple for hit in kb.find("acme founder")) == ["Lena Hoffmann"]
    assert values(hit.triple for hit in kb.find("ZURICH")) == ["where Acme sells most"], "case and accents"
    hits = kb.find("acme")
    assert [hit.triple.name for hit in hits] == ["Acme", "Acme", "Zürich"], "a name counts more than a value"
    assert hits[0].id in kb.snapshot().ids and hits[0].score > hits[2].score
    assert kb.find("found*", k=1) and not kb.find("found") and not kb.find('"founder acme"')
    with pytest.raises(ConfigurationError, match="1 to 64 words"):
        kb.find(" - ")


@pytest.mark.parametrize("words", ['"', "a AND", "NEAR(a b)", "name:a", "x*y", "^a", "a'b; DROP TABLE triples", "\ud7ff*"])
def test_words_are_never_a_query_language(kb, words):
    kb.add(ACME)
    try:
        kb.find(words)
    except ConfigurationError:
        assert not any(letter.isalnum() for letter in words)
    assert len(kb) == 3


def test_words_follow_every_change(kb):
    kb.add(ACME)
    kb.set("Acme", "seat", "Bonn")
    assert not kb.find("berlin") and values(hit.triple for hit in kb.find("bonn")) == ["Bonn"]
    kb.remove("Borealis")
    assert not kb.find("borealis")
    kb.rollback(1)
    assert kb.find("berlin") and kb.find("borealis") and not kb.find("bonn")
    assert kb.verify() == []


def test_names_are_found_by_their_words(kb):
    kb.add([Triple(f"r 2025-{i:02d}", "status", "open") for i in range(1, 13)] + [Triple("r 2025-03 annex", "status", "x")])
    snapshot = kb.snapshot()
    found = snapshot.positions_with_words("R 2025-03")
    assert [snapshot.triple(p).name for p in found] == ["r 2025-03", "r 2025-03 annex"]
    assert len(snapshot.positions_with_words(["2025"], limit=5)) == 5
    assert len(snapshot.positions_with_words("open")) == 0, "values do not count"
    kb.add([Triple("r 2025-03 later", "status", "new")])
    assert len(snapshot.positions_with_words("2025-03")) == 2, "a snapshot does not change"
    assert len(kb.snapshot().positions_with_words("2025-03")) == 3
    for _ in range(40):  # sorts the names, after so many
        assert snapshot.positions_with_words("2025-03").tolist() == found.tolist()


# Provenance


def test_what_is_known_of_a_triple_is_kept(kb, tmp_path):
    kb.add(PLACED)
    assert list(kb) == PLACED and kb.verify() == []
    for suffix in ("jsonl", "csv"):
        write_triples(tmp_path / f"all.{suffix}", kb)
        assert list(read_triples(tmp_path / f"all.{suffix}")) == PLACED
    assert kb.get("Borealis", "seat").provenance == Provenance("atlas")
    info = kb.info()
    assert (info.n_namespaces, info.n_sources, info.n_tags) == (1, 2, 3), "a document and its URI are one source"


def test_another_provenance_is_a_change(kb):
    kb.add(PLACED[:1])
    before = kb.snapshot().fingerprint
    kb.add([Triple("Acme", "founder", "Lena Hoffmann", tags=("people",))])
    assert kb.revision == 2 and kb.snapshot().fingerprint != before
    assert len(kb.view(source="handbook")) == 0


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ({"tags": 5}, "tags: expected texts"),
        ({"tags": ["a,b"]}, "without a comma"),
        ({"tags": [f"t{i}" for i in range(65)]}, "at most 64"),
        ({"valid_from": "soon"}, "valid_from: expected a time such as"),
        ({"valid_from": "2025", "valid_to": "2024-06"}, "expected a time after 2025"),
        ({"namespace": "x" * 2001}, "at most 2000 characters"),
        ({"provenance": {"document": "x"}}, "expected a Provenance"),
        ({"metadata": {"x": "y" * 70_000}}, "at most 65536 characters"),
    ],
)
def test_a_part_that_is_wrong_is_named(parts, what):
    with pytest.raises(TripleError, match=what):
        Triple("a", "b", "c", **parts)


@pytest.mark.parametrize("part", [{"span": (3, 1)}, {"span": (1,)}, {"confidence": 1.5}, {"uri": 7}])
def test_a_provenance_that_is_wrong_is_refused(part):
    with pytest.raises(TripleError, match=rf"provenance\.{next(iter(part))}"):
        Provenance(**part)


# Keys, ids, sources


def test_namespaces_have_keys_of_their_own(kb):
    kb.add(PLACED)
    assert values(kb.get_all("Acme", "seat")) == ["Berlin", "Bonn"]
    kb.set("Acme", "seat", "Ulm", namespace="sales")
    assert values(kb.get_all("Acme", "seat")) == ["Berlin", "Ulm"]
    assert kb.remove("Acme", namespace="sales") == 1 and kb.verify() == []
    assert_consistent(kb.snapshot(), HashingEncoder())


def test_a_second_namespace_embeds_no_key_again(kb):
    kb.add(ACME)
    kb._embedder._encoder.texts.clear()
    kb.add([Triple("Acme", "founder", "someone", namespace="rumours")])
    assert kb._embedder._encoder.texts == ["someone"]
    assert_consistent(kb.snapshot(), HashingEncoder())


def test_removal_by_id_source_and_tag(kb):
    kb.add([*PLACED, *ACME[2:]])
    assert kb.remove(ids=[1, 1, 99]) == 1 and kb.remove("Acme", ids=[4]) == 0
    assert kb.remove(source="atlas") == 1 and kb.remove(tags=["places", "checked"]) == 1
    assert values(kb) == ["Berlin", "Tomás Rivera"]
    with pytest.raises(ConfigurationError, match="got nothing"):
        kb.remove()
    for wrong in (["x"], [1.5], [None]):
        with pytest.raises(ConfigurationError, match="ids: expected whole numbers"):
            kb.remove(ids=wrong)
    with pytest.raises(ConfigurationError, match="top: expected at least 1"):
        kb.stats(0)


def test_replacing_by_id(kb):
    kb.add(ACME)
    new = kb.replace(1, Triple("Acme", "founders", "Lena and Tomás"))
    assert kb.triple(new).value == "Lena and Tomás" and kb.triple(1).value == "Lena Hoffmann"
    assert kb.get("Acme", "founder") is None and len(kb) == 3
    with pytest.raises(KnowledgeBaseError, match="got 1"):
        kb.replace(1, ACME[0])
    assert_consistent(kb.snapshot(), HashingEncoder())


def test_a_source_read_again_keeps_what_did_not_change(kb):
    def said(*values, source="atlas"):
        return [Triple(f"place {i}", "seat", v, provenance=Provenance(source)) for i, v in enumerate(values)]

    kb.add([*ACME, *said("Nuuk", "Bonn", "Ulm")])
    ids = kb.ids()
    result = kb.replace_source("atlas", said("Nuuk", "Berlin"))
    assert (result.added, result.replaced, result.unchanged) == (1, 0, 1)
    assert values(kb.view(source="atlas")) == ["Nuuk", "Berlin"] and kb.ids()[:4] == ids[:4] and kb.revision == 2
    assert kb.replace_source("atlas", said("Nuuk", "Berlin")).unchanged == 2 and kb.revision == 2
    kb.replace_source("atlas", [])
    assert list(kb) == ACME
    with pytest.raises(ConfigurationError, match="expected triples with provenance from 'atlas'"):
        kb.replace_source("atlas", said("x", source="other"))


def test_several_sources_are_replaced_in_one_revision_and_one_namespace(kb):
    def said(value, source, namespace=""):
        return Triple("Acme", f"size in {source}", value, provenance=Provenance(uri=source), namespace=namespace)

    before = [said(value, source, space) for value, source in (("40", "a"), ("41", "b"), ("42", "c")) for space in ("", "x")]
    kb.add(before)
    result = kb.replace_source(["a", "b"], [said("50", "a", "x")], namespace="x")
    assert (result.added, kb.revision, kb.revisions(1)[0].n_removed) == (1, 2, 2)
    assert set(kb) == {*before, said("50", "a", "x")} - {said("40", "a", "x"), said("41", "b", "x")}
    assert kb.triples([2, 1]) == [before[1], before[0]]
    kb.replace_source({"a", "b"}, [])
    assert set(kb) == {said("42", "c"), said("42", "c", "x")}, "everywhere"
    with pytest.raises(ConfigurationError, match="expected triples with provenance from 'a', 'b', got"):
        kb.replace_source(["b", "a"], [said("x", "c")])


# History


def test_history_tells_every_version(kb):
    kb.add(ACME)
    kb.set("Acme", "seat", "Bonn")
    kb.remove("Acme", "seat")
    versions = kb.history("Acme", "seat")
    assert [(v.triple.value, v.added, v.removed) for v in versions] == [("Berlin", 1, 2), ("Bonn", 2, 3)]
    assert versions[0].added_at <= versions[0].removed_at
    assert len(kb.history("Acme")) == 3 and kb.history("nobody") == []
    assert [(r.number, r.action, r.n_added, r.n_removed, r.n_triples) for r in kb.revisions()] == [
        (3, "remove", 0, 1, 2), (2, "set", 1, 1, 3), (1, "add", 3, 0, 3),
    ]  # fmt: skip


def test_diff_and_rollback(kb):
    kb.add(ACME)
    kb.set("Acme", "seat", "Bonn")
    kb.remove("Borealis")
    diff = kb.diff(1)
    assert values(diff.added) == ["Bonn"] and values(diff.removed) == ["Berlin", "Tomás Rivera"]
    assert kb.diff(3, 1) == type(diff)(diff.removed, diff.added) and not kb.diff(2, 2)
    first = kb.snapshot(1).fingerprint
    assert kb.rollback(1) == 4
    assert sorted(values(kb)) == sorted(values(ACME)) and kb.snapshot().fingerprint == first
    assert not kb.diff(1, 4), "back to what it was"
    assert kb.rollback(1) == 4, "nothing to do"
    assert kb.rollback(3) == 5 and values(kb) == ["Lena Hoffmann", "Bonn"]
    assert kb.rollback(0) == 6 and len(kb) == 0 and kb.verify() == []
    with pytest.raises(ConfigurationError, match=r"expected a revision in 0\.\.6, got 7"):
        kb.rollback(7)


def test_rollback_brings_labels_back_and_embeds_nothing(kb):
    kb.add(PLACED)
    kb.snapshot().value_embeddings()
    kb.remove(source="handbook")
    kb._embedder._encoder.texts.clear()
    kb.rollback(1)
    assert values(kb.view(source="handbook", tags="people")) == ["Lena Hoffmann"]
    assert values(kb.view(at="2019")) == ["Lena Hoffmann", "Berlin"]
    kb.snapshot().value_embeddings()
    assert kb._embedder._encoder.texts == []
    assert_consistent(kb.snapshot(), HashingEncoder())


def test_an_earlier_revision_is_a_snapshot_like_any(kb):
    kb.add(ACME)
    now = kb.snapshot()
    kept = now.fingerprint, now.ids.tolist()
    kb.set("Acme", "seat", "Bonn")
    kb.remove("Acme", "founder")
    assert kb.snapshot(1) is now, "one in use is not read again"
    del now
    past = kb.snapshot(1)
    assert (past.fingerprint, past.ids.tolist()) == kept and past.revision == 1
    assert_consistent(past, HashingEncoder())
    assert len(kb.snapshot(0)) == 0 and len(kb.snapshot()) == 2
    with pytest.raises(ConfigurationError):
        kb.snapshot(-1)


# Views


def test_a_view_is_a_knowledge_base_for_reading(kb):
    kb.add(PLACED)
    view = kb.view(namespace="")
    assert isinstance(view, KnowledgeBase) and isinstance(view, KBView)
    assert values(view) == ["Lena Hoffmann", "Berlin", "Nuuk"] and len(view) == 3
    assert values(view.get_all("Acme")) == ["Lena Hoffmann", "Berlin"]
    assert {hit.triple.value for hit in view.search("seat of Acme", k=9)} == set(values(view))
    assert values(hit.triple for hit in view.find("seat")) != [] and not view.find("bonn")
    assert view.info().n_triples == 3 and view.info().fingerprint == view.snapshot().fingerprint
    assert_consistent(view.snapshot(), HashingEncoder())
    for change in (lambda: view.add(ACME), lambda: view.set("a", "b", "c"), lambda: view.remove("Acme"), lambda: view.rollback(0)):
        with pytest.raises(ReadOnlyError, match="is a view"):
            change()
    with view:
        pass
    assert len(kb) == 4, "a view closes nothing"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"namespace": "sales"}, ["Bonn"]),
        ({"tags": "places"}, ["Bonn", "Nuuk"]),
        ({"tags": ["places", "checked"]}, ["Bonn"]),
        ({"source": "handbook"}, ["Lena Hoffmann"]),
        ({"source": "https://acme.example/handbook"}, ["Lena Hoffmann"]),
        ({"source": "unheard of"}, []),
        ({"at": "2019-12-31"}, ["Lena Hoffmann", "Berlin"]),
        ({"at": "2020"}, ["Lena Hoffmann", "Bonn"]),
        ({"at": date(2021, 3, 4)}, ["Lena Hoffmann", "Bonn", "Nuuk"]),
        ({"at": "2022", "tags": "places", "namespace": ""}, ["Nuuk"]),
    ],
)
def test_a_view_shows_what_it_was_asked_for(kb, choice, expected):
    kb.add(PLACED)
    view = kb.view(**choice)
    assert values(view) == expected
    snapshot = view.snapshot()
    assert values(snapshot.triples(range(len(snapshot)))) == expected, "arrays and queries agree"
    assert_consistent(snapshot, HashingEncoder())


def test_a_view_follows_changes_and_a_pinned_one_does_not(kb):
    kb.add(PLACED)
    live, pinned = kb.view(tags="places"), kb.view(tags="places", revision=1)
    assert live.snapshot() is live.snapshot()
    kb.add([Triple("Zeta", "seat", "Oslo", tags=("places",))])
    kb.remove("Borealis")
    assert values(live) == ["Bonn", "Oslo"] and values(pinned) == ["Bonn", "Nuuk"]
    assert len(live) == len(live.snapshot()) == 2 and len(pinned) == 2 and pinned.revision == 1
    assert values(pinned.get_all("Borealis")) == ["Nuuk"] and pinned.find("nuuk") and not live.find("nuuk")


def test_a_look_up_in_a_view_does_not_list_what_is_in_it():
    kb = KnowledgeBase.open(":memory:", encoder=HashingEncoder())
    kb.add(Triple(f"Robot {i}", "price", f"{i} euros", namespace="shop", tags=("new",), provenance=PAGE) for i in range(3000))
    steps = 0

    def count():
        nonlocal steps
        steps += 100

    with kb._store.connection() as connection:
        connection.set_progress_handler(count, 100)
        for choice in ({"namespace": "shop"}, {"tags": "new"}, {"source": "handbook"}):
            view = kb.view(**choice)
            assert values(view.get_all("Robot 7", "price")) == values(hit.triple for hit in view.find("robot 7")) == ["7 euros"]
            assert [version.triple.value for version in view.history("Robot 7")] == ["7 euros"]
        kb.remove("Robot 8", namespace="shop")
        few, steps = steps, 0
        assert len(kb.view(namespace="shop").ids(property="price")) == 2999
        connection.set_progress_handler(None, 100)
    assert few < 5000 < steps


def test_a_view_of_a_view_is_narrower(kb):
    kb.add(PLACED)
    assert values(kb.view(tags="places").view(namespace="sales")) == ["Bonn"]
    with pytest.raises(ConfigurationError, match="outside of it"):
        kb.view(namespace="sales").view(namespace="other")


def test_a_view_holds_no_copy_of_the_embeddings(tmp_path):
    with KnowledgeBase.open(tmp_path / "kb", encoder=CountingEncoder()) as kb:
        kb.add([Triple(f"name {i}", "property", f"value {i}", tags=("odd",) if i % 2 else ()) for i in range(200)])
        whole, view = kb.snapshot().key_embeddings, kb.view(tags="odd").snapshot().key_embeddings
        assert view.array is whole and len(view) == 100 and view.shape == (100, 64)
        np.testing.assert_array_equal(view[10:13], whole[[21, 23, 25]])
        np.testing.assert_array_equal(view[np.array([3, 1])], whole[[7, 3]])
        assert np.asarray(view, np.float32).dtype == np.float32
