"""Shards pushed to a store and pulled from it: what is sent, what breaks off, what is refused."""

import hashlib
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from cluster_parts import N_SHARDS, QUESTIONS, request_of, some_triples, write_files
from filelock import FileLock

from kblam_engine.cli import build_app
from kblam_engine.cluster import build_shards, is_sharded, open_shards, read_manifest, verify_shards
from kblam_engine.cluster.folder import LOCK, PARTS
from kblam_engine.cluster.manifest import FILE, ShardRecord
from kblam_engine.cluster.transfer import pull_shards, push_shards
from kblam_engine.cluster.transfer_manifests import JOURNAL, as_stored
from kblam_engine.cluster.transfer_store import Store, open_store
from kblam_engine.errors import (
    ConfigurationError,
    KnowledgeBaseError,
    KnowledgeBaseLockedError,
    KnowledgeBaseNotFoundError,
    MissingDependencyError,
)

TRIPLES = some_triples(20)
N_FILES = 3 * N_SHARDS


def build(folder, triples=TRIPLES, **options):
    """Build shards of triples in `folder`; return it."""
    folder.parent.mkdir(exist_ok=True, parents=True)
    build_shards(request_of(write_files(folder.parent, triples), folder, **options))
    return folder


@pytest.fixture(scope="module")
def built_once(tmp_path_factory):
    return build(tmp_path_factory.mktemp("once") / "builder" / "big.shards")


@pytest.fixture
def built(built_once, tmp_path):
    """A folder of shards, with the files of triples beside it."""
    return shutil.copytree(built_once.parent, tmp_path / "builder") / "big.shards"


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    """The address of a store in memory or on the disk."""
    fsspec.filesystem("memory").store.clear()
    yield "memory://bucket/shards" if request.param == "memory" else f"file://{tmp_path}/store/shards"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def store(url):
    return open_store(url)


def put(store, name, content=b"x"):
    store.write(name, content)


def names_of(store):
    return set(store.sizes())


def is_whole(store):
    """Say whether the store has a manifest, and all that it names as it should be."""
    try:
        manifest = json.loads(store.read(FILE, 1 << 20))
    except KnowledgeBaseNotFoundError:
        return False
    for shard in manifest["shards"]:
        for name, digest in shard["files"].items():
            assert hashlib.sha256(b"".join(store.blocks(f"{shard['folder']}/{name}"))).hexdigest() == digest
    return True


def answers(folder):
    with open_shards(folder) as kb:
        return sorted(map(repr, kb.triples(range(len(kb)))))


def changed(triples=TRIPLES):
    """Return triples of which one, and so one shard, is another one."""
    return [*triples[:-1], replace(triples[-1], value="another one")]


def with_other_values(word="other"):
    return [replace(triple, value=f"{word} {triple.value}") for triple in TRIPLES]


class Broken(Exception):
    """What breaks a transfer off in a test."""


def breaking(monkeypatch, method, after):
    """Let a method of the store fail for good once it has been called `after` times."""
    done, before = [], getattr(Store, method)

    def called(self, *arguments):
        if len(done) >= after:
            raise Broken
        done.append(arguments)
        return before(self, *arguments)

    monkeypatch.setattr("kblam_engine.cluster.transfer_files.AT_ONCE", 1)  # else it is chance what was on its way
    monkeypatch.setattr(Store, method, called)


def test_what_is_pushed_can_be_pulled(built, url, store, tmp_path):
    progress = []
    sent = push_shards(built, url, progress=lambda *told: progress.append(told))
    assert (len(sent.sent), sent.n_files, sent.removed) == (N_FILES, N_FILES, ()) and sent.sent_bytes == sum(
        shard.size_bytes for shard in sent.manifest.shards
    )
    assert is_whole(store) and progress[-1] == ("sending (MB)", 1, 1)
    progress.clear()
    got = pull_shards(url, tmp_path / "new" / "out.shards", progress=lambda *told: progress.append(told))
    assert len(got.fetched) == N_FILES and got.fetched_bytes == sent.sent_bytes and progress[-1] == ("fetching (MB)", 1, 1)
    assert read_manifest(got.folder) == read_manifest(built) == got.manifest and verify_shards(got.folder) == []
    assert answers(got.folder) == answers(built) and not (got.folder / PARTS).exists()
    report = build_shards(request_of([str(p) for p in sorted(built.parent.glob("*.jsonl"))], got.folder))
    assert report.made == ()  # what was pulled is complete for a build as well


