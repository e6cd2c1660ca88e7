"""What pushes and pulls of shards refuse: what is damaged, forged or somebody else's, and addresses that cannot be."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from transfer_parts import (  # noqa: F401  (fixtures)
    N_FILES,
    build,
    built_fixture,
    built_once_fixture,
    names_of,
    put,
    store_fixture,
    url_fixture,
    with_other_values,
)

from kblam_engine.cluster import is_sharded, read_manifest, verify_shards
from kblam_engine.cluster.manifest import FILE
from kblam_engine.cluster.transfer import pull_shards, push_shards
from kblam_engine.cluster.transfer_store import open_store
from kblam_engine.errors import (
    ConfigurationError,
    KnowledgeBaseError,
    KnowledgeBaseNotFoundError,
    MissingDependencyError,
)


def test_damaged_shards_are_not_pushed(built, url, store):
    record = read_manifest(built).shards[1]
    with (built / record.folder / "kb.sqlite").open("r+b") as file:
        file.seek(100)
        file.write(b"damaged")
    with pytest.raises(KnowledgeBaseError, match=f"got {record.folder}/kb.sqlite: not as it was written; build them again first"):
        push_shards(built, url)
    assert names_of(store) == set()


def test_a_damaged_file_is_never_put_in_place(built, url, store, tmp_path):
    sent = push_shards(built, url)
    damaged = next(name for name in sent.sent if name.endswith("kb.sqlite"))
    n = store.sizes()[damaged]
    for content in (bytes(n), b"short", b"long" * n):
        put(store, damaged, content)
        with pytest.raises(KnowledgeBaseError, match=rf"{damaged}: expected the file whose checksum shards.json says, got another one.*--all"):
            pull_shards(url, tmp_path / "out")
        assert not is_sharded(tmp_path / "out") and not list((tmp_path / "out").glob("shard-*"))
        assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.read_bytes().startswith(content[:5])]
    put(store, damaged, bytes(n))
    assert push_shards(built, url).sent == ()  # by its size it is there
    assert len(push_shards(built, url, everything=True).sent) == N_FILES
    pull_shards(url, tmp_path / "out")
    assert verify_shards(tmp_path / "out") == []
    store.remove([damaged])
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(KnowledgeBaseNotFoundError, match=damaged):
        pull_shards(url, tmp_path / "out")


def forged(manifest, what):
    """Return a manifest as JSON with one thing in it that does harm."""
    shard = manifest["shards"][0]
    digest = next(iter(shard["files"].values()))
    {
        "file outside": lambda: shard["files"].update({"../../evil": digest}),
        "absolute file": lambda: shard["files"].update({"/evil": digest}),
        "hidden file": lambda: shard["files"].update({".evil": digest}),
        "deep file": lambda: shard["files"].update({"index-0123456789ab/../../../evil": digest}),
        "journal": lambda: shard["files"].update({"kb.sqlite-journal": digest}),
        "folder outside": lambda: shard.update(folder="../evil"),
        "other folder": lambda: shard.update(folder="shard-00001-0123456789ab"),
        "source outside": lambda: shard.update(source="../../../evil"),
        "checksum": lambda: shard["files"].update({"kb.sqlite": "../../evil"}),
        "checksum of another kind": lambda: shard["files"].update({"kb.sqlite": 7}),
        "files in a list": lambda: shard.update(files=["kb.sqlite"]),
        "encoder": lambda: manifest.update(encoder={"a": 1}),
        "index": lambda: manifest.update(index="../evil"),
        "length": lambda: manifest.update(embed_dim=True),
        "number": lambda: shard.update(number=5),
        "no shards": lambda: manifest.update(shards=[]),
        "format": lambda: manifest.update(format="kblam-shards/9"),
        "more": lambda: manifest.update(more=1),
    }[what]()
    return json.dumps(manifest)


FORGERIES = [
    "file outside", "absolute file", "hidden file", "deep file", "journal", "folder outside", "other folder", "source outside", "checksum",
    "checksum of another kind", "files in a list", "encoder", "index", "length", "number", "no shards", "format", "more",
]  # fmt: skip


def test_forged_manifests_are_refused(built, url, store, tmp_path):
    push_shards(built, url)
    sound = store.read(FILE, 1 << 20)
    for what in FORGERIES:
        put(store, FILE, forged(json.loads(sound), what).encode())
        with pytest.raises(KnowledgeBaseError, match=r"shards.json: expected a manifest of shards, got .*; delete it and push the shards again"):
            pull_shards(url, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("*evil*"))


def test_what_is_no_manifest_is_refused(built, url, store, tmp_path):
    for content in (b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"format": "kblam-shards/1"}'):
        put(store, FILE, content)
        for call in (lambda: pull_shards(url, tmp_path / "out"), lambda: push_shards(built, url)):
            with pytest.raises(KnowledgeBaseError, match=r"shards.json: expected a manifest of shards, got"):
                call()
    assert not (tmp_path / "out").exists() and names_of(store) == {FILE}


def test_a_manifest_without_end_is_refused(url, store, tmp_path, monkeypatch):
    put(store, FILE, b" " * 2000)
    monkeypatch.setattr("kblam_engine.cluster.transfer_manifests._LARGEST", 1000)
    with pytest.raises(KnowledgeBaseError, match=r"expected at most 1,000 bytes, got more"):
        pull_shards(url, tmp_path / "out")


def test_what_somebody_else_has_there_is_refused_and_never_deleted(built, url, store, tmp_path):
    for name in ("photo.jpg", "photos/a.jpg", "shard-00000-0123456789ab/kb.sqlite", "pushed-list.json"):
        put(store, name)
        with pytest.raises(KnowledgeBaseError, match=re.escape(f"expected shards or nothing, got {name}; choose another address")):
            push_shards(built, url)
        assert names_of(store) == {name}
        store.remove([name])
    sent = push_shards(built, url).sent
    mine = {"photos/a.jpg", "shard-00000-0123456789ab/kb.sqlite", f"{Path(sent[0]).parent}/notes.txt", "README.md"}
    for name in mine:
        put(store, name)
    put(store, "pushed-0123456789ab.json", b"no manifest")
    for word in ("other", "third"):
        build(built, with_other_values(word))
        assert len(push_shards(built, url).removed) == N_FILES
    assert mine <= names_of(store) and len(names_of(store)) == N_FILES + 2 + len(mine)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x", "utf-8")
    with pytest.raises(KnowledgeBaseError, match=r"expected shards or an empty folder, got a folder with a\.jpg"):
        pull_shards(url, tmp_path / "photos")


def test_a_folder_in_which_shards_are_built_is_no_address(built, tmp_path):
    before = sorted(built.rglob("*"))
    other = build(tmp_path / "other" / "big.shards")
    for address in (built, other):
        with pytest.raises(KnowledgeBaseError, match="expected an address for pushes alone, got a folder in which shards are built"):
            push_shards(built, f"file://{address}")
    assert sorted(built.rglob("*")) == before


def test_other_shards_are_refused(built, url, tmp_path):
    push_shards(built, url)
    other = build(tmp_path / "other" / "big.shards", n_shards=2)
    with pytest.raises(KnowledgeBaseError, match="expected the shards of what is there, 3, got 2; choose another place"):
        push_shards(other, url)
    with pytest.raises(KnowledgeBaseError, match="expected the shards of what is there, 2, got 3; choose another place"):
        pull_shards(url, other)
    assert verify_shards(other) == []


@pytest.mark.parametrize("wrong", ["bucket/path", "s3:/bucket", "s3://", "://x", "zip://a::file:///b", "nothing://bucket/path", ""])
def test_addresses_that_cannot_be(built, wrong):
    with pytest.raises(ConfigurationError, match="expected an address"):
        push_shards(built, wrong)


def test_a_filesystem_that_is_not_installed(built, monkeypatch):
    for protocol, package in (("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingDependencyError, match=f"{protocol}:// needs a package that is not installed; pip install {package}$"):
            push_shards(built, f"{protocol}://bucket/path")


def test_what_a_store_refuses_is_one_line_without_secrets(built, tmp_path, monkeypatch):
    store = open_store("memory://ada:secret@bucket/path")
    assert store.url == "memory://bucket/path"

    def refused(*_, **__):
        raise RuntimeError("no credentials")

    monkeypatch.setattr(store._files, "find", refused)
    with pytest.raises(KnowledgeBaseError, match=r"cannot be listed: RuntimeError \(no credentials\); check the address, the credentials"):
        store.sizes()
