"""Shards on a local Ray cluster of two cores: the same as in one process, and a process that dies is replaced."""

import os
import signal
import time
from dataclasses import replace
from platform import node

import numpy as np
import pytest
from cluster_parts import QUESTIONS, built, in_shard_order, one_kb, request_of, some_triples
from engine_parts import build_engine, build_llama

from kblam_engine.cluster import build_shards, open_shards, read_manifest, verify_shards
from kblam_engine.errors import ConfigurationError, KnowledgeBaseError
from kblam_engine.search.exact import scan
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triple_files import write_jsonl

pytest.importorskip("ray", reason='needs the extra: pip install "kblam-engine[cluster]"')
from kblam_engine.cluster import ray_cluster  # noqa: E402
from kblam_engine.cluster.ray_cluster import RayWorkers, connect  # noqa: E402

TRIPLES = some_triples()
N_SHARDS = 2
"""Each is a process that imports torch."""


@pytest.fixture(scope="module")
def ray():
    """A cluster of two cores on this machine, as long as these tests last."""
    connected = connect("local", n_cpus=2)
    yield connected
    connected.shutdown()


@pytest.fixture(scope="module")
def folder(ray, tmp_path_factory):
    """Shards that as many tasks as cores have made."""
    return built(tmp_path_factory.mktemp("shards"), TRIPLES, RayWorkers(ray), n_shards=N_SHARDS)


@pytest.fixture(scope="module")
def sharded(ray, folder):
    with open_shards(folder, address="local") as kb:
        yield kb


@pytest.fixture(scope="module")
def single():
    with one_kb(in_shard_order(TRIPLES, N_SHARDS)) as kb:
        yield kb.snapshot()


@pytest.fixture(scope="module")
def engine(tiny_tokenizer):
    made = build_engine(build_llama(), tiny_tokenizer, refusal_threshold=1e-6)
    yield made
    made.injection.detach()


def assert_same_answers(engine, one, other, questions=QUESTIONS):
    for mine, theirs in zip(
        engine.answer_batch(questions, one, max_new_tokens=6), engine.answer_batch(questions, other, max_new_tokens=6), strict=True
    ):
        assert (mine.text, mine.refused) == (theirs.text, theirs.refused)
        assert [(x.triple, x.spans) for x in mine.attended] == [(x.triple, x.spans) for x in theirs.attended]


def test_what_workers_make_is_what_one_process_makes(ray, folder, tmp_path):
    alone = built(tmp_path, TRIPLES, n_shards=N_SHARDS)
    mine, theirs = read_manifest(alone).shards, read_manifest(folder).shards
    assert [(s.folder, s.digest, s.n_triples) for s in mine] == [(s.folder, s.digest, s.n_triples) for s in theirs]
    workers = RayWorkers(ray, 2)
    request = request_of([str(path) for path in sorted(tmp_path.glob("*.jsonl"))], alone, n_shards=N_SHARDS)
    assert build_shards(request, workers).made == ()
    assert verify_shards(alone, workers) == []


def test_answers_are_those_of_one_knowledge_base(engine, sharded, single):
    assert_same_answers(engine, single, sharded)
    queries = HashingEncoder().encode(["battery life of the Acme Orca"])
    np.testing.assert_array_equal(sharded.search(queries, 30).at, scan(single.key_embeddings, queries, 30).at)


def test_a_shard_whose_process_is_killed_is_started_again(engine, sharded, single):
    before = sharded._shards.processes()
    assert len(set(before)) == N_SHARDS and os.getpid() not in before
    os.kill(before[1], signal.SIGKILL)
    queries = HashingEncoder().encode(["price of the Borealis Kite 4"])
    np.testing.assert_array_equal(sharded.search(queries, 30).at, scan(single.key_embeddings, queries, 30).at)
    after = sharded._shards.processes()
    assert after[1] != before[1] and after[0] == before[0]
    os.kill(after[0], signal.SIGKILL)
    assert_same_answers(engine, single, sharded, QUESTIONS[2:4])