def test_again_nothing_is_moved(built, url, tmp_path):
    push_shards(built, url)
    pulled = tmp_path / "out"
    pull_shards(url, pulled)
    before = (pulled / FILE).stat()
    assert push_shards(built, url).sent == pull_shards(url, pulled).fetched == pull_shards(url, built).fetched == ()
    assert (pulled / FILE).stat() == before  # who looks at it has nothing to open again


def test_after_a_rebuild_only_changed_shards_are_moved(built, url, store, tmp_path):
    first = push_shards(built, url)
    pull_shards(url, tmp_path / "out")
    before = names_of(store)
    build(built, changed())
    second = push_shards(built, url)
    assert len(second.sent) == len(second.removed) == 3 and is_whole(store)
    assert set(second.removed) <= before and not set(second.removed) & names_of(store)
    assert len(names_of(store)) == N_FILES + 2 and len([n for n in names_of(store) if JOURNAL.fullmatch(n)]) == 1
    with open_shards(tmp_path / "out") as kb:  # goes on with what it has opened
        got = pull_shards(url, tmp_path / "out")
        assert got.fetched == second.sent and len(kb.triples(range(len(kb)))) == len(TRIPLES)
    assert answers(tmp_path / "out") == answers(built) != []
    assert first.manifest != second.manifest and verify_shards(tmp_path / "out") == []


def test_a_store_is_a_folder_of_shards(built, tmp_path):
    push_shards(built, f"file://{tmp_path}/store")
    assert verify_shards(tmp_path / "store") == [] and answers(tmp_path / "store") == answers(built)
    pull_shards(f"file://{built}", tmp_path / "copy")  # and a folder that was copied to a store can be pulled
    assert read_manifest(tmp_path / "copy") == read_manifest(built)


@pytest.mark.parametrize("after", [0, 4, N_FILES - 1])
def test_a_push_that_broke_off_goes_on(built, url, store, tmp_path, monkeypatch, after):
    push_shards(built, url)
    build(built, with_other_values())
    with monkeypatch.context() as patch:
        breaking(patch, "send", after)
        with pytest.raises(Broken):
            push_shards(built, url)
    assert is_whole(store)  # as it was
    assert len(pull_shards(url, tmp_path / "out").fetched) == N_FILES
    second = push_shards(built, url)
    assert len(second.sent) == N_FILES - after and len(second.removed) == N_FILES
    assert is_whole(store) and len(names_of(store)) == N_FILES + 2


