"""`kblam kb index`, what `kblam kb info` shows of it, and `kblam bench search`."""

import json

import pytest

from kblam_engine import KnowledgeBase, Triple


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


def test_a_damaged_record_is_shown_and_not_fatal(kblam, folder):
    (folder / "index.json").write_text("{}")
    code, out, _ = kblam("kb", "info", "--kb", folder, "--json")
    assert code == 0 and "expected the record of an index" in json.loads(out)["index"]


def test_an_unknown_index_is_a_usage_error(kblam, folder):
    assert kblam("kb", "index", "--kb", folder, "--index", "forest")[0] == 2
    assert kblam("bench", "search", "--index", "forest")[0] == 1


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
