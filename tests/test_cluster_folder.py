"""What a build may delete, what it leaves for those who read, and what it says of what it was given."""

import json
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
from cluster_parts import N_SHARDS, QUESTIONS, built, one_kb, request_of, some_triples, write_files
from engine_parts import build_engine, build_llama

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.cluster import (
    LiveShards,
    build_shards,
    is_sharded,
    open_shards,
    read_manifest,
    shard_building,
    splitting,
)
from kblam_engine.cluster.folder import PARTS, discard
from kblam_engine.cluster.manifest import FILE, write_manifest
from kblam_engine.cluster.shard import Shard
from kblam_engine.cluster.shards import Ask
from kblam_engine.cluster.splitting import SplitTask, shard_of, split
from kblam_engine.errors import ConfigurationError, ImportFileError, KnowledgeBaseError
from kblam_engine.triple_files import write_jsonl

TRIPLES = some_triples(20)


def build(tmp_path, triples, output="big.shards", **options):
    """Build shards of triples in one file, in a folder below `tmp_path`."""
    path = tmp_path / "in.jsonl"
    write_jsonl(path, triples)
    return build_shards(request_of([str(path)], tmp_path / output, **options))


def with_new_values(triples, word):
    return [replace(triple, value=f"{word} {triple.value}") for triple in triples]


def folders_of(output):
    return {path.name for path in output.iterdir() if path.is_dir()}


def test_nothing_of_somebody_else_is_deleted(tmp_path):
    output = tmp_path / "big.shards"
    mine = [output / name for name in ("shard-photos/x", "parts/x", "shard-00000-notes/x", "shard-list.json")]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious", "utf-8")
        with pytest.raises(KnowledgeBaseError, match="expected shards or an empty folder"):
            build(tmp_path, TRIPLES)
    for path in mine:
        (path.parent if path.parent != output else path).rename(tmp_path / path.parts[len(output.parts)])
    build(tmp_path, TRIPLES)
    for path in mine:  # put into a folder that has become one of shards
        path.parent.mkdir(exist_ok=True)
        path.write_text("precious", "utf-8")
    (output / "shard-00000-0123456789ab").symlink_to(tmp_path, target_is_directory=True)
    for word in ("other", "third"):
        build(tmp_path, with_new_values(TRIPLES, word))
    assert [path.read_text("utf-8") for path in mine] == ["precious"] * len(mine)
    assert (tmp_path / "in.jsonl").exists()


def test_files_of_triples_within_the_shards_are_refused(tmp_path):
    build(tmp_path, TRIPLES)
    inside = tmp_path / "big.shards" / "more.jsonl"
    write_jsonl(inside, TRIPLES)
    (tmp_path / "link").symlink_to(tmp_path / "big.shards")
    for path in (inside, tmp_path / "link" / "more.jsonl"):
        with pytest.raises(ConfigurationError, match="expected files of triples outside the folder of the shards"):
            build_shards(request_of([str(path)], tmp_path / "big.shards"))
    assert inside.exists()


def test_a_folder_on_the_way_is_not_made(tmp_path):
    build(tmp_path, TRIPLES, output="nowhere/../big.shards")
    assert not (tmp_path / "nowhere").exists() and is_sharded(tmp_path / "big.shards")


def test_shards_of_nothing_take_nobodys_place(tmp_path):
    build(tmp_path, TRIPLES)
    output = tmp_path / "big.shards"
    before = (output / FILE).read_bytes()
    with pytest.raises(KnowledgeBaseError, match=r"in\.jsonl: expected files of triples, got none in them; the shards stay as they were"):
        build(tmp_path, [])
    assert (output / FILE).read_bytes() == before
    with open_shards(output) as kb:
        assert len(kb) == len(TRIPLES)
    with pytest.raises(KnowledgeBaseError, match="got none in them$"):
        build(tmp_path, [], output="new.shards")
    assert not is_sharded(tmp_path / "new.shards")


def test_shards_of_nothing_are_not_asked(tmp_path):
    build(tmp_path, TRIPLES)
    output = tmp_path / "big.shards"
    manifest = read_manifest(output)  # as earlier versions have made them
    write_manifest(output, replace(manifest, shards=tuple(replace(one, n_triples=0) for one in manifest.shards)))
    with pytest.raises(KnowledgeBaseError, match="expected shards with triples, got none in them; build them again"):
        open_shards(output)


