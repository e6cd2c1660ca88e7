"""The knowledge base against a dict, and what its snapshots say."""

import itertools
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from kb_parts import ACME, CountingEncoder, assert_consistent, contents, kb_fixture, open_kb  # noqa: F401

from kblam_engine import Triple
from kblam_engine.errors import (
    ConfigurationError,
    TripleError,
)
from kblam_engine.knowledge_base import AddResult, batches, slots
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Provenance


def test_add_get_remove(kb):
    assert kb.add(ACME) == AddResult(added=3, replaced=0, unchanged=0)
    assert len(kb) == 3 and list(kb) == ACME and kb.revision == 1
    assert kb.get("Acme", "seat") == ACME[1] and kb.get("Acme", "colour") is None
    assert kb.get_all("Acme") == ACME[:2]
    assert kb.remove("Acme", "seat") == 1 and kb.remove("Acme", "seat") == 0
    assert kb.get("Acme", "seat") is None and kb.revision == 2
    assert kb.remove("Acme") == 1 and list(kb) == ACME[2:]
    assert kb.remove("Borealis", "founder", "someone else") == 0
    assert_consistent(kb.snapshot(), HashingEncoder())


def test_same_name_and_property_replaces_the_value(kb):
    kb.add(ACME)
    result = kb.add([Triple("Acme", "founder", "Ines Vogel"), ACME[1], Triple("Acme", "size", "40 people")])
    assert result == AddResult(added=1, replaced=1, unchanged=1)
    assert kb.get("Acme", "founder").value == "Ines Vogel" and len(kb) == 4


def test_the_last_of_one_batch_wins(kb):
    assert kb.add([Triple("a", "b", "1"), Triple("a", "b", "2")]) == AddResult(1, 1, 0)
    assert [t.value for t in kb] == ["2"]


def test_adding_what_is_there_is_no_revision(kb):
    kb.add(ACME)
    before = kb.snapshot()
    assert kb.add(ACME) == AddResult(0, 0, 3)
    assert kb.revision == 1 and kb.snapshot() is before


def test_changed_metadata_is_a_change(kb):
    kb.add(ACME)
    assert kb.add([Triple("Acme", "seat", "Berlin", {"source": "web"})]) == AddResult(0, 1, 0)
    assert kb.get("Acme", "seat").metadata == {"source": "web"}


def test_set_keeps_the_position_and_embeds_the_value_alone(kb):
    kb.add(ACME)
    before = kb.snapshot()
    kb._embedder._encoder.texts.clear()
    new_id = kb.set("Acme", "founder", "Ines Vogel", {"since": 2020})
    after = kb.snapshot()
    assert kb._embedder._encoder.texts == ["Ines Vogel"]
    assert after.triple(0) == Triple("Acme", "founder", "Ines Vogel", {"since": 2020})
    assert after.ids[0] == new_id and new_id not in before.ids
    assert before.triple(0) == ACME[0], "a snapshot does not change"
    assert kb.set("New", "thing", "x") == kb.snapshot().ids[-1]


def test_removed_equals_never_added(kb):
    kb.add(ACME[:2])
    before = kb.snapshot()
    kb.add([Triple("Zeta", "moon", "none")])
    assert kb.snapshot().fingerprint != before.fingerprint
    kb.remove("Zeta")
    after = kb.snapshot()
    assert after.fingerprint == before.fingerprint and after.uid != before.uid
    assert after.names == before.names and after.properties == before.properties
    assert after.ids.tolist() == before.ids.tolist()
    assert_consistent(after, HashingEncoder())


def test_order_does_not_change_the_fingerprint(tmp_path):
    with open_kb(tmp_path / "a") as a, open_kb(":memory:") as b:
        a.add(ACME)
        b.add(ACME[::-1])
        assert a.snapshot().fingerprint == b.snapshot().fingerprint and a.snapshot().uid != b.snapshot().uid


def test_multi_keeps_several_values_and_remembers(tmp_path):
    with open_kb(tmp_path / "kb", multi=True) as kb:
        assert kb.add([Triple("WHO", "member", "Chad"), Triple("WHO", "member", "Peru")]) == AddResult(2, 0, 0)
        assert kb.add([Triple("WHO", "member", "Peru")]) == AddResult(0, 0, 1)
    with open_kb(tmp_path / "kb") as kb:
        assert kb.add([Triple("WHO", "member", "Fiji")]) == AddResult(1, 0, 0)
        assert [t.value for t in kb.get_all("WHO", "member")] == ["Chad", "Peru", "Fiji"]
        assert_consistent(kb.snapshot(), HashingEncoder())
        assert kb.verify() == [] and kb.info().multi
        assert kb.remove("WHO", "member", "Chad") == 1
        kb.set("WHO", "member", "Tonga")
        assert [t.value for t in kb] == ["Tonga"]
        assert_consistent(kb.snapshot(), HashingEncoder())


def test_nothing_is_added_when_one_is_no_triple(kb):
    with pytest.raises(TripleError, match="triples: expected an iterable of Triple, got Triple; put it into a list"):
        kb.add(Triple("Acme", "founder", "Lena"))
    with pytest.raises(TripleError, match="got NoneType"):
        kb.add(None)
    with pytest.raises(TripleError, match="expected a Triple, got tuple"):
        kb.add([ACME[0], ("a", "b", "c")])
    assert len(kb) == 0 and kb.revision == 0


