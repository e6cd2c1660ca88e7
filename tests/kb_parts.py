"""What the tests of the knowledge base share."""

import sqlite3

import numpy as np
import pytest

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.knowledge_base import schema
from kblam_engine.sentence_encoder import HashingEncoder

ACME = [
    Triple("Acme", "founder", "Lena Hoffmann"),
    Triple("Acme", "seat", "Berlin", {"source": "register"}),
    Triple("Borealis", "founder", "Tomás Rivera"),
]


class CountingEncoder(HashingEncoder):
    """Remembers what it was asked to embed."""

    def __init__(self, embed_dim=64):
        super().__init__(embed_dim)
        self.texts = []

    def encode(self, texts, *, progress=False):
        self.texts.extend(texts)
        return super().encode(texts, progress=progress)


@pytest.fixture(name="kb", params=["disk", "memory"])
def kb_fixture(request, tmp_path):
    path = tmp_path / "kb" if request.param == "disk" else ":memory:"
    with KnowledgeBase.open(path, encoder=CountingEncoder()) as opened:
        yield opened


def open_kb(path, **options):
    return KnowledgeBase.open(path, encoder=HashingEncoder(), **options)


def contents(snapshot):
    return sorted(snapshot.triples(range(len(snapshot))), key=lambda t: (t.name, t.property, t.value))


def assert_consistent(snapshot, encoder):
    """Every array of a snapshot says the same as its triples."""
    triples = snapshot.triples(range(len(snapshot)))
    n, d = len(triples), encoder.embed_dim
    assert snapshot.ids.shape == (n,) and len(set(snapshot.ids.tolist())) == n
    assert snapshot.key_embeddings.shape == (n, d) and snapshot.key_embeddings.dtype == np.float16
    assert snapshot.value_embeddings().shape == (n, d)
    assert [snapshot.names[i] for i in snapshot.name_index] == [t.name for t in triples]
    assert [snapshot.properties[i] for i in snapshot.property_index] == [t.property for t in triples]
    assert sorted(snapshot.names) == sorted({t.name for t in triples})
    assert sorted(snapshot.properties) == sorted({t.property for t in triples})
    assert snapshot.property_embeddings.shape == (len(snapshot.properties), d)
    for i, name in enumerate(snapshot.names):
        assert snapshot.positions_of_name(i).tolist() == [p for p, t in enumerate(triples) if t.name == name]
    if n:
        keys = encoder.encode([t.key_text for t in triples])
        np.testing.assert_array_equal(snapshot.key_embeddings, keys.astype(np.float16))
        np.testing.assert_array_equal(
            snapshot.value_embeddings(), encoder.encode([t.value for t in triples]).astype(np.float16)
        )
        np.testing.assert_array_equal(snapshot.property_embeddings, encoder.encode(snapshot.properties))


def edit(folder, statement, *parameters):
    """Change the database behind the back of its knowledge base."""
    with sqlite3.connect(folder / "kb.sqlite") as connection:
        connection.execute(statement, parameters)
    connection.close()


def make_version_1(path, triples):
    """Write a knowledge base as the first format had it."""
    path.mkdir()
    encoder = HashingEncoder()
    connection = sqlite3.connect(path / "kb.sqlite")
    connection.executescript(
        schema.TABLES.replace(",\n    namespace INTEGER NOT NULL DEFAULT 0,\n    context TEXT", "")
        + ";CREATE UNIQUE INDEX live_slots ON triples (slot) WHERE removed IS NULL"
    )
    assert "context" not in str(connection.execute("SELECT sql FROM sqlite_master WHERE name = 'triples'").fetchall())
    for i, triple in enumerate(triples):
        for table, text in (("names", triple.name), ("properties", triple.property)):
            blob = encoder.encode([text])[0].astype("<f4").tobytes()
            values = (text,) if table == "names" else (text, blob)
            columns = "text" if table == "names" else "text, embedding"
            connection.execute(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({','.join('?' * len(values))})", values)
        connection.execute(
            "INSERT INTO triples (name_id, property_id, value, slot, added) VALUES ((SELECT id FROM names WHERE text = ?),"
            "(SELECT id FROM properties WHERE text = ?), ?, ?, 1)",
            (triple.name, triple.property, triple.value, i),
        )
    rows = encoder.encode([t.key_text for t in triples]).astype("<f2")
    (path / "keys-000001.f16").write_bytes(rows.tobytes())
    meta = {"schema_version": 1, "kb_id": "0" * 32, "revision": 1, "n_triples": len(triples), "n_slots": len(triples)}
    meta |= {"n_value_slots": 0, "digest": "0", "multi": 0, "embed_dim": 64}
    meta |= {"encoder_name": encoder.name, "encoder_fingerprint": encoder.fingerprint}
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    connection.commit()
    connection.close()