def test_who_reads_goes_on_until_the_build_after_the_next(tmp_path, tiny_tokenizer):
    model = build_engine(build_llama(), tiny_tokenizer, refusal_threshold=1e-6)
    output = tmp_path / "big.shards"
    first = build(tmp_path, TRIPLES)
    problems, answers = [], []

    def ask():
        try:
            answers.append(model.answer(QUESTIONS[0], kb, max_new_tokens=1))
        except Exception as error:
            problems.append(error)

    with open_shards(output) as kb:
        second = build(tmp_path, with_new_values(TRIPLES, "other"))
        assert folders_of(output) == {one.folder for report in (first, second) for one in report.manifest.shards}
        threads = [threading.Thread(target=ask) for _ in range(3)]  # each opens files of its own
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not problems and len(answers) == 3 and answers[0].attended
        third = build(tmp_path, with_new_values(TRIPLES, "third"))
        assert folders_of(output) == {one.folder for report in (second, third) for one in report.manifest.shards}
        assert not problems and third.made
    model.injection.detach()


def test_shards_that_are_gone_are_told(tmp_path, monkeypatch):
    output = tmp_path / "big.shards"
    record = build(tmp_path, TRIPLES).manifest.shards[0]
    again = f"{record.folder}: the shards were built again since they were opened, and this one is gone; open them again"
    with open_shards(output) as kb:
        for word in ("other", "third"):
            build(tmp_path, with_new_values(TRIPLES, word))
        monkeypatch.setattr(Shard, "triples", cannot_open)  # of what is mapped more is read than one would think
        with pytest.raises(KnowledgeBaseError, match=again):
            kb._shards.ask({0: Ask("triples", (np.arange(1),))})
    with pytest.raises(KnowledgeBaseError, match=again):  # as a process does that is started again
        Shard(str(output), record)
    lost = read_manifest(output).shards[0]
    (output / lost.folder).rename(tmp_path / "elsewhere")
    with pytest.raises(KnowledgeBaseError, match=f"{lost.folder}: expected a shard as it was built, found none there; build"):
        open_shards(output)


def cannot_open(*_):
    raise KnowledgeBaseError("kb.sqlite: cannot be read or written (unable to open database file)")


def test_a_repair_does_not_end_the_shards_before(tmp_path):
    output = tmp_path / "big.shards"
    build(tmp_path, TRIPLES)
    second = build(tmp_path, with_new_values(TRIPLES, "other"))
    before = folders_of(output)
    next((output / second.manifest.shards[0].folder).glob("keys-*.f16")).write_bytes(b"damaged")
    assert build(tmp_path, with_new_values(TRIPLES, "other")).made == (0,)
    assert folders_of(output) == before


def test_live_shards_are_those_that_were_built_last(tmp_path):
    build(tmp_path, TRIPLES)
    live = LiveShards(tmp_path / "big.shards")
    with live.current() as first:
        with live.current() as same:
            assert same is first
        build(tmp_path, with_new_values(TRIPLES, "other"))
        with live.current() as second:
            assert second is not first and all(t.value.startswith("other") for t in second.triples(range(5)))
        assert not first.triples([0])[0].value.startswith("other")  # whoever has begun with them ends with them
    with pytest.raises(KnowledgeBaseError, match="closed"):
        first.triples([9])
    (tmp_path / "big.shards" / FILE).unlink()
    with pytest.raises(KnowledgeBaseError, match="found no shards.json"), live.current():
        pass
    live.close()


def test_a_shard_is_filled_in_parts_and_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    repeated = [*TRIPLES, *TRIPLES[:3], replace(TRIPLES[4], value="the last word")]
    whole = build(tmp_path, repeated, output="whole.shards", n_shards=1)
    monkeypatch.setattr(shard_building, "ADD_AT_ONCE", 7)
    add, sizes = KnowledgeBase.add, []

    def cut_off(kb, triples):
        if len(sizes) == 3:
            sizes.append(0)
            raise KeyboardInterrupt
        sizes.append(len(triples))
        return add(kb, triples)

    monkeypatch.setattr(KnowledgeBase, "add", cut_off)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, repeated, n_shards=1)
    report = build(tmp_path, repeated, n_shards=1)
    n_parts = -(-len(repeated) // 7)
    assert sizes[:4] == [7, 7, 7, 0] and len(sizes) == n_parts + 1  # no part is added twice
    assert (report.replaced, report.unchanged) == (whole.replaced, whole.unchanged) == (1, 3)
    assert report.manifest.shards[0].digest == whole.manifest.shards[0].digest
    assert not list((tmp_path / "big.shards").glob("*.added*"))


def test_a_shard_that_is_not_as_far_as_its_note_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_building, "ADD_AT_ONCE", 7)
    note = shard_building._progress

    def cut_off(place):
        if place.is_dir() and len(list(place.parent.glob("*.added"))):
            raise KeyboardInterrupt  # after a commit, before its note
        return note(place)

    monkeypatch.setattr(shard_building, "_progress", cut_off)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, TRIPLES, n_shards=1)
    monkeypatch.setattr(shard_building, "_progress", note)
    report = build(tmp_path, TRIPLES, n_shards=1)
    assert (report.manifest.n_triples, report.unchanged) == (len(TRIPLES), 0)


