"""Shards pushed to a store and pulled from it: what is sent, what breaks off, who comes in between."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from cluster_parts import QUESTIONS, request_of
from filelock import FileLock
from transfer_parts import (  # noqa: F401  (fixtures)
    N_FILES,
    TRIPLES,
    build,
    built_fixture,
    built_once_fixture,
    names_of,
    put,
    store_fixture,
    url_fixture,
    with_other_values,
)

from kblam_engine.cli import build_app
from kblam_engine.cluster import build_shards, open_shards, read_manifest, verify_shards
from kblam_engine.cluster.folder import LOCK, PARTS
from kblam_engine.cluster.manifest import FILE, ShardRecord
from kblam_engine.cluster.transfer import pull_shards, push_shards
from kblam_engine.cluster.transfer_manifests import JOURNAL, as_stored
from kblam_engine.cluster.transfer_store import Store
from kblam_engine.errors import (
    KnowledgeBaseError,
    KnowledgeBaseLockedError,
    KnowledgeBaseNotFoundError,
)


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
