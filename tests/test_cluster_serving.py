"""Answers over HTTP from shards: what a request may be, and a replica behind Ray Serve where that is installed."""

import asyncio
import json
import socket
import urllib.error
import urllib.request

import pytest
from cluster_parts import QUESTIONS, built, request_of, some_triples
from engine_parts import build_engine, build_llama

from kblam_engine import KBLaM, Triple
from kblam_engine.cluster import build_shards
from kblam_engine.cluster.requests import MAX_BODY, TooLargeError, body_of, read_request
from kblam_engine.cluster.serving import Answers, app_name
from kblam_engine.errors import ConfigurationError, KnowledgeBaseError
from kblam_engine.triple_files import write_jsonl

TRIPLES = [
    Triple("Acme Robotics", "founder", "Lena Hoffmann"),
    Triple("Orca 2", "battery life", "7.5 hours"),
    Triple("Port of Varnholm", "harbour master", "Ingrid Solberg"),
]


class Posted:
    """What starlette gives: a body in pieces."""

    def __init__(self, body):
        self.pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)]

    async def stream(self):
        while self.pieces:
            yield self.pieces.pop(0)


@pytest.fixture
def replica(tmp_path, tiny_tokenizer, monkeypatch):
    """A replica with a tiny model, of shards in `tmp_path`."""
    made = build_engine(build_llama(), tiny_tokenizer, refusal_threshold=1e-6)
    monkeypatch.setattr(KBLaM, "from_pretrained", lambda **_: made)
    yield Answers(str(built(tmp_path, some_triples(10))), {"model": "tiny"})
    made.injection.detach()


def test_a_replica_answers(replica):
    answer = replica.answer(**read_request(json.dumps({"question": QUESTIONS[0], "max_new_tokens": 3}).encode()))
    assert json.loads(json.dumps(answer)) == answer and answer["usage"]["n_triples"] == len(some_triples(10))
    chat = replica.answer(**read_request(json.dumps({"messages": QUESTIONS[-1], "max_new_tokens": 3, "stop": ["."]}).encode()))
    assert chat["usage"]["n_triples"] == len(some_triples(10))


def test_a_replica_answers_from_shards_that_are_built_again(replica, tmp_path):
    for n in (12, 14, 16):
        paths = [str(tmp_path / f"more-{n}.jsonl")]
        write_jsonl(paths[0], some_triples(n))
        build_shards(request_of(paths, tmp_path / "big.shards"))
        assert replica.answer(QUESTIONS[0], max_new_tokens=1)["usage"]["n_triples"] == len(some_triples(n))


def test_what_is_too_long_is_not_worked_through(replica, monkeypatch):
    monkeypatch.setattr(replica._model, "answer", lambda *_, **__: pytest.fail("it was worked through"))
    with pytest.raises(TooLargeError, match=r"tokens, what the base model can read, got \d"):
        replica.answer("word " * 20_000)
    posted = Posted(b'"' + b"x" * (2 * MAX_BODY))
    with pytest.raises(TooLargeError, match="at most 1,000,000 bytes"):
        asyncio.run(body_of(posted))
    assert posted.pieces  # the rest is not even read


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ConfigurationError("temperature: expected 0 or more"), 400, "temperature: expected 0 or more"),
        (TooLargeError("too long"), 413, "too long"),
        (KnowledgeBaseError("a shard cannot be read"), 500, "a shard cannot be read"),
        (OSError("/secret/place"), 500, "OSError; the log of the replica says more"),
    ],
)
def test_the_status_says_whose_fault_it_is(replica, monkeypatch, error, status, told):
    starlette = pytest.importorskip("starlette", reason='needs the extra: pip install "kblam-engine[cluster-serve]"')
    assert starlette

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(replica._model, "answer", fails)
    reply = asyncio.run(replica(Posted(b'{"question": "Who?"}')))
    assert (reply.status_code, json.loads(reply.body)) == (status, {"error": told})


def test_other_folders_and_ports_have_other_names():
    names = {app_name("/a", 8000), app_name("/b", 8000), app_name("/a", 8001)}
    assert len(names) == 3 and app_name("/a", 8000) in names


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
        (b"[" * 100_000, "expected JSON such as"),
        (rb'{"question": "\ud800"}', "expected JSON such as"),
        (b'{"messages": "hello"}', "messages: expected a list of messages, got str"),
        (b'{"question": ["a"]}', "question: expected a text, got list"),
        (b'{"question": "a", "stop": 5}', "stop: expected a text or a list of texts, got 5"),
    ],
)
def test_what_is_no_question_is_told(body, reason):
    with pytest.raises(ConfigurationError, match=reason):
        read_request(body)


def test_ray_serve_answers_over_http(tmp_path):
    pytest.importorskip("ray.serve", reason='needs the extra: pip install "kblam-engine[cluster-serve]"', exc_type=ImportError)
    from kblam_engine.cluster.ray_cluster import connected
    from kblam_engine.cluster.serving import serve_shards, stop_serving

    folder = str(built(tmp_path, TRIPLES, encoder="all-minilm-l6-v2"))
    model = {"model": "smollm2-135m", "dtype": "float32"}

    def post(body):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", json.dumps(body).encode(), timeout=120) as reply:
            return json.load(reply)

    with connected("local", 2) as ray:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}: expected an address of this machine and a free port"):
                serve_shards(ray, folder, model, port=port)
        with pytest.raises(ConfigurationError, match="expected replicas that start, got .*no-such-model"):
            serve_shards(ray, folder, {"model": "no-such-model"}, port=port)
        handle = serve_shards(ray, folder, model, port=port)
        answer = post({"question": "Who is the founder of Acme Robotics?", "max_new_tokens": 20})
        assert "Lena Hoffmann" in answer["text"] and not answer["refused"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            post({"question": "Who?", "kb": "other.kb"})
        assert refused.value.code == 400 and "unknown option" in json.load(refused.value)["error"]
        assert handle.answer.remote("How long does the battery of the Orca 2 last?").result()["attended"]
        other = str(built(tmp_path / "other", TRIPLES[:1], encoder="hashing"))
        with pytest.raises(ConfigurationError, match="where Ray Serve listens on this cluster already"):
            serve_shards(ray, other, model, port=port - 1)
        with pytest.raises(ConfigurationError, match=f"being used by application.*{app_name(folder, port)}"):
            serve_shards(ray, other, model, port=port)
        assert post({"question": "Who is the founder of Acme Robotics?", "max_new_tokens": 1})["usage"]["n_triples"] == 3
        stop_serving(folder, port)
