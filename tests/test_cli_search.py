"""`kblam kb index`, what `kblam kb info` shows of it, and `kblam bench search`."""

import json
import re
from math import log10
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kblam_engine import KnowledgeBase, Triple

SEARCH_RESULTS = Path(__file__).parents[1] / "docs" / "results" / "search"


@pytest.fixture
def folder(tmp_path, hashing_encoder):
    path = tmp_path / "big.kb"
    with KnowledgeBase.open(path, encoder=hashing_encoder) as kb:
        kb.add([Triple(f"Orca {n // 3}", ("founder", "price", "colour")[n % 3], f"value {n}") for n in range(200)])
    return path


def test_an_index_is_built_shown_checked_and_removed(kblam, folder):
    assert json.loads(kblam("kb", "info", "--kb", folder, "--json")[1])["index"] is None
    code, out, err = kblam("kb", "index", "--kb", folder)
    assert code == 0 and out.startswith("tree of 200 keys in ") and "of the best 16" in out, err
    facts = json.loads(kblam("kb", "info", "--kb", folder, "--json")[1])
    assert facts["index"] == "tree" and facts["index_slots"] == 200 and facts["index_recall"] > 0.9
    assert facts["index_size_bytes"] > 0 and facts["index_build_s"] > 0 and "beam" in facts["index_options"]
    assert "index_recall" in kblam("kb", "info", "--kb", folder)[1]
    leaves = next(folder.glob("index-*/leaves.npy"))
    leaves.write_bytes(leaves.read_bytes()[:-2])
    code, out, _ = kblam("kb", "verify", "--kb", folder)
    assert code == 1 and "leaves.npy" in out
    assert json.loads(kblam("kb", "index", "--kb", folder, "--index", "ann", "--json")[1])["index"] == "ann"
    assert kblam("kb", "verify", "--kb", folder)[0] == 0
    assert "removed" in kblam("kb", "index", "--kb", folder, "--index", "exact")[1]
    assert "no index" in kblam("kb", "index", "--kb", folder, "--index", "exact")[1]
    assert json.loads(kblam("kb", "info", "--kb", folder, "--json")[1])["index"] is None


def record_with(folder, **facts):
    path = folder / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def test_info_says_what_is_not_in_the_index(kblam, folder, hashing_encoder):
    kblam("kb", "index", "--kb", folder)
    facts = json.loads(kblam("kb", "info", "--kb", folder, "--json")[1])
    assert facts["index_in_use"] is True and facts["index_unindexed_slots"] == 0
    with KnowledgeBase.open(folder, encoder=hashing_encoder) as kb:
        kb.set("Narwhal", "depth", "900 m")
    facts = json.loads(kblam("kb", "info", "--kb", folder, "--json")[1])
    assert facts["index_in_use"] is True and facts["index_unindexed_slots"] == 1 and facts["index_slots"] == 200


def test_an_index_that_is_not_in_use_is_told(kblam, folder):
    kblam("kb", "index", "--kb", folder)
    assert json.loads(kblam("kb", "verify", "--kb", folder, "--json")[1])["notes"] == []
    record_with(folder, generation=7)
    facts = json.loads(kblam("kb", "info", "--kb", folder, "--json")[1])
    assert facts["index_in_use"] is False and facts["index_unindexed_slots"] == 200
    assert "not in use" in facts["index_note"] and "kblam kb index" in facts["index_note"]
    code, out, _ = kblam("kb", "verify", "--kb", folder)
    assert code == 0 and "all sound" in out and "index: not in use" in out
    assert "not in use" in json.loads(kblam("kb", "verify", "--kb", folder, "--json")[1])["notes"][0]


def test_a_compaction_leaves_no_index_behind(kblam, folder):
    kblam("kb", "index", "--kb", folder)
    kblam("kb", "remove", "Orca 3", "--kb", folder)
    assert kblam("kb", "compact", "--kb", folder)[0] == 0
    assert json.loads(kblam("kb", "info", "--kb", folder, "--json")[1])["index"] is None
    assert not list(folder.glob("index-*"))


