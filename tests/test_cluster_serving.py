"""Answers over HTTP from shards: what a request may be, and a replica behind Ray Serve where that is installed."""

import json
import socket
import urllib.error
import urllib.request

import pytest
from cluster_parts import QUESTIONS, built, some_triples
from engine_parts import build_engine, build_llama

from kblam_engine import KBLaM, Triple
from kblam_engine.cluster.serving import Answers, _read
from kblam_engine.errors import ConfigurationError

TRIPLES = [
    Triple("Acme Robotics", "founder", "Lena Hoffmann"),
    Triple("Orca 2", "battery life", "7.5 hours"),
    Triple("Port of Varnholm", "harbour master", "Ingrid Solberg"),
]


def test_a_replica_answers(tmp_path, tiny_tokenizer, monkeypatch):
    made = build_engine(build_llama(), tiny_tokenizer, refusal_threshold=1e-6)
    monkeypatch.setattr(KBLaM, "from_pretrained", lambda **_: made)
    triples = some_triples(10)
    replica = Answers(str(built(tmp_path, triples)), {"model": "tiny"})
    answer = replica.answer(**_read(json.dumps({"question": QUESTIONS[0], "max_new_tokens": 3}).encode()))
    assert json.loads(json.dumps(answer)) == answer and answer["usage"]["n_triples"] == len(triples)
    made.injection.detach()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"nothing", "expected JSON such as"),
        (b"[1]", "question"),
        (b"{}", "question"),
        (b'{"question": "a", "messages": []}', "question"),
        (b'{"question": "a", "kb": "/etc"}', "unknown option 'kb'"),
        (b'{"question": "a", "cancel": 1}', "unknown option 'cancel'"),
        (b'{"question": "a", "max_new_tokens": 100000}', "at most 1024"),
    ],
)
def test_what_is_no_question_is_told(body, reason):
    with pytest.raises(ConfigurationError, match=reason):
        _read(body)


def test_ray_serve_answers_over_http(tmp_path):
    pytest.importorskip("ray.serve", reason='needs the extra: pip install "kblam-engine[cluster-serve]"', exc_type=ImportError)
    from kblam_engine.cluster.ray_cluster import connected
    from kblam_engine.cluster.serving import serve_shards, stop_serving

    folder = built(tmp_path, TRIPLES, encoder="all-minilm-l6-v2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def post(body):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", json.dumps(body).encode(), timeout=120) as reply:
            return json.load(reply)

    with connected("local", 2) as ray:
        handle = serve_shards(ray, str(folder), {"model": "smollm2-135m", "dtype": "float32"}, port=port)
        answer = post({"question": "Who is the founder of Acme Robotics?", "max_new_tokens": 20})
        assert "Lena Hoffmann" in answer["text"] and not answer["refused"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            post({"question": "Who?", "kb": "other.kb"})
        assert refused.value.code == 400 and "unknown option" in json.load(refused.value)["error"]
        assert handle.answer.remote("How long does the battery of the Orca 2 last?").result()["attended"]
        stop_serving()
