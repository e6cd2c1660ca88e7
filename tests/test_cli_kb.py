"""`kblam kb`: what it prints, and that a user's mistake is one line and an exit code."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import kblam_engine
from kblam_engine import KnowledgeBase, Triple
from kblam_engine.triples import Provenance

LINES = [
    {"name": "Acme", "property": "founder", "value": "Lena [b]Hoffmann[/b]", "source": "register"},
    {"name": "Acme", "property": "seat", "value": "Berlin"},
    {"name": "Borealis", "property": "founder", "value": "Tomás Rivera"},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "acme.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in LINES), "utf-8")
    return path


@pytest.fixture
def kb(tmp_path, file, kblam):
    path = tmp_path / "acme.kb"
    assert kblam("kb", "import", file, "--kb", path, "--encoder", "hashing")[0] == 0
    return path


def read_from(kb):
    """Return the lines as triples of the knowledge base, which say where they are from."""
    origin = {"uri": str(kb.parent / "acme.jsonl"), "extractor": "table"}
    return [{**line, "provenance": origin} for line in LINES]


def assert_one_line(result, code, pattern):
    got_code, out, err = result
    assert got_code == code and out == ""
    assert err.startswith("kblam: ") and err.count("\n") == 1, err
    assert re.search(pattern, err), err


def test_nothing_is_cut_where_a_table_is_narrow(tmp_path, kblam, monkeypatch):
    """Neither a URL nor a language without spaces."""
    monkeypatch.setenv("COLUMNS", "60")
    url, text = f"https://acme.example/{'x' * 150}/end", "値段は九万円です" * 12
    path = tmp_path / "kb"
    for value, prop in ((url, "page"), (text, "説明")):
        assert kblam("kb", "add", "Orca", prop, value, "--kb", path, "--encoder", "hashing")[0] == 0
    out = kblam("kb", "list", "--kb", path)[1]
    assert "…" not in out
    cells = [line.split("│")[3].strip() for line in out.splitlines() if line.count("│") == 4]
    assert "".join(cells) == url + text


def test_import_makes_the_knowledge_base_and_reports(tmp_path, file, kblam):
    code, out, _ = kblam("kb", "import", file, "--kb", tmp_path / "new.kb", "--encoder", "hashing", "--json")
    assert code == 0
    counts = {"added": 3, "replaced": 0, "unchanged": 0, "n_triples": 3, "revision": 1}
    assert json.loads(out) == {**counts, "overruled": 0, "skipped": {}}
    _, out, _ = kblam("kb", "import", file, "--kb", tmp_path / "new.kb")
    assert out.startswith("0 added, 0 replaced, 3 unchanged; 3 triples in ")


def test_list_shows_values_as_they_are(kb, kblam):
    code, out, err = kblam("kb", "list", "--kb", kb)
    assert code == 0 and "Lena [b]Hoffmann[/b]" in out and "Tomás Rivera" in out and err == ""
    numbered = [{"id": i, **line} for i, line in enumerate(read_from(kb), start=1)]
    assert json.loads(kblam("kb", "list", "--kb", kb, "--json")[1]) == numbered
    assert json.loads(kblam("kb", "list", "--kb", kb, "--json", "--name", "Acme")[1]) == numbered[:2]
    assert json.loads(kblam("kb", "list", "--kb", kb, "--json", "--property", "founder ")[1]) == numbered[::2]
    code, out, err = kblam("kb", "list", "--kb", kb, "--limit", 1)
    assert "Berlin" not in out and "the first 1, of 3" in err
    assert kblam("kb", "list", "--kb", kb, "--limit", 3)[2] == ""


def test_what_is_listed_can_be_removed_by_its_id(kb, kblam):
    kblam("kb", "add", "Acme", "seat", "Bonn", "--kb", kb, "--namespace", "sales", "--meta", "id=7", "--meta", "score=x")
    (bonn,) = json.loads(kblam("kb", "list", "--kb", kb, "--namespace", "sales", "--json")[1])
    metadata = {"id": "7", "score": "x"}
    expected = {"name": "Acme", "property": "seat", "value": "Bonn", "namespace": "sales", "metadata": metadata}
    assert bonn == {"id": 4, **expected}
    for look in ("search", "find"):
        hits = json.loads(kblam("kb", look, "Acme seat", "--kb", kb, "--json")[1])
        assert {hit["id"] for hit in hits if hit["property"] == "seat"} == {2, 4}, look
        assert all(isinstance(hit["score"], float) for hit in hits) and metadata in [hit.get("metadata") for hit in hits]
    assert kblam("kb", "remove", "--id", bonn["id"], "--kb", kb)[0] == 0
    assert [t["value"] for t in json.loads(kblam("kb", "list", "--kb", kb, "--json", "--property", "seat")[1])] == ["Berlin"]


def test_a_triple_is_replaced_by_its_id(kb, kblam):
    placed = ("--namespace", "sales", "--tag", "places", "--from", "2020", "--source", "atlas", "--meta", "page=3")
    kblam("kb", "add", "Acme", "seat", "Bonn", "--kb", kb, *placed)
    code, out, _ = kblam("kb", "set", "Acme", "office", "Ulm", "--id", 4, "--kb", kb, "--to", "2024", "--json")
    assert code == 0 and json.loads(out) == {"id": 5, "before": ["Bonn"], "revision": 3}
    with KnowledgeBase.open(kb) as base:
        assert base.triple(5) == Triple(
            "Acme", "office", "Ulm", namespace="sales", tags=("places",), valid_from="2020", valid_to="2024"
        )
        assert base.ids() == [1, 2, 3, 5]
    assert_one_line(kblam("kb", "set", "Acme", "seat", "Ulm", "--id", 4, "--kb", kb), 1, "id of a triple that is there, got 4")
    assert_one_line(kblam("kb", "set", "Acme", "seat", "Ulm", "--id", 9, "--kb", kb), 1, "id of a triple, got 9")


def test_tables_have_ids_and_sources_where_there_is_room(kb, kblam, monkeypatch):
    def heading(*arguments):
        return re.findall(r"\w+", kblam("kb", *arguments, "--kb", kb)[1].splitlines()[1])

    with KnowledgeBase.open(kb) as base:
        base.remove(source=str(kb.parent / "acme.jsonl"))
    kblam("kb", "add", "Acme", "seat", "Berlin", "--kb", kb)
    assert heading("list") == ["id", "name", "property", "value"]
    kblam("kb", "add", "Acme", "seat", "Bonn", "--kb", kb, "--source", "atlas")
    assert heading("list") == ["id", "name", "property", "value", "source"]
    assert heading("find", "bonn") == ["score", "id", "name", "property", "value", "source"]
    assert "atlas" in kblam("kb", "search", "seat of Acme", "--kb", kb)[1]
    monkeypatch.setenv("COLUMNS", "70")
    assert heading("list") == ["name", "property", "value"]


def test_search(kb, kblam):
    code, out, _ = kblam("kb", "search", "founder of Borealis", "--kb", kb, "-k", 1, "--json")
    (hit,) = json.loads(out)
    assert code == 0 and hit["value"] == "Tomás Rivera" and hit["id"] == 3 and 0 < hit["score"] <= 1
    assert "Tomás Rivera" in kblam("kb", "search", "founder of Borealis", "--kb", kb)[1]


def test_add_set_remove(kb, kblam):
    code, out, _ = kblam("kb", "add", "Acme", "size", "40", "--kb", kb, "--meta", "source=web=x", "--json")
    assert code == 0 and json.loads(out)["n_triples"] == 4
    code, out, _ = kblam("kb", "set", "Acme", "seat", " Bonn ", "--kb", kb)
    assert (code, out) == (0, "Berlin -> Bonn (revision 3)\n")
    assert json.loads(kblam("kb", "set", "Acme", "seat", "Ulm", "--kb", kb, "--json")[1])["before"] == ["Bonn"]
    assert json.loads(kblam("kb", "remove", "Acme", "founder", "--kb", kb, "--json")[1])["removed"] == 1
    assert kblam("kb", "remove", "Borealis", "--kb", kb)[1].startswith("removed 1 ")
    with KnowledgeBase.open(kb) as base:
        assert list(base) == [Triple("Acme", "seat", "Ulm"), Triple("Acme", "size", "40", {"source": "web=x"})]


def test_multi_keeps_values(tmp_path, kblam):
    for value in ("Chad", "Peru"):
        kblam("kb", "add", "WHO", "member", value, "--kb", tmp_path / "kb", "--multi", "--encoder", "hashing")
    assert [t["value"] for t in json.loads(kblam("kb", "list", "--kb", tmp_path / "kb", "--json")[1])] == ["Chad", "Peru"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_export(kb, tmp_path, kblam, suffix):
    target = tmp_path / f"out.{suffix}"
    assert json.loads(kblam("kb", "export", target, "--kb", kb, "--json")[1])["exported"] == 3
    kblam("kb", "import", target, "--kb", tmp_path / "copy.kb", "--encoder", "hashing")
    listed = json.loads(kblam("kb", "list", "--kb", tmp_path / "copy.kb", "--json")[1])
    assert [{key: part for key, part in line.items() if key != "id"} for line in listed] == read_from(kb)
    _, out, _ = kblam("kb", "export", "-", "--kb", kb)
    assert [json.loads(line) for line in out.splitlines()] == read_from(kb)


def test_counterfactual(kb, tmp_path, kblam):
    target = tmp_path / "copy.jsonl"
    code, out, _ = kblam("kb", "counterfactual", target, "--kb", kb, "--seed", 1, "--json")
    assert code == 0 and json.loads(out) == {"written": 3, "kept": 1, "borrowed": 0, "file": str(target)}
    founders = [line["value"] for line in map(json.loads, target.read_text("utf-8").splitlines())]
    assert founders == [LINES[2]["value"], "Berlin", LINES[0]["value"]]
    assert kblam("kb", "counterfactual", "-", "--kb", kb, "--seed", 1)[1] == target.read_text("utf-8")
    assert "wrote 3 triples to " in kblam("kb", "counterfactual", target, "--kb", kb)[1]
    assert_one_line(kblam("kb", "counterfactual", tmp_path / "copy.txt", "--kb", kb), 2, r"expected a \.jsonl or \.csv")


def test_info_and_verify(kb, kblam):
    facts = json.loads(kblam("kb", "info", "--kb", kb, "--json")[1])
    assert (facts["n_triples"], facts["n_names"], facts["revision"], facts["encoder"]) == (3, 2, 1, "hashing")
    assert "hashing" in kblam("kb", "info", "--kb", kb)[1]
    assert kblam("kb", "verify", "--kb", kb) == (0, "3 triples, all sound\n", "")
    with KnowledgeBase.open(kb) as base, base._store.writing() as connection:
        connection.execute("UPDATE triples SET value = 'forged' WHERE id = 1")
    code, out, _ = kblam("kb", "verify", "--kb", kb, "--json")
    assert code == 1 and not json.loads(out)["ok"]
    with open(kb / "kb.sqlite", "r+b") as file:
        file.write(b"no database")
    code, out, err = kblam("kb", "verify", "--kb", kb, "--json")
    told = json.loads(out)
    assert (code, err, told["ok"], told["n_triples"]) == (1, "", False, None) and "not a database" in told["problems"][0]
    code, out, err = kblam("kb", "verify", "--kb", kb)
    assert (code, out, err) == (1, f"{told['problems'][0]}\n", "") and "kblam kb verify" not in out, "it is what runs"
    assert_one_line(kblam("kb", "verify", "--kb", kb / "none", "--json"), 1, "no knowledge base there")


def test_verify_repairs_what_follows_from_the_triples(kb, kblam):
    assert kblam("kb", "verify", "--kb", kb, "--repair") == (0, "nothing to make anew\n3 triples, all sound\n", "")
    (keys,) = kb.glob("keys-*.f16")
    keys.write_bytes(keys.read_bytes()[:-4])
    code, out, _ = kblam("kb", "verify", "--kb", kb)
    assert code == 1 and "--repair" in out
    code, out, _ = kblam("kb", "verify", "--kb", kb, "--repair", "--json")
    told = json.loads(out)
    assert code == 0 and told["ok"] and told["repaired"]["keys"] > 0 and "left" not in told["repaired"]
    with KnowledgeBase.open(kb) as base, base._store.writing() as connection:
        connection.execute("UPDATE triples SET value = 'forged' WHERE id = 1")
    code, out, _ = kblam("kb", "verify", "--kb", kb, "--repair")
    assert code == 1 and out.startswith("made anew: ") and "digest" in out, "what triples say is not guessed"


def test_where_a_triple_was_read_can_be_said(kb, kblam):
    read = ("--source", "handbook", "--span", "120-164", "--extractor", "me", "--confidence", "0.5")
    assert kblam("kb", "add", "Acme", "size", "40", "--kb", kb, *read)[0] == 0
    assert kblam("kb", "set", "Acme", "seat", "Ulm", "--kb", kb, "--uri", "https://acme.example", "--span", "0-3")[0] == 0
    with KnowledgeBase.open(kb) as base:
        assert base.get("Acme", "size").provenance == Provenance("handbook", "", (120, 164), "me", 0.5)
        assert base.get("Acme", "seat").provenance == Provenance("", "https://acme.example", (0, 3))
    for wrong, pattern in (("12", "expected START-END"), ("-3-4", "expected START-END"), ("9-3", "expected start and end")):
        result = kblam("kb", "add", "a", "b", "c", "--kb", kb, "--source", "x", f"--span={wrong}")
        assert_one_line(result, 2, pattern)
    assert_one_line(kblam("kb", "add", "a", "b", "c", "--kb", kb, "--confidence", 1), 2, "expected --source or --uri beside")
    assert_one_line(
        kblam("kb", "add", "a", "b", "c", "--kb", kb, "--uri", "x", "--confidence", 2), 2, "'--confidence': .*less than or equal to 1"
    )


def test_a_command_waits_for_another_writer_as_long_as_it_is_told(kb, file, kblam):
    commands = [
        ["add", "a", "b", "c"],
        ["import", file],
        ["merge", "Acme", "Borealis"],
        ["set", "Acme", "seat", "Ulm"],
        ["remove", "Acme"],
        ["rollback", 0],
        ["compact"],
        ["verify", "--repair"],
    ]
    with KnowledgeBase.open(kb) as base, base._store.writing():
        for command in commands:
            result = kblam("kb", *command, "--kb", kb, "--timeout", "0.01")
            assert_one_line(result, 1, r"has been writing for 0\.01 s; try again, or wait longer")
    assert kblam("kb", "add", "a", "b", "c", "--kb", kb, "--timeout", 1)[0] == 0
    for wrong in ("-1", "nan", "inf", "soon"):
        assert_one_line(kblam("kb", "add", "a", "b", "c", "--kb", kb, f"--timeout={wrong}"), 2, "expected seconds, 0 to 86400")


def test_nothing_is_left_of_a_knowledge_base_that_cannot_be_made(tmp_path, file, kblam):
    new = tmp_path / "new.kb"
    for command in (["add", "a", "b", "c"], ["import", file]):
        result = kblam("kb", *command, "--kb", new, "--encoder", "nope")
        assert_one_line(result, 1, "unknown sentence encoder 'nope'")
        assert not new.exists()
    assert_one_line(kblam("kb", "add", "a", "b", "c", "--kb", ":memory:"), 2, "expected a folder, got :memory:")


def test_control_characters_do_not_reach_the_terminal(kb, kblam, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    wild = "Bel\a\x1b[31mlin\u202e"
    tame = r"Bel\x07\x1b[31mlin\u202e"
    assert kblam("kb", "set", "Acme", "seat", wild, "--kb", kb)[1].startswith(f"Berlin -> {tame} (")
    assert tame in kblam("kb", "list", "--kb", kb)[1]
    assert json.loads(kblam("kb", "list", "--kb", kb, "--json", "--property", "seat")[1])[0]["value"] == wild
    assert kblam("kb", "set", "Acme", "seat", "Bonn\ttown", "--kb", kb)[1].startswith(f"{tame} -> Bonn\ttown (")


def test_numbers_beyond_any_knowledge_base_are_one_line(kb, kblam):
    huge = 2**64
    commands = (
        ["log", "--last", huge],
        ["stats", "--top", huge],
        ["list", "--limit", huge],
        ["diff", 0, "--limit", huge],
        ["find", "Acme", "-k", huge],
        ["search", "Acme", "-k", huge],
        ["remove", "--id", huge],
        ["set", "a", "b", "c", "--id", huge],
        ["index", "--seed", huge],
    )
    for command in commands:
        assert_one_line(kblam("kb", *command, "--kb", kb), 2, "less than or equal to 2147483647")
    assert_one_line(kblam("kb", "index", "--seed", -1, "--kb", kb), 2, "greater than or equal to 0")


def test_one_triple_is_one_triple(tmp_path, kblam):
    kb = tmp_path / "kb"
    assert "; 1 triple in " in kblam("kb", "add", "a", "b", "c", "--kb", kb, "--encoder", "hashing")[1]
    assert kblam("kb", "verify", "--kb", kb)[1] == "1 triple, all sound\n"
    assert "wrote 1 triple to " in kblam("kb", "counterfactual", tmp_path / "copy.csv", "--kb", kb)[1]
    assert kblam("kb", "backup", tmp_path / "copy", "--kb", kb)[1].startswith("1 triple, revision 1, ")
    kblam("kb", "add", "a", "c", "c", "--kb", kb)
    assert kblam("kb", "rollback", 1, "--kb", kb)[1].startswith("1 triple, as in ")


@pytest.mark.parametrize(
    "command", [["list"], ["search", "x"], ["set", "a", "b", "c"], ["remove", "a"], ["export", "-"], ["info"], ["verify"]]
)
def test_a_missing_knowledge_base_is_one_line(tmp_path, kblam, command):
    result = kblam("kb", command[0], *command[1:], "--kb", tmp_path / "none")
    assert_one_line(result, 1, "none: no knowledge base there")
    assert not (tmp_path / "none").exists()


def test_a_broken_file_is_located_and_nothing_is_imported(tmp_path, kb, kblam):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"name":"New","property":"b","value":"c"}\n{"name":"a","property":\n', "utf-8")
    assert_one_line(kblam("kb", "import", bad, "--kb", kb), 1, r"bad\.jsonl, line 2: not JSON")
    assert len(json.loads(kblam("kb", "list", "--kb", kb, "--json")[1])) == 3
    assert_one_line(kblam("kb", "import", bad, "--kb", tmp_path / "new.kb"), 1, "line 2")
    assert not (tmp_path / "new.kb").exists()


def test_other_mistakes_are_one_line(tmp_path, kb, file, kblam):
    assert_one_line(kblam("kb", "import", tmp_path / "none.jsonl", "--kb", kb), 1, r"No such file.*none\.jsonl")
    assert_one_line(kblam("kb", "import", tmp_path, "--kb", kb), 1, r"expected a file, got a folder")
    assert_one_line(kblam("kb", "list", "--kb", file), 1, "expected a knowledge base")
    assert_one_line(kblam("kb", "import", file, "--kb", kb, "--encoder", "hashing-32"), 1, "got hashing-32")
    assert_one_line(kblam("kb", "add", "a", "b", " ", "--kb", kb), 2, "value: expected text")
    assert_one_line(kblam("kb", "remove", "Nobody", "--kb", kb), 1, r"no triple matches \(Nobody\)")
    assert_one_line(kblam("kb", "add", "a", "b", "c", "--kb", kb, "--meta", "x"), 2, "expected KEY=VALUE")
    assert_one_line(kblam("kb", "list"), 2, "Missing option '--kb'")
    assert_one_line(kblam("kb", "lst"), 2, "No such command 'lst'")
    assert_one_line(kblam("kb"), 2, "Missing command")
    assert_one_line(kblam("bogus"), 2, "No such command 'bogus'")


def test_a_full_disk_is_one_line(kb, kblam, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("kblam_engine.knowledge_base.segments.os.fsync", full)
        assert_one_line(kblam("kb", "add", "a", "b", "c", "--kb", kb), 1, "no space left on the disk: .*keys")
    assert kblam("kb", "verify", "--kb", kb)[0] == 0


def test_an_interrupt_is_130(kb, kblam, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("kblam_engine.knowledge_base.KnowledgeBase.add", interrupted)
    assert_one_line(kblam("kb", "add", "a", "b", "c", "--kb", kb), 130, "interrupted")


def open_for_writing(fifo, reader):
    """Open a pipe once its reader is there."""
    while reader.poll() is None:
        try:
            return os.fdopen(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK), "wb")
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"the reader exited with {reader.returncode}")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def heed_ctrl_c():
    """A suite that a shell started in the background has Ctrl-C ignored, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_in_a_running_import_leaves_it_as_it_was(kb, tmp_path):
    slow = tmp_path / "slow.jsonl"
    os.mkfifo(slow)  # an import that waits for its file
    command = [sys.executable, "-m", "kblam_engine", "kb", "import", str(slow), "--kb", str(kb)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)
    with open_for_writing(slow, process) as pipe:
        pipe.write(b'{"name":"New","property":"b","value":"c"}\n')
        pipe.flush()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "kblam: interrupted\n"
    with KnowledgeBase.open(kb) as base:
        assert len(base) == 3


def test_a_closed_pipe_is_no_traceback(kb):
    command = f"{sys.executable} -m kblam_engine kb list --kb {kb} --json | true"
    assert subprocess.run(command, shell=True, capture_output=True, text=True, check=False).stderr == ""


def test_version_and_help(kblam):
    assert kblam("--version") == (0, f"kblam {kblam_engine.__version__}\n", "")
    code, out, err = kblam()
    assert code == 0 and "Usage: kblam" in out and err == ""
    code, out, _ = kblam("kb", "--help")
    assert code == 0 and all(name in out for name in ("add", "list", "search", "import", "export", "verify"))