def test_an_index_that_falls_short_is_told(kblam, folder, monkeypatch):
    from kblam_engine.search import build
    from kblam_engine.search.recall import Measured

    monkeypatch.setattr(build, "measure", lambda *_, **__: Measured(0.995, 0.2, 10.0, 2.0))
    code, _, err = kblam("kb", "index", "--kb", folder)
    assert code == 0 and "the index" not in err
    assert json.loads(kblam("kb", "info", "--kb", folder, "--json")[1])["index_note"] is None
    for measured, told, refused in (
        (Measured(0.903, 0.5, 10.0, 5.0), "finds 90.3% of the best 16, below the goal of 98.5%", True),
        (Measured(0.97, 0.5, 10.0, 5.0), "finds 97.0%", False),
        (Measured(0.99, 1.48, 10.0, 14.8), "no faster than scoring every key: 148.0% of the time", True),
    ):
        monkeypatch.setattr(build, "measure", lambda *_, measured=measured, **__: measured)
        for arguments in ((), ("--json",)):
            code, out, err = kblam("kb", "index", "--kb", folder, *arguments)
            assert code == 0 and told in err and ("--index auto scores every key" in err) == refused and "the index" not in out
        assert told in json.loads(kblam("kb", "info", "--kb", folder, "--json")[1])["index_note"]


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "foo", "", "cpu:0", "cuda:-1"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_done(kblam, folder, device, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    code, out, err = kblam("kb", "index", "--kb", folder, "--device", device)
    assert code == (1 if device in ("cuda", "cuda:3") else 2)
    assert out == "" and re.match("kblam: (Invalid value for )?--device: expected ", err) and err.count("\n") == 1
    assert not list(folder.glob("index*")) and device in err


def test_a_damaged_record_is_shown_and_not_fatal(kblam, folder):
    (folder / "index.json").write_text("{}")
    code, out, _ = kblam("kb", "info", "--kb", folder, "--json")
    assert code == 0 and "expected the record of an index" in json.loads(out)["index"]


def test_an_unknown_index_is_a_usage_error(kblam, folder):
    assert kblam("kb", "index", "--kb", folder, "--index", "forest")[0] == 2
    assert kblam("bench", "search", "--index", "forest")[0] == 2


def test_searches_are_measured_and_drawn(kblam, tmp_path, monkeypatch, hashing_encoder):
    from kblam_engine import sentence_encoder
    from kblam_engine.evaluation import real_keys

    triples = [Triple(f"Orca {n // 3}", ("founder", "price", "colour")[n % 3], f"value {n}") for n in range(600)]
    monkeypatch.setenv("KBLAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(real_keys, "real_triples", lambda: iter(triples))
    monkeypatch.setattr(sentence_encoder, "load_sentence_encoder", lambda *_: hashing_encoder)
    arguments = ("--triples", 200, "--triples", 800, "--real", 500, "--json", tmp_path / "s.json")
    code, out, err = kblam("bench", "search", *arguments, "--plot", tmp_path / "s.png")
    assert code == 0, err
    found = json.loads((tmp_path / "s.json").read_text())
    assert [(r["kind"], r["n_keys"], r["n_synthetic"]) for r in found["results"]] == [
        (kind, n, extra) for n, extra in ((200, 0), (800, 300)) for kind in ("exact", "tree", "ann")
    ]
    exact = [r for r in found["results"] if r["kind"] == "exact"]
    assert all(r["recall"] == 1 and r["time_ratio"] == r["cpu_ratio"] == 1 for r in exact)
    assert set(found["growth_exponents"]) == {"exact", "tree", "ann"}
    small, large = (r["query_cpu_ms"] for r in found["results"] if r["kind"] == "tree")
    (step,) = found["growth_exponents_between_sizes"]["tree"]
    assert (step["from"], step["to"]) == (200, 800)
    # Times are rounded to a tenth of a microsecond in the file.
    assert step["exponent"] == pytest.approx(log10(large / small) / log10(4), abs=0.01)
    assert f"(200 to 800: {step['exponent']:.2f})" in out and "…" not in out
    for r in found["results"]:  # no number is cut off where the output is no terminal
        ratios = {f"{r['cpu_ratio'] + rounded:.3f}" for rounded in (-5e-5, 0, 5e-5)}  # four digits in the file
        assert any(ratio in out for ratio in ratios) and f"{r['recall']:.3f}" in out
        assert f"{r['disk_bytes_per_key']:,.0f}" in out
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "cache" / "real_keys").iterdir())) == 2


