"""`kblam cluster`, and `kblam ask` and `chat` on shards, with a tiny model; no Ray here."""

import json
import sys

import pytest
from cluster_parts import QUESTIONS, some_triples, write_files
from engine_parts import build_engine, build_llama

from kblam_engine import KBLaM, Triple
from kblam_engine.cluster import read_manifest
from kblam_engine.triple_files import write_jsonl

TRIPLES = some_triples(20)


@pytest.fixture
def tiny(tiny_tokenizer, monkeypatch):
    """The model that the commands load."""
    made = build_engine(build_llama(), tiny_tokenizer, refusal_threshold=1e-6)
    monkeypatch.setattr(KBLaM, "from_pretrained", lambda *_, **__: made)
    yield made
    made.injection.detach()


@pytest.fixture
def build(kblam, tmp_path):
    """Run `kblam cluster build` in this process."""
    paths = write_files(tmp_path, TRIPLES)

    def run(*more, output=tmp_path / "big.shards", shards=2, workers=1):
        options = ("--output", output, "--shards", shards, "--encoder", "hashing", "--workers", workers)
        return kblam("cluster", "build", *paths, *options, *more)

    return run


def test_build_and_info(kblam, build, tmp_path):
    folder = tmp_path / "big.shards"
    code, out, err = build()
    assert (code, err) == (0, "")
    assert f"{len(TRIPLES)} triples in 2 shards, 2 of them made now" in out and f"--kb {folder}" in out
    code, out, _ = build("--json")
    report = json.loads(out)
    assert code == 0 and report["made"] == [] and report["n_triples"] == len(TRIPLES) and len(report["shards"]) == 2
    code, out, _ = kblam("cluster", "info", folder, "--verify")
    assert code == 0 and "all files are as they were written" in out
    code, out, _ = kblam("cluster", "info", folder, "--json")
    assert code == 0 and json.loads(out)["n_triples"] == len(TRIPLES)
    (folder / read_manifest(folder).shards[0].folder / "kb.sqlite").write_bytes(b"nothing")
    code, _, err = kblam("cluster", "info", folder, "--verify")
    assert code == 1 and "kb.sqlite: not as it was written" in err


def test_build_says_what_it_left_out(kblam, tmp_path):
    path, nothing = tmp_path / "acme.jsonl", tmp_path / "nothing.jsonl"
    write_jsonl(path, [Triple("Acme", "ceo", value) for value in ("Ada", "Grace", "Grace")])
    nothing.write_text("", "utf-8")
    options = ("--output", tmp_path / "acme.shards", "--shards", 1, "--encoder", "hashing", "--workers", 1)
    code, out, err = kblam("cluster", "build", path, nothing, *options)
    assert code == 0 and "1 triples, 1 said again in 1 shards" in out
    assert "1 value is overruled by a later one of the same name and property; --multi keeps all" in err
    assert f"no triples in {nothing}" in err
    code, _, err = kblam("cluster", "build", nothing, *options)
    assert code == 1 and "got none in them; the shards stay as they were" in err and err.count("\n") == 1


def test_ask_takes_shards(kblam, build, tmp_path, tiny):
    build()
    code, out, _ = kblam("ask", "--kb", tmp_path / "big.shards", "--json", "--max-new-tokens", 4, QUESTIONS[0])
    answer = json.loads(out)
    assert code == 0 and answer["usage"]["n_triples"] == len(TRIPLES) and answer["attended"]


def test_chat_takes_shards_but_does_not_change_them(kblam, build, tmp_path, tiny):
    build()
    lines = [QUESTIONS[0], "/kb", "/add Acme | seat | Berlin", "/remove Acme", "/set Acme | seat | Oslo"]
    code, out, err = kblam("chat", "--kb", tmp_path / "big.shards", "--max-new-tokens", 2, lines=lines)
    assert code == 0 and f"{len(TRIPLES)} triples" in out and "2 shards" in out
    assert err.count("shards are for reading") == 3


def test_other_commands_say_what_they_found(kblam, build, tmp_path):
    build()
    for command in ("info", "list"):
        code, _, err = kblam("kb", command, "--kb", tmp_path / "big.shards")
        assert code == 1 and "got a folder of shards" in err and err.count("\n") == 1
    code, _, err = kblam("kb", "add", "a", "b", "c", "--kb", tmp_path / "big.shards")
    assert code == 1 and "got a folder of shards" in err
    for command in (["ask", "Who?"], ["chat"]):
        code, _, err = kblam(*command, "--kb", tmp_path / "big.shards", "--tag", "x")
        assert code == 1 and "which is asked as a whole" in err and err.count("\n") == 1


def test_mistakes_are_one_line(kblam, build, tmp_path, monkeypatch):
    code, _, err = kblam("cluster", "info", tmp_path)
    assert code == 1 and "found no shards.json" in err
    code, _, err = build(output=tmp_path)
    assert code == 1 and "expected shards or an empty folder" in err
    assert kblam("kb", "add", "a", "b", "c", "--kb", tmp_path / "one.kb", "--encoder", "hashing")[0] == 0
    code, _, err = kblam("ask", "--kb", tmp_path / "one.kb", "--address", "auto", "Who?")
    assert code == 1 and "which is one knowledge base" in err
    code, _, err = kblam("ask", "--kb", tmp_path / "nothing", "--address", "auto", "Who?")
    assert code == 1 and "no knowledge base there" in err
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = build(workers=2)
    assert code == 1 and 'pip install "kblam-engine[cluster]"' in err and err.count("\n") == 1
    assert build()[0] == 0
    code, _, err = kblam("ask", "--kb", tmp_path / "big.shards", "--address", "auto", "Who?")
    assert code == 1 and 'pip install "kblam-engine[cluster]"' in err
