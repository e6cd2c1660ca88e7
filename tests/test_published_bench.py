"""`kblam bench published`: four systems over the same questions, with a tiny model."""

import json
import sys

import pytest
import torch
from conftest import build_llama
from engine_parts import build_engine

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation import published_bench
from kblam_engine.evaluation.latency import BenchOptions
from kblam_engine.evaluation.published_bench import arrays_of, bench_published, timed

QUICK = BenchOptions(n_pairs=3, max_new_tokens=4)
N = 90


@pytest.fixture(scope="module")
def engine(tiny_tokenizer):
    made = build_engine(build_llama(), tiny_tokenizer, refusal_threshold=1e-6)
    yield made
    made.injection.detach()


def test_four_systems_side_by_side(engine, monkeypatch):
    asked = []
    real = published_bench.timed

    def noted(ask, text):
        asked.append(text)
        return real(ask, text)

    monkeypatch.setattr(published_bench, "timed", noted)
    results = {r.system: r for r in bench_published(engine, N, QUICK)}
    assert list(results) == ["base", "ours", "kblam", "hikvp"]
    assert all((r.n_triples, r.n_questions) == (N, 3) for r in results.values())
    # Two KB layers of four heads of 16, keys and values in 32 bits.
    assert results["kblam"].resident_bytes_per_triple == 2 * 4 * 16 * 2 * 4
    assert results["hikvp"].resident_bytes_per_triple > results["kblam"].resident_bytes_per_triple
    embed_dim = engine.encoder.embed_dim
    ours = results["ours"]
    assert ours.mapped_bytes_per_triple == 2 * 2 * embed_dim
    assert ours.resident_bytes_per_triple > 4 * embed_dim
    assert results["base"].bytes_over_ours == 0 and ours.bytes_over_ours == 1
    kept = ours.resident_bytes_per_triple + ours.mapped_bytes_per_triple
    assert results["kblam"].bytes_over_ours == pytest.approx(1024 / kept)
    assert ours.ttft_over_ours == ours.per_token_over_ours == 1
    assert all(r.ttft_ms > 0 and r.ttft_over_base > 0 for r in results.values())
    # Memory is measured on questions of its own; then every question goes to all four, the first two as warm-up.
    timed_texts = asked[1 + 2 + 2 + 2 :]
    assert len(timed_texts) == 4 * (2 + 3)
    assert [len(set(timed_texts[at : at + 4])) for at in range(0, 20, 4)] == [1] * 5
    assert len(set(timed_texts)) == 5 and not set(timed_texts) & set(asked[:7])


def test_one_system_alone(engine):
    assert [r.system for r in bench_published(engine, N, QUICK, systems=["kblam"])] == ["base", "ours", "kblam"]


def test_times_are_of_the_first_step_and_of_the_mean_of_the_others(monkeypatch):
    clock, cpu = iter([0.0, 0.5, 0.7, 1.1]), iter([0.0, 0.1, 0.2, 0.5])
    monkeypatch.setattr(published_bench.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(published_bench.time, "process_time", lambda: next(cpu))
    found = timed(lambda text: iter(text), "abc")
    assert (found.first, found.first_cpu) == (500, 100)
    assert found.each == pytest.approx(300) and found.each_cpu == pytest.approx(200)


def test_an_answer_of_one_token_has_no_time_per_token():
    assert timed(lambda text: iter(text), "a").each is None


def test_arrays_are_counted(memory_kb):
    resident, mapped = arrays_of(memory_kb.snapshot())
    dim = memory_kb.snapshot().embed_dim
    assert mapped == 6 * 2 * dim * 2
    n_names, n_properties = memory_kb.snapshot().n_names, 6  # their embeddings in 32 bits
    assert resident == 6 * (8 + 4 * 4 + 4 * dim) + 8 * n_names + n_properties * 4 * dim


def test_mistakes(engine):
    with pytest.raises(ConfigurationError, match="expected kblam or hikvp, got rag"):
        bench_published(engine, N, QUICK, systems=["rag"])
    with pytest.raises(ConfigurationError, match="at least 1"):
        bench_published(engine, 0, QUICK)
    with pytest.raises(ConfigurationError, match="too few"):
        bench_published(engine, 1, BenchOptions(n_pairs=20))


def test_command(kblam, engine, monkeypatch, tmp_path):
    from kblam_engine.cli import published_bench as command

    loaded = []
    monkeypatch.setattr(command, "load_model", lambda *source: loaded.append(source) or engine)
    monkeypatch.setenv("KBLAM_CACHE", str(tmp_path))
    out = tmp_path / "out.json"
    code, shown, err = kblam(
        "bench", "published", "--triples", N, "--questions", 2, "--max-new-tokens", 3, "--json", out
    )
    assert code == 0, err
    assert loaded == [("smollm2-135m", None, None, "float32", "cpu")]
    found = json.loads(out.read_text())
    assert found["format"] == "kblam-published-bench/1" and found["dtype"] == "float32"
    assert [r["system"] for r in found["results"]] == ["base", "ours", "kblam", "hikvp"]
    assert "hikvp" in shown and "processor" in shown
    assert kblam("bench", "published", "--system", "rag")[0] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a part of a run")
def test_peaks_do_not_hide_in_what_was_freed_before():
    def drawn():
        return [torch.ones(25_000) for _ in range(700)]  # 67 MB in pieces too small for mappings of their own

    before, above = drawn(), torch.ones(25_000)  # what lies above them keeps the allocator from giving them back
    del before
    with published_bench._peak() as peak:
        held = drawn()
    assert len(held) == 700 and len(above) == 25_000
    assert 60 < peak.mb < 90