def test_searches_are_measured_on_the_keys_of_a_knowledge_base(kblam, tmp_path, monkeypatch, hashing_encoder, folder):
    from kblam_engine import sentence_encoder

    monkeypatch.setattr(sentence_encoder, "load_sentence_encoder", lambda *_: hashing_encoder)
    with KnowledgeBase.open(folder, read_only=True) as kb:
        n = len(kb)
    arguments = ("--kb", folder, "--triples", 100, "--triples", n + 50, "--index", "tree", "--json", tmp_path / "s.json")
    code, _, err = kblam("bench", "search", *arguments)
    assert code == 0, err
    results = json.loads((tmp_path / "s.json").read_text())["results"]
    assert [(r["n_keys"], r["n_synthetic"]) for r in results] == [(100, 0), (100, 0), (n + 50, 50), (n + 50, 50)]
    assert all(r["recall"] > 0.9 for r in results)
    assert kblam("bench", "search", "--kb", tmp_path / "nothing.kb")[0] == 1


def test_exponents_are_told_from_each_size_to_the_next():
    from kblam_engine.evaluation.search_bench import growth_exponents, local_exponents

    results = [
        SimpleNamespace(kind=kind, n_keys=n, query_cpu_ms=time)
        for kind, points in {"tree": ((100, 1.0), (10, 1.0), (1_000, 100.0)), "ann": ((10, 5.0), (10, 6.0))}.items()
        for n, time in points
    ]
    assert growth_exponents(results) == {"tree": 1.0}
    assert local_exponents(results) == {
        "tree": [{"from": 10, "to": 100, "exponent": 0.0}, {"from": 100, "to": 1_000, "exponent": 2.0}]
    }


@pytest.mark.parametrize("name", ["real.json", "ten-million.json"])
def test_exponents_in_the_files_are_those_of_their_times(name):
    from kblam_engine.evaluation.search_bench import growth_exponents, local_exponents

    found = json.loads((SEARCH_RESULTS / name).read_text("utf-8"))
    results = [SimpleNamespace(**one) for one in found["results"]]
    assert found["growth_exponents"] == growth_exponents(results)
    assert found["growth_exponents_between_sizes"] == local_exponents(results)


def test_the_page_tells_the_exponents_of_each_decade():
    page = (SEARCH_RESULTS.parents[1] / "scale.md").read_text("utf-8")
    told = json.loads((SEARCH_RESULTS / "ten-million.json").read_text("utf-8"))["growth_exponents_between_sizes"]

    def shown(exponent):
        return f"{exponent:.2f}".removeprefix("0")

    for steps in zip(*(told[kind] for kind in ("exact", "tree", "ann")), strict=True):
        exact, tree, ann = (shown(step["exponent"]) for step in steps)
        sizes = f"{steps[0]['from']:,} to {steps[0]['to']:,}"
        assert f"| {sizes} | {exact} | {tree} | | | | {ann} | | | |" in page
    for kind, name in (("tree", "tree"), ("ann", "faiss")):
        assert f"{name} {', '.join(shown(step['exponent']) for step in told[kind])}" in page


def test_kept_keys_are_those_of_the_triples_that_are_measured(tmp_path, monkeypatch, hashing_encoder):
    """Another data set puts other triples into the same places: keys that were kept before are not theirs."""
    from kblam_engine.evaluation import real_keys

    def keys_of(prefix, n):
        triples = [Triple(f"{prefix} {i}", "price", str(i)) for i in range(300)]
        monkeypatch.setattr(real_keys, "real_triples", lambda: iter(triples))
        found = real_keys.keys_of_datasets(n, 10, hashing_encoder, tmp_path)
        wanted = hashing_encoder.encode([triple.key_text for triple in triples[:n]]).astype(np.float16)
        return np.array(found.keys), wanted, found.triples

    keys, wanted, _ = keys_of("Orca", 100)
    np.testing.assert_array_equal(keys, wanted)
    keys, wanted, triples = keys_of("Narwhal", 200)
    assert triples[0].name == "Narwhal 0"
    np.testing.assert_array_equal(keys, wanted)
    assert len(list(tmp_path.glob("keys-*"))) == 1


def test_kept_keys_are_used_again(tmp_path, monkeypatch, hashing_encoder):
    from kblam_engine.evaluation import real_keys

    triples = [Triple(f"Orca {i}", "price", str(i)) for i in range(300)]
    monkeypatch.setattr(real_keys, "real_triples", lambda: iter(triples))
    first = np.array(real_keys.keys_of_datasets(200, 10, hashing_encoder, tmp_path).keys)
    n_encoded = []
    monkeypatch.setattr(type(hashing_encoder), "encode", lambda _, texts: n_encoded.append(len(texts)))
    again = real_keys.keys_of_datasets(150, 10, hashing_encoder, tmp_path).keys
    np.testing.assert_array_equal(again, first[:150])
    assert not n_encoded