def test_a_first_push_that_broke_off_leaves_no_manifest(built, url, store, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        breaking(patch, "send", 4)
        with pytest.raises(Broken):
            push_shards(built, url)
    assert FILE not in names_of(store)
    with pytest.raises(KnowledgeBaseNotFoundError, match=r"expected shards, found no shards.json; put them there: kblam cluster push"):
        pull_shards(url, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    build(built, with_other_values())  # other triples before it goes on: what the first push left is known to be its own
    assert push_shards(built, url).removed and len(names_of(store)) == N_FILES + 2 and is_whole(store)


@pytest.mark.parametrize("after", [0, 1])
def test_what_a_push_did_not_come_to_delete_is_deleted_by_the_next(built, url, store, monkeypatch, after):
    push_shards(built, url)
    build(built, changed())
    with monkeypatch.context() as patch:
        breaking(patch, "remove", after)
        with pytest.raises(Broken):
            push_shards(built, url)
    assert is_whole(store)
    again = push_shards(built, url)
    assert again.sent == () and len(again.removed) == (3 if after == 0 else 0)
    assert len(names_of(store)) == N_FILES + 2


def test_half_a_file_is_sent_again(built, url, store):
    sent = push_shards(built, url).sent
    put(store, sent[0], b"half")
    assert push_shards(built, url).sent == sent[:1] and is_whole(store)


def test_a_shard_that_was_made_again_takes_nobodys_place(built, url, store, tmp_path, monkeypatch):
    push_shards(built, url)
    pulled = tmp_path / "out"
    pull_shards(url, pulled)
    before = answers(pulled)
    shutil.rmtree(built)
    build(built)  # the same triples, so the same names here; other files: each database has an id of its own
    with monkeypatch.context() as patch:
        breaking(patch, "send", 2)
        with pytest.raises(Broken):
            push_shards(built, url)
    assert is_whole(store) and pull_shards(url, pulled).fetched == ()
    push_shards(built, url)
    with monkeypatch.context() as patch:
        breaking(patch, "blocks", 3)  # the manifest is one
        with pytest.raises(Broken):
            pull_shards(url, pulled)
    assert verify_shards(pulled) == [] and answers(pulled) == before
    assert 0 < len(pull_shards(url, pulled).fetched) < N_FILES
    assert read_manifest(pulled) == read_manifest(built) and verify_shards(pulled) == []


@pytest.mark.parametrize("after", [1, 6])
def test_a_pull_that_broke_off_goes_on(built, url, tmp_path, monkeypatch, after):
    push_shards(built, url)
    pulled = tmp_path / "out"
    pull_shards(url, pulled)
    before = answers(pulled)
    build(built, with_other_values())
    push_shards(built, url)
    with monkeypatch.context() as patch:
        breaking(patch, "blocks", after)
        with pytest.raises(Broken):
            pull_shards(url, pulled)
    assert answers(pulled) == before and verify_shards(pulled) == []
    assert len(pull_shards(url, pulled).fetched) == N_FILES - (after - 1)
    assert answers(pulled) == answers(built) and not (pulled / PARTS).exists()


def test_what_is_damaged_here_is_fetched_again(built, url, tmp_path):
    push_shards(built, url)
    pulled = tmp_path / "out"
    pull_shards(url, pulled)
    record = read_manifest(pulled).shards[1]
    (pulled / record.folder / "kb.sqlite").write_bytes(b"damaged")
    next((pulled / record.folder).glob("keys-*")).unlink()
    assert len(pull_shards(url, pulled).fetched) == 2 and verify_shards(pulled) == []
    (pulled / f"{record.folder}.json").unlink()
    shutil.rmtree(pulled / record.folder)
    (pulled / record.folder).symlink_to(built / record.folder)
    assert pull_shards(url, pulled).fetched == () and verify_shards(built) == []


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


def test_builds_pushes_and_pulls_keep_out_of_each_others_way(built, url, tmp_path):
    push_shards(built, url)
    with FileLock(built / LOCK):
        for call in (lambda: push_shards(built, url), lambda: pull_shards(url, built)):
            with pytest.raises(KnowledgeBaseLockedError, match="another process is building, pushing or pulling shards there; wait for it"):
                call()
    seen = []

    def told(what, done, total):
        if not seen:
            seen.append(what)
            with pytest.raises(KnowledgeBaseLockedError):
                build(built)

    pull_shards(url, built, progress=told)
    assert seen


def test_shards_that_are_pushed_during_a_pull_are_told(built, url, store, tmp_path, monkeypatch):
    push_shards(built, url)
    again, blocks = [], Store.blocks

    def meanwhile(self, name):
        if name != FILE and not again:
            again.append(name)
            build(built, changed())
            again.append(push_shards(built, url))
        return blocks(self, name)

    with monkeypatch.context() as patch:
        patch.setattr("kblam_engine.cluster.transfer_files.AT_ONCE", 1)
        patch.setattr(Store, "blocks", meanwhile)
        with pytest.raises(KnowledgeBaseError, match="others were pushed while they were pulled; pull again, which goes on"):
            pull_shards(url, tmp_path / "out")
    assert len(pull_shards(url, tmp_path / "out").fetched) <= N_FILES and answers(tmp_path / "out") == answers(built)


def test_another_push_that_deletes_what_this_one_sent_is_told(built, url, store, monkeypatch):
    send = Store.send

    def undone(self, path, name):
        send(self, path, name)
        self.remove([name])

    with monkeypatch.context() as patch:
        patch.setattr("kblam_engine.cluster.transfer_files.AT_ONCE", 1)
        patch.setattr(Store, "send", undone)
        with pytest.raises(KnowledgeBaseError, match="got no file; is another push to this address going on"):
            push_shards(built, url)
    assert FILE not in names_of(store)


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


def test_names_at_a_store_are_those_of_contents(built):
    manifest = read_manifest(built)
    stored = as_stored(manifest)
    assert as_stored(stored) == stored and {s.folder for s in stored.shards}.isdisjoint(s.folder for s in manifest.shards)
    other = replace(manifest.shards[0], files={**manifest.shards[0].files, "kb.sqlite": "0" * 64})
    assert as_stored(replace(manifest, shards=(other, *manifest.shards[1:]))).shards[0].folder != stored.shards[0].folder
    assert all(isinstance(shard, ShardRecord) for shard in stored.shards)


def test_the_commands(kblam, built, url, tmp_path):
    code, out, err = kblam("cluster", "push", built, url)
    assert code == 0 and f"{len(TRIPLES)} triples in 3 shards at {url}: 9 of 9 files sent now" in out and not err
    code, out, _ = kblam("cluster", "push", built, url, "--json")
    assert code == 0 and json.loads(out)["sent"] == 0 and json.loads(out)["n_files"] == N_FILES
    code, out, _ = kblam("cluster", "push", built, url, "--all", "--json")
    assert code == 0 and json.loads(out)["sent"] == N_FILES
    code, out, err = kblam("cluster", "pull", url, tmp_path / "out")
    assert code == 0 and "9 of 9 files fetched now" in out and f"kblam ask --kb {tmp_path / 'out'}" in out and not err
    code, out, _ = kblam("cluster", "pull", url, tmp_path / "out", "--json")
    assert code == 0 and json.loads(out)["fetched"] == 0 and json.loads(out)["n_triples"] == len(TRIPLES)
    build(built, changed())
    assert "3 files of before deleted" in kblam("cluster", "push", built, url)[1]
    code, _, err = kblam("cluster", "push", tmp_path, url)
    assert code == 1 and "found no shards.json" in err and err.count("\n") == 1 and LOCK not in os.listdir(tmp_path)
    code, _, err = kblam("cluster", "pull", "big.shards", tmp_path / "out")
    assert code == 1 and "expected an address such as s3://bucket/path" in err and err.count("\n") == 1


def test_the_page_runs(kblam, built, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "scale.md").read_text("utf-8").split("## Shards")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    commands = [line.split("#")[0].split()[1:] for line in block.splitlines() if line.startswith("kblam")]
    assert [command[:2] for command in commands] == [["cluster", "push"], ["cluster", "pull"], ["ask", "--kb"]]
    monkeypatch.chdir(built.parent)
    for command in commands[:2]:
        words = [word.replace("s3://", "memory://").replace("/data", str(tmp_path)) for word in command]
        code, out, err = kblam(*words)
        assert code == 0 and out and not err, words
    assert answers(tmp_path / "big.shards") == answers(built) and QUESTIONS
    fsspec.filesystem("memory").store.clear()
    for command in ("push", "pull"):
        with pytest.raises(SystemExit):
            build_app()(args=["cluster", command, "--help"], prog_name="kblam")
        assert "URL" in capsys.readouterr().out