def test_a_shard_that_would_be_too_large_is_told_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("kblam_engine.cluster.build.MAX_TRIPLES", 10)
    triples = [Triple(f"Name {n}", "number", str(n)) for n in range(60)]
    with pytest.raises(ConfigurationError, match=r"shard \d: expected at most 10 triples, got \d+; take more shards: --shards \d+"):
        build(tmp_path, triples)
    assert not list((tmp_path / "big.shards").glob("shard-*"))
    assert build(tmp_path, triples, output="more.shards", n_shards=12).manifest.n_triples == 60


def test_what_is_overruled_or_said_again_is_counted(tmp_path):
    acme = Triple("Acme", "ceo", "Ada"), Triple("Acme", "ceo", "Grace"), Triple("Acme", "ceo", "Grace"), Triple("Orca", "price", "1")
    report = build(tmp_path, acme)
    assert (report.n_read, report.manifest.n_triples, report.replaced, report.unchanged) == (4, 2, 1, 1)
    again = build(tmp_path, acme)  # nothing is made, and it is known all the same
    assert again.made == () and (again.replaced, again.unchanged) == (1, 1)
    assert {"replaced": 1, "unchanged": 1}.items() <= again.to_dict().items()
    several = build(tmp_path, acme, output="multi.shards", multi=True)
    assert (several.manifest.n_triples, several.replaced, several.unchanged) == (3, 0, 1)


def test_files_without_triples_are_named(tmp_path):
    paths = write_files(tmp_path, TRIPLES)
    (tmp_path / "none.jsonl").write_text("", "utf-8")
    report = build_shards(request_of([*paths, str(tmp_path / "none.jsonl")], tmp_path / "out"))
    assert report.empty == (str(tmp_path / "none.jsonl"),) == tuple(report.to_dict()["empty"])
    assert report.manifest.n_triples == len(TRIPLES)


def test_builds_that_fail_leave_no_drafts(tmp_path):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    write_jsonl(good, TRIPLES)
    request = request_of([str(good), str(bad)], tmp_path / "out")
    parts = tmp_path / "out" / PARTS
    for n in range(3):
        bad.write_text(json.dumps(TRIPLES[n].to_dict()) + "\n{", "utf-8")
        with pytest.raises(ImportFileError, match=r"bad\.jsonl, line 2"):
            build_shards(request)
        assert len(list(parts.iterdir())) == 1  # of the file that is sound, for the next try
    (parts / ".0123456789abcdef.draft").mkdir()  # of a worker that was killed
    with pytest.raises(ImportFileError):
        build_shards(request)
    assert len(list(parts.iterdir())) == 1
    bad.unlink()
    write_jsonl(bad, TRIPLES)
    assert build_shards(request).manifest.n_triples == len(TRIPLES) and not parts.exists()


def test_a_worker_that_was_given_up_does_not_finish_its_draft(tmp_path, monkeypatch):
    path = tmp_path / "in.jsonl"
    write_jsonl(path, TRIPLES)
    monkeypatch.setattr(splitting, "_AT_ONCE", 10)
    append, seen = splitting._append, []

    def given_up(draft, waiting):
        seen.append(draft)
        if len(seen) == 2:
            discard(draft)  # as the next build does when it takes the lock
        append(draft, waiting)

    monkeypatch.setattr(splitting, "_append", given_up)
    with pytest.raises(FileNotFoundError):
        split(SplitTask(str(path), N_SHARDS, str(tmp_path)))
    assert os.listdir(tmp_path / PARTS) == []
    done = split(SplitTask(str(path), N_SHARDS, str(tmp_path)))
    assert done.sizes == {at: n for at in range(N_SHARDS) if (n := sum(shard_of(t.name, N_SHARDS) == at for t in TRIPLES))}
    assert done == split(SplitTask(str(path), N_SHARDS, str(tmp_path)))  # what is there is not done again


def test_all_of_a_build_with_parts_is_that_of_one_knowledge_base(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_building, "ADD_AT_ONCE", 7)
    folder = built(tmp_path, TRIPLES)
    with open_shards(folder) as kb, one_kb(TRIPLES) as one:
        assert kb.fingerprint == one.snapshot().fingerprint and len(kb) == len(TRIPLES)
