import json
from itertools import islice

import numpy as np
import pytest
from evaluation_parts import command_fixture  # noqa: F401
from evaluation_stub import StubModel

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.latency import BenchOptions, bench
from kblam_engine.evaluation.synthetic_kb import InventingEncoder, fill, fresh_questions, invented_triples
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.sentence_encoder import HashingEncoder

QUICK = BenchOptions(n_pairs=4, max_new_tokens=4)


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
    asked = [(side, text) for side, text in model.log if side != "retrieve"][6:]  # after three warm-up pairs
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
    assert {"command", "seed", "versions", "hardware", "method"} <= set(found)


def test_latency_command(command):
    done = command("bench", "latency", "--triples", 20, "--pairs", 2, "--json", "-")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["results"][0]["ttft_ratio"] == 1.2
