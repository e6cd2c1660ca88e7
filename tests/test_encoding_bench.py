"""`kblam bench encoding`."""

import json

import pytest

from kblam_engine import sentence_encoder
from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.encoding_bench import bench_encoding


def test_encoding_is_measured(hashing_encoder):
    steps = []
    found = bench_encoding(hashing_encoder, 300, progress=lambda *step: steps.append(step))
    assert (found.n_texts, found.embed_dim, found.encoder) == (600, hashing_encoder.embed_dim, hashing_encoder.name)
    assert found.texts_per_s > 0 and found.texts_per_cpu_s > 0 and found.question_ms > 0
    assert steps == [("encoding", 500, 600), ("encoding", 600, 600)]
    with pytest.raises(ConfigurationError, match="at least 1"):
        bench_encoding(hashing_encoder, 0)


def test_command(kblam, monkeypatch, hashing_encoder):
    monkeypatch.setattr(sentence_encoder, "load_sentence_encoder", lambda *_: hashing_encoder)
    code, out, err = kblam("bench", "encoding", "--triples", 20, "--json", "-")
    assert code == 0, err
    assert json.loads(out)["results"][0]["n_texts"] == 40 and "texts a second" in err