def test_an_endless_batch_is_refused(kb, monkeypatch):
    monkeypatch.setattr(batches, "MAX_BATCH", 5)
    endless = (Triple(f"name {i}", "property", "value") for i in itertools.count())
    with pytest.raises(ConfigurationError, match="expected at most 5 triples in one change, got more; add them in parts"):
        kb.add(endless)
    assert len(kb) == 0 and next(endless).name == "name 6"


def test_empty_knowledge_base(kb):
    snapshot = kb.snapshot()
    assert len(snapshot) == 0 and snapshot.key_embeddings.shape == (0, 64) and snapshot.names == []
    assert snapshot.encoder_fingerprint == HashingEncoder().fingerprint
    assert kb.search("anything") == [] and kb.verify() == [] and list(kb) == []
    assert kb.add([]) == AddResult(0, 0, 0) and kb.revision == 0
    assert_consistent(snapshot, HashingEncoder())


def test_search_is_by_meaning_best_first(kb):
    kb.add(ACME)
    hits = kb.search("Who is the founder of Borealis?", k=2)
    assert [hit.triple for hit in hits][0] == ACME[2] and len(hits) == 2
    assert hits[0].score > hits[1].score and hits[0].id == kb.snapshot().ids[2]
    assert len(kb.search("founder", k=50)) == 3
    with pytest.raises(ConfigurationError):
        kb.search(" ")


def test_positions_and_ids_out_of_range_are_refused(kb):
    kb.add(ACME)
    snapshot = kb.snapshot()
    for bad in (3, -1):
        with pytest.raises(IndexError, match="expected positions in 0..2"):
            snapshot.triple(bad)
    with pytest.raises(IndexError):
        snapshot.positions_of_name(2)


# A model of the store: a dict, and after every step the same contents, arrays included.


class StoreMachine(RuleBasedStateMachine):
    names = st.sampled_from(["Acme", "Borealis", "Zoë", "a\nb"])
    properties = st.sampled_from(["founder", "seat", "size"])
    values = st.text("xyz ", min_size=1, max_size=3).filter(str.strip)

    @initialize(in_memory=st.booleans(), patched_share=st.sampled_from([slots.PATCHED_SHARE, 1, 100]))
    def start(self, in_memory, patched_share):
        import tempfile

        # A knowledge base this small makes its columns anew for every change; a large one patches them.
        self.patched_share, slots.PATCHED_SHARE = slots.PATCHED_SHARE, patched_share
        self.directory = None if in_memory else tempfile.TemporaryDirectory()
        self.path = ":memory:" if in_memory else os.path.join(self.directory.name, "kb")
        self.kb = open_kb(self.path)
        self.model = {}
        self.past = None
        self.from_page = set()
        self.revisions = {0: ({}, set())}

    def teardown(self):
        if hasattr(self, "kb"):
            slots.PATCHED_SHARE = self.patched_share
            assert self.kb.verify() == []
            self.kb.close()
            if self.directory:
                self.directory.cleanup()

    @rule(items=st.lists(st.tuples(names, properties, values), max_size=6))
    def add(self, items):
        self.kb.add([Triple(*item) for item in items])
        self.model.update({(name, prop): value.strip() for name, prop, value in items})
        self.from_page -= {(name, prop) for name, prop, _ in items}

    @rule(name=names, prop=properties, value=values)
    def set(self, name, prop, value):
        self.kb.set(name, prop, value)
        self.model[name, prop] = value.strip()
        self.from_page.discard((name, prop))

    @rule(name=names, prop=properties | st.none())
    def remove(self, name, prop):
        gone = [key for key in self.model if key[0] == name and prop in (None, key[1])]
        assert self.kb.remove(name, prop) == len(gone)
        for key in gone:
            del self.model[key]
        self.from_page -= set(gone)

    @rule(items=st.lists(st.tuples(names, properties, values), max_size=4))
    def read_a_source_again(self, items):
        said = {(name, prop): value.strip() for name, prop, value in items}
        origin = Provenance("a page")
        self.kb.replace_source("a page", [Triple(*key, value, provenance=origin) for key, value in said.items()])
        for key in [key for key in self.from_page if key not in said]:
            del self.model[key]
        self.model.update(said)
        self.from_page = set(said)

    @rule(data=st.data())
    def rollback(self, data):
        revision = data.draw(st.sampled_from(sorted(self.revisions)))
        self.kb.rollback(revision)
        self.model, self.from_page = dict(self.revisions[revision][0]), set(self.revisions[revision][1])

    @rule(data=st.data())
    def look_back(self, data):
        revision = data.draw(st.sampled_from(sorted(self.revisions)))
        past = self.kb.snapshot(revision)
        assert {(t.name, t.property): t.value for t in contents(past)} == self.revisions[revision][0]
        assert_consistent(past, HashingEncoder())
        diff = self.kb.diff(revision)
        was, now = self.revisions[revision][0].items(), self.model.items()
        assert {(t.name, t.property): t.value for t in diff.added}.items() >= now - was
        assert {(t.name, t.property): t.value for t in diff.removed}.items() >= was - now

    @rule()
    def compact(self):
        self.kb.compact()
        oldest = self.kb.info().oldest_revision
        self.revisions = {number: then for number, then in self.revisions.items() if number >= oldest}

    @rule()
    def reopen(self):
        if self.directory:
            before = self.kb.snapshot()
            self.kb.close()
            self.kb = open_kb(self.path)
            after = self.kb.snapshot()
            assert after.ids.tolist() == before.ids.tolist() and after.fingerprint == before.fingerprint
            self.past = None

    @rule()
    def keep_a_snapshot(self):
        self.past = self.kb.snapshot(), dict(self.model), self.kb.snapshot().key_embeddings.copy()

    @invariant()
    def agrees(self):
        if not hasattr(self, "kb"):
            return
        snapshot = self.kb.snapshot()
        assert {(t.name, t.property): t.value for t in self.kb} == self.model
        assert {(t.name, t.property): t.value for t in contents(snapshot)} == self.model
        self.revisions[snapshot.revision] = dict(self.model), set(self.from_page)
        assert len(self.kb) == len(snapshot) == len(self.model) and snapshot.revision == self.kb.revision
        assert_consistent(snapshot, HashingEncoder())
        if self.past:
            old, model, keys = self.past
            assert {(t.name, t.property): t.value for t in contents(old)} == model
            np.testing.assert_array_equal(old.key_embeddings, keys)


StoreMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStore = StoreMachine.TestCase


class ManyValuesMachine(RuleBasedStateMachine):
    """Namespaces, tags and several values of a property: a set of triples, of which every view is a part."""

    names = st.sampled_from(["Acme", "Zoë"])
    properties = st.sampled_from(["founder", "seat"])
    values = st.sampled_from(["x", "y", "z"])
    namespaces = st.sampled_from(["", "sales", "support"])
    tags = st.sets(st.sampled_from(["a", "b"]))
    triples = st.builds(
        lambda name, prop, value, namespace, tags: Triple(name, prop, value, namespace=namespace, tags=tuple(tags)),
        names, properties, values, namespaces, tags,
    )

    @initialize()
    def start(self):
        self.kb = open_kb(":memory:", multi=True)
        self.model = {}
        self.revisions = {0: {}}

    def teardown(self):
        if hasattr(self, "kb"):
            assert self.kb.verify() == []
            self.kb.close()

    def put(self, triple):
        self.model[triple.namespace, triple.name, triple.property, triple.value] = triple

    def drop(self, gone):
        self.model = {key: triple for key, triple in self.model.items() if not gone(triple)}

    @rule(batch=st.lists(triples, max_size=6))
    def add(self, batch):
        self.kb.add(batch)
        for triple in batch:
            self.put(triple)

    @rule(triple=triples)
    def set(self, triple):
        self.kb.set(*self.parts(triple), namespace=triple.namespace, tags=triple.tags)
        self.drop(lambda t: (t.namespace, t.name, t.property) == (triple.namespace, triple.name, triple.property))
        self.put(triple)

    @rule(namespace=namespaces | st.none(), tags=tags, name=names | st.none())
    def remove(self, namespace, tags, name):
        if namespace is None and not tags and name is None:
            return

        def gone(t):
            return namespace in (None, t.namespace) and tags <= set(t.tags) and name in (None, t.name)

        count = sum(map(gone, self.model.values()))
        assert self.kb.remove(name, namespace=namespace, tags=tags) == count
        self.drop(gone)

    @rule(data=st.data())
    def rollback(self, data):
        revision = data.draw(st.sampled_from(sorted(self.revisions)))
        self.kb.rollback(revision)
        self.model = dict(self.revisions[revision])

    @rule()
    def compact(self):
        self.kb.compact()
        oldest = self.kb.info().oldest_revision
        self.revisions = {number: then for number, then in self.revisions.items() if number >= oldest}

    @rule(namespace=namespaces | st.none(), tags=tags, data=st.data())
    def look_at_a_part(self, namespace, tags, data):
        revision = data.draw(st.sampled_from(sorted(self.revisions)))
        view = self.kb.view(namespace=namespace, tags=tags, revision=revision)
        then = self.revisions[revision].values()
        expected = {t for t in then if namespace in (None, t.namespace) and tags <= set(t.tags)}
        assert set(view) == set(contents(view.snapshot())) == expected and len(view) == len(expected)
        assert_consistent(view.snapshot(), HashingEncoder())

    @staticmethod
    def parts(triple):
        return triple.name, triple.property, triple.value

    @invariant()
    def agrees(self):
        if not hasattr(self, "kb"):
            return
        assert len(list(self.kb)) == len(self.kb) == len(self.model)
        assert set(self.kb) == set(contents(self.kb.snapshot())) == set(self.model.values())
        self.revisions[self.kb.revision] = dict(self.model)


ManyValuesMachine.TestCase.settings = StoreMachine.TestCase.settings
TestManyValues = ManyValuesMachine.TestCase