def test_a_process_that_cannot_be_reached_is_asked_again(ray, sharded, monkeypatch):
    """What Ray says while a machine is gone and its processes are not yet started elsewhere."""
    failures = [ray.exceptions.ActorUnavailableError("gone", None)] * 3

    class Flaky:
        exceptions = ray.exceptions

        @staticmethod
        def get(reference, timeout):
            if failures:
                raise failures.pop()
            return ray.get(reference, timeout=timeout)

    queries = HashingEncoder().encode(["price of the Borealis Kite 4"])
    expected = sharded.search(queries, 5).at
    monkeypatch.setattr(ray_cluster, "_PAUSE", 0.01)
    monkeypatch.setattr(sharded._shards, "_ray", Flaky)
    np.testing.assert_array_equal(sharded.search(queries, 5).at, expected)
    assert not failures
    failures += [ray.exceptions.ActorUnavailableError("gone", None)] * 1000
    monkeypatch.setattr(ray_cluster, "TIMEOUT", 0.05)
    with pytest.raises(KnowledgeBaseError, match=r"shard-00000-\w+ on .*: its process cannot be reached"):
        sharded.search(queries, 5)


def test_shards_that_are_built_again_are_started_again_from_what_they_were(ray, tmp_path):
    folder = built(tmp_path, TRIPLES[:20], n_shards=1)
    path = tmp_path / "other.jsonl"

    def rebuild(word):
        write_jsonl(path, [replace(triple, value=f"{word} {triple.value}") for triple in TRIPLES[:20]])
        build_shards(request_of([str(path)], folder, n_shards=1))
        os.kill(kb._shards.processes()[0], signal.SIGKILL)

    with open_shards(folder, address="local") as kb:
        rebuild("other")
        assert not kb.triples([0])[0].value.startswith("other")
        rebuild("third")
        with pytest.raises(KnowledgeBaseError, match="were built again since they were opened, and this one is gone; open them again"):
            kb.search(HashingEncoder().encode(["price"]), 3)
    with pytest.raises(KnowledgeBaseError, match="have been closed; open them again"):
        kb.search(HashingEncoder().encode(["price"]), 3)


def test_all_shards_together_have_so_much_time(ray, sharded, folder, monkeypatch):
    given = []

    class Slow:
        exceptions = ray.exceptions

        @staticmethod
        def get(reference, timeout):
            given.append(timeout)
            time.sleep(timeout)
            raise ray.exceptions.GetTimeoutError("late")

    monkeypatch.setattr(ray_cluster, "TIMEOUT", 0.2)
    monkeypatch.setattr(sharded._shards, "_ray", Slow)
    place = f"{folder}/{read_manifest(folder).shards[0].folder} on {node()}"
    with pytest.raises(KnowledgeBaseError, match=rf"{place}: expected an answer within 0\.2 s, got none; .*\(ray status\)"):
        sharded.search(HashingEncoder().encode(["price"]), 3)
    assert given and max(given) <= 0.2


def test_mistakes_are_told_in_one_line(ray, tmp_path):
    with pytest.raises(ConfigurationError, match="workers: expected 1 to 2"):
        RayWorkers(ray, 3)
    (tmp_path / "bad.jsonl").write_text('{"name":\n', "utf-8")
    with pytest.raises(KnowledgeBaseError, match=r"bad\.jsonl, line 1: not JSON") as told:
        build_shards(request_of([str(tmp_path / "bad.jsonl")], tmp_path / "out"), RayWorkers(ray))
    assert "\n" not in str(told.value)


def test_a_shard_that_is_gone_is_told(ray, tmp_path):
    folder = built(tmp_path, TRIPLES[:20], n_shards=1)
    (lost,) = read_manifest(folder).shards
    (folder / lost.folder).rename(folder / "elsewhere")
    with pytest.raises(KnowledgeBaseError, match=lost.folder):
        open_shards(folder, address="local")


def test_a_task_that_dies_is_done_again(ray, tmp_path):
    def dies_once(n):  # in here, so that it travels: the workers do not see this module
        mark = tmp_path / f"died-{n}"
        if n == 1 and not mark.exists():
            mark.touch()
            os._exit(1)
        return n

    assert sorted(RayWorkers(ray, 2).map(dies_once, range(3))) == [0, 1, 2]
    assert (tmp_path / "died-1").exists()
