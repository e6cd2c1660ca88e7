import json
from itertools import islice

import numpy as np
import pytest
from evaluation_parts import command_fixture  # noqa: F401
from evaluation_stub import StubModel

from kblam_engine.errors import ConfigurationError, KnowledgeBaseNotFoundError
from kblam_engine.evaluation import latency
from kblam_engine.evaluation.latency import BenchOptions, bench, bench_folders
from kblam_engine.evaluation.runs import read_runs
from kblam_engine.evaluation.synthetic_kb import InventingEncoder, fill, fresh_questions, invented_triples
from kblam_engine.evaluation.updates import sampled
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.search.files import read_record
from kblam_engine.search.indexes import Indexes
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Triple

QUICK = BenchOptions(n_pairs=4, max_new_tokens=4, n_changes=0)


@pytest.fixture
def model():
    return StubModel(HashingEncoder(32))


def test_invented_triples_are_distinct_and_the_same_for_a_seed():
    first, again, other = (list(islice(invented_triples(seed), 6_000)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len({(t.name, t.property) for t in first}) == 6_000
    assert len({t.name for t in first}) == 1_000


def test_no_question_twice():
    triples = list(islice(invented_triples(), 12))
    asked = list(fresh_questions(triples))
    assert len({text for text, _ in asked}) == len(asked) == 72
    assert len({triple.key_text for _, triple in asked[:12]}) == 12
    assert all(triple.name in text and triple.property in text for text, triple in asked)


def test_fill_embeds_some_and_invents_the_rest():
    real = HashingEncoder(32)
    encoder = InventingEncoder(real)
    with KnowledgeBase.open(":memory:", encoder=encoder) as kb:
        askable, n_synthetic = fill(kb, encoder, 100, seed=3, real_up_to=40)
        assert (len(kb), len(askable), n_synthetic) == (100, 40, 60)
        snapshot = kb.snapshot()
        keys = real.encode([t.key_text for t in snapshot.triples(range(100))])
        close = np.einsum("ij,ij->i", keys, snapshot.key_embeddings.astype(np.float32))
        assert (close[:40] > 0.99).all()
        assert (close[40:] < 0.9).all()
        np.testing.assert_allclose(np.linalg.norm(snapshot.key_embeddings[40:], axis=1), 1, atol=1e-2)
    assert not encoder.inventing


def test_pairs_alternate_and_never_repeat_a_question(model):
    (found,) = bench(model, [30], QUICK)
    asked = [(side, text) for side, text in model.log if side != "retrieve"][9:]  # after three answers and three pairs to warm up
    assert [side for side, _ in asked] == ["kb", "base", "base", "kb"] * 2
    texts = [text for side, text in model.log if side == "kb"]
    assert len(set(texts)) == len(texts) == 7
    timed = [text for side, text in model.log if side == "retrieve"][3:]
    assert len(timed) == 4
    assert not set(timed) & set(texts)
    assert found.ttft_ratio == pytest.approx(1.2)
    assert found.per_token_ratio == pytest.approx(1.1)
    assert (found.ttft_ms_base, found.ttft_ms_kb) == (10.0, 12.0)
    assert (found.embeddings, found.n_synthetic_embeddings) == ("real", 0)
    assert found.attended_top1 == 1.0
    assert found.retrieval_ms >= 0


def test_one_result_a_size(model):
    small, large = bench(model, [20, 60], BenchOptions(n_pairs=2, real_up_to=20))
    assert (small.n_triples, small.embeddings) == (20, "real")
    assert (large.n_triples, large.embeddings, large.n_synthetic_embeddings) == (60, "synthetic", 40)


def test_what_cannot_be_measured(model):
    with pytest.raises(ConfigurationError, match="too few"):
        bench(model, [2], BenchOptions(n_pairs=20))
    with pytest.raises(ConfigurationError, match="sizes"):
        bench(model, [0])
    with pytest.raises(ConfigurationError, match="n_pairs"):
        BenchOptions(n_pairs=0)
    with pytest.raises(ConfigurationError, match="folder"):
        bench_folders(model, [])


@pytest.fixture
def folder(tmp_path, model):
    """A knowledge base of 60 triples on disk, closed."""
    with KnowledgeBase.open(tmp_path / "some.kb", encoder=model.encoder) as kb:
        kb.add([Triple(f"Orca {n // 3}", ("founder", "price", "colour")[n % 3], f"value {n}") for n in range(60)])
    return tmp_path / "some.kb"


def test_a_folder_is_asked_about_its_own_triples_and_stays_as_it_is(model, folder):
    def contents():
        with KnowledgeBase.open(folder, create=False) as kb:
            return kb.revision, kb.snapshot().fingerprint

    before = contents()
    (found,) = bench_folders(model, [folder], BenchOptions(n_pairs=3, n_changes=2))
    assert contents() == before
    asked = [text for side, text in model.log if side == "kb"]
    assert len(set(asked)) == len(asked) == 6 and all("Orca" in text for text in asked)
    assert (found.n_triples, found.n_synthetic_embeddings, found.build_s) == (60, 0, None)
    assert (found.search, found.kb, found.attended_top1) == ("exact", str(folder), 1.0)
    assert found.update_ms > found.update_encoding_ms > 0 < found.update_retrieval_ms and found.update_found == 1.0


def test_updates_of_a_size_are_measured_too(model):
    (found,) = bench(model, [30], BenchOptions(n_pairs=2, n_changes=1))
    assert (found.update_found, found.kb, found.n_triples) == (1.0, None, 30) and found.build_s > 0
    (without,) = bench(model, [30], QUICK)
    assert without.update_ms is without.update_found is None


def test_an_index_that_is_wanted_is_there_before_the_first_question(model, folder, monkeypatch):
    monkeypatch.setattr("kblam_engine.retrieval.KEPT_KEYS", 10)
    model.indexes = Indexes("tree")
    kinds = []
    real = model.answer
    monkeypatch.setattr(
        model, "answer", lambda m, kb, **options: kinds.append(model.indexes.of(kb.snapshot()).kind) or real(m, kb, **options)
    )
    (found,) = bench_folders(model, [folder], BenchOptions(n_pairs=2, n_changes=2))
    assert set(kinds) == {"tree"} and found.search == "tree" == read_record(folder).kind
    assert found.index_s > 0 and found.update_found == 1.0


def test_memory_is_what_the_knowledge_base_adds_to_the_model(model, folder, monkeypatch):
    answered = []
    monkeypatch.setattr(model, "answer", lambda *a, real=model.answer, **o: answered.append(1) or real(*a, **o))
    monkeypatch.setattr(
        latency.environment, "anonymous_bytes", lambda: 1024**2 * (11 if len(answered) >= 5 else 10)
    )
    (found,) = bench_folders(model, [folder], BenchOptions(n_pairs=2, n_changes=0))
    assert (found.anonymous_mb_base, found.anonymous_mb_kb) == (10, 11)
    assert found.anonymous_bytes_per_triple == pytest.approx(1024**2 / 60)
    monkeypatch.setattr(latency.environment, "anonymous_bytes", lambda: None)
    (found,) = bench_folders(model, [folder], BenchOptions(n_pairs=2, n_changes=0))
    assert found.anonymous_bytes_per_triple is None is found.anonymous_mb_base


def test_a_sample_has_no_key_twice(model, tmp_path):
    with KnowledgeBase.open(tmp_path / "multi.kb", encoder=model.encoder, multi=True) as kb:
        kb.add([Triple(f"Orca {n % 5}", "colour", f"value {n}") for n in range(20)])
        assert len(sampled(kb.snapshot(), 100, 0)) == 5
        assert len(sampled(kb.snapshot(), 3, 0)) <= 3


def test_scale_command(command, tmp_path):
    out = tmp_path / "bench.json"
    done = command("bench", "scale", "--triples", 20, "--triples", 50, "--pairs", 2, "--json", out)
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert [entry["n_triples"] for entry in found["results"]] == [20, 50]
    keys = {
        "ttft_ratio", "per_token_ratio", "ttft_ms_base", "ttft_ms_kb", "per_token_ms_base", "per_token_ms_kb",
        "peak_rss_mb", "retrieval_ms", "embeddings",
    }  # fmt: skip
    assert keys <= set(found["results"][0])
    assert {"command", "seed", "versions", "hardware", "method", "index"} <= set(found)


def test_scale_command_over_a_folder(command, folder, tmp_path):
    done = command("bench", "scale", "--kb", folder, "--pairs", 2, "--changes", 1, "--index", "exact", "--json", "-")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["index"], found["results"][0]["n_triples"], found["results"][0]["kb"]) == ("exact", 60, str(folder))
    assert found["results"][0]["update_ms"] > 0
    (read,) = read_runs([_written(tmp_path, done.stdout)]).benches
    assert (read.results[0].search, read.results[0].kb, read.results[0].build_s) == ("exact", str(folder), None)
    neither = command("bench", "scale")
    assert neither.exit_code == 2 and "expected --triples N or --kb FOLDER" in neither.stderr
    missing = command("bench", "scale", "--kb", tmp_path / "none.kb")
    assert isinstance(missing.exception, KnowledgeBaseNotFoundError) and not (tmp_path / "none.kb").exists()


def _written(tmp_path, text):
    path = tmp_path / "bench.json"
    path.write_text(text)
    return path


def test_latency_command(command):
    done = command("bench", "latency", "--triples", 20, "--pairs", 2, "--json", "-")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["results"][0]["ttft_ratio"] == 1.2
