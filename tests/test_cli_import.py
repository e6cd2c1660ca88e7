"""`kblam kb import` of sources of every kind, with options and with a review in between."""

import json

import pytest

from kblam_engine import KnowledgeBase

ORCA = "# Orca 2\n\nPayload: 80 kg\nMaker: Acme\n"


@pytest.fixture
def imported(tmp_path, kblam, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return kblam("kb", "import", *arguments, "--kb", tmp_path / "x.kb", "--encoder", "hashing", "--json")

    return run


def listed(kblam, tmp_path):
    _, out, _ = kblam("kb", "list", "--kb", tmp_path / "x.kb", "--json")
    return {(t["name"], t["property"], t["value"]) for t in json.loads(out)}


def test_a_document(tmp_path, kblam, imported):
    (tmp_path / "orca.md").write_text(ORCA, "utf-8")
    code, out, _ = imported("orca.md", "--option", "extractors=structured")
    assert code == 0 and json.loads(out)["added"] == 2
    assert listed(kblam, tmp_path) == {("Orca 2", "payload", "80 kg"), ("Orca 2", "maker", "Acme")}


def test_a_table_with_options_and_what_was_left_out(tmp_path, kblam, imported):
    (tmp_path / "t.csv").write_text("sku,part,weight\n1,battery,3.5\n2,,4\n", "utf-8")
    code, out, err = imported("t.csv", "--option", "name-column=part", "--option", "properties=weight:weight in kg")
    assert code == 0 and "left out - record without a name: 1" in err
    assert json.loads(out)["skipped"] == {"record without a name": 1}
    assert listed(kblam, tmp_path) == {("battery", "weight in kg", "3.5")}


def test_review_then_import(tmp_path, kblam, imported):
    (tmp_path / "orca.md").write_text(ORCA, "utf-8")
    code, out, _ = imported("orca.md", "--review", "--option", "extractors=structured")
    assert code == 0 and json.loads(out) == {"candidates": 2, "file": "orca.review.csv", "skipped": {}}
    assert not (tmp_path / "x.kb").exists()
    code, _, err = imported("orca.md", "--review")
    assert code == 1 and "orca.review.csv: expected no review yet" in err and "move it away" in err
    review = tmp_path / "orca.review.csv"
    review.write_text(review.read_text("utf-8").replace(",Acme,", ",Acme Robotics,"), "utf-8")
    code, out, _ = imported("orca.review.csv")
    assert code == 0 and ("Orca 2", "maker", "Acme Robotics") in listed(kblam, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["x.xyz"], 1, "expected a file of"),
        (["https://example.org/x.csv"], 1, "download it first"),
        (["orca.md", "--option", "colour=red"], 2, "no option 'colour'"),
        (["orca.md", "--option", "colour"], 2, "expected KEY=VALUE"),
        (["orca.md", "--option", "min_confidence=high"], 2, "expected a number"),
        (["orca.md", "--option", "extractors=llm"], 2, "--llm MODEL on the command line"),
        (["orca.md", "--llm", "no_such_module:chat"], 1, "--llm: expected a function 'chat'"),
        (["orca.md", "--llm", "no such model"], 1, "no such model"),
        (["t.csv", "--llm", "json:loads"], 2, "--llm: expected a document, got t.csv"),
        (["orca.md", "--replace", "--review"], 2, "when the review is imported"),
        (["orca.md", "--from", "soon"], 2, "'--from': time: expected a time"),
    ],
)
def test_mistakes_are_one_line(tmp_path, imported, arguments, code, message):
    (tmp_path / "orca.md").write_text(ORCA, "utf-8")
    (tmp_path / "x.xyz").write_text("", "utf-8")
    (tmp_path / "t.csv").write_text("name,staff\nAcme,3\n", "utf-8")
    found, _, err = imported(*arguments)
    assert found == code and message in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "x.kb").exists()


def test_names_are_spelled_as_the_knowledge_base_has_them(tmp_path, kblam, imported):
    (tmp_path / "kb.csv").write_text("name,seat,also known as\nAcme Robotics,Ulm,Acme; AR\n", "utf-8")
    (tmp_path / "new.csv").write_text("name,staff\nACME  robotics,240\nar,1\nKite,2\nK1,3\n", "utf-8")
    (tmp_path / "aliases.csv").write_text("name,alias\nKite,K1\n", "utf-8")
    assert imported("kb.csv")[0] == 0
    code, _, err = imported("new.csv", "--reconcile", "--multi")
    assert code == 0 and "2 triples have another spelling" in err
    staff = {(n, v) for n, p, v in listed(kblam, tmp_path) if p == "staff"}
    assert staff == {("Acme Robotics", "240"), ("Acme Robotics", "1"), ("Kite", "2"), ("K1", "3")}
    assert imported("new.csv", "--aliases", "aliases.csv")[0] == 0
    assert ("Kite", "staff", "3") in listed(kblam, tmp_path)
    code, _, err = imported("new.csv", "--aliases", "new.csv")
    assert code == 1 and "columns name and alias" in err and len(err.splitlines()) == 1
    assert kblam("kb", "import", "new.csv", "--aliases", "aliases.csv", "--kb", "y.kb", "--review")[0] == 0
    assert "K1" not in [row.split(",")[1] for row in (tmp_path / "new.review.csv").read_text("utf-8").splitlines()]
    assert not (tmp_path / "y.kb").exists()


def test_aliases_of_lists_and_of_the_file_itself_count(tmp_path, kblam, imported):
    firm = {"name": "Acme Robotics", "aliases": ["AR", "The Firm"], "seat": "Ulm"}
    (tmp_path / "a.json").write_text(json.dumps([{"name": "AR", "staff": 3}, firm]), "utf-8")
    code, _, err = imported("a.json", "--reconcile")
    assert code == 0 and "1 triple has another spelling of its name" in err
    assert ("Acme Robotics", "staff", "3") in listed(kblam, tmp_path)
    (tmp_path / "b.csv").write_text("name,logo\nthe firm,red\n", "utf-8")
    assert imported("b.csv", "--reconcile")[0] == 0 and ("Acme Robotics", "logo", "red") in listed(kblam, tmp_path)
    (tmp_path / "c.csv").write_text("name,alias,age\nOther,Acme Robotics,5\nAcme Robotics,,9\n", "utf-8")
    assert imported("c.csv", "--reconcile")[0] == 0
    assert ("Acme Robotics", "age", "9") in listed(kblam, tmp_path), "the knowledge base has a name of its own for it"


def test_aliases_that_call_one_another_are_no_error(tmp_path, kblam, imported):
    (tmp_path / "kb.csv").write_text("name,also known as\nWHO,World Health Organization\nWorld Health Organization,WHO\n", "utf-8")
    assert imported("kb.csv")[0] == 0
    (tmp_path / "new.csv").write_text("name,seat\nwho,Geneva\n", "utf-8")
    assert imported("new.csv", "--reconcile")[0] == 0
    assert {name for name, prop, _ in listed(kblam, tmp_path) if prop == "seat"} <= {"WHO", "World Health Organization"}


# what there is nothing in, and where it comes from


@pytest.mark.parametrize(("name", "text"), [("x.ttl", "# nothing\n"), ("x.csv", "name,seat\n"), ("x.json", "[]")])
def test_a_file_with_nothing_in_it_is_told(tmp_path, imported, name, text):
    (tmp_path / name).write_text(text, "utf-8")
    code, out, err = imported(name)
    assert code == 0 and err == f"no triples in {name}; {tmp_path / 'x.kb'} is not made\n" and json.loads(out)["added"] == 0
    assert not (tmp_path / "x.kb").exists()
    (tmp_path / "y.csv").write_text("name,seat\nAcme,Ulm\n", "utf-8")
    assert imported("y.csv")[0] == 0
    code, out, err = imported(name)
    assert code == 0 and err == f"no triples in {name}\n" and json.loads(out)["n_triples"] == 1


def test_triples_of_a_file_are_replaced_without_a_first_time(tmp_path, imported):
    (tmp_path / "t.csv").write_text("name,property,value\nAcme,seat,Ulm\nAcme,staff,3\n", "utf-8")
    assert imported("t.csv")[0] == 0
    (tmp_path / "t.csv").write_text("name,property,value\n,,\nAcme,seat,Ulm\n", "utf-8")
    told = json.loads(imported("t.csv", "--replace")[1])
    assert (told["unchanged"], told["removed"]) == (1, 1) and triples_of(tmp_path, source="t.csv") == {("Acme", "seat", "Ulm")}


def test_values_of_one_file_that_overrule_each_other(tmp_path, imported):
    (tmp_path / "t.csv").write_text("name,p\nA,1\nA,2\nA,3\nB,1\n", "utf-8")
    expected = [({"added": 2, "unchanged": 0}, ()), ({"added": 0, "unchanged": 2}, ()), ({"unchanged": 2, "removed": 0}, ("--replace",))]
    for counts, options in expected:
        code, out, err = imported("t.csv", *options)
        told = json.loads(out)
        assert (code, told["replaced"], told["overruled"]) == (0, 0, 2) and told | counts == told
        assert "2 values are overruled by later ones of the same name and property in t.csv; --multi keeps all" in err
    assert triples_of(tmp_path) == {("A", "p", "3"), ("B", "p", "1")}
    (tmp_path / "t.csv").write_text("name,p\nA,1\nA,2\nA,1\n", "utf-8")
    assert imported("t.csv", "--multi", "--replace")[0] == 0
    code, out, err = imported("t.csv", "--replace")
    told = json.loads(out)
    assert (code, err, told["unchanged"], told["removed"], told["overruled"]) == (0, "", 2, 0, 0)
    assert triples_of(tmp_path) == {("A", "p", "1"), ("A", "p", "2")}


def test_a_review_in_which_all_is_rejected_takes_back_what_the_document_said(tmp_path, imported):
    (tmp_path / "orca.md").write_text(ORCA, "utf-8")
    structured = ("--option", "extractors=structured")
    assert imported("orca.md", *structured)[0] == 0 and imported("orca.md", "--review", *structured)[0] == 0
    review = tmp_path / "orca.review.csv"
    review.write_text(review.read_text("utf-8").replace("\nyes,", "\nno,"), "utf-8")
    code, out, err = imported("orca.review.csv", "--replace")
    assert code == 0 and json.loads(out)["removed"] == 2 and triples_of(tmp_path) == set() and "is new" not in err


def test_a_review_of_lines_in_which_all_is_rejected(tmp_path, imported):
    from kblam_engine.sources import open_source
    from kblam_engine.sources.review import write_review

    (tmp_path / "orca.md").write_text(ORCA, "utf-8")
    assert imported("orca.md", "--option", "extractors=structured")[0] == 0
    write_review("orca.review.jsonl", open_source("orca.md", extractors=["structured"]), keep=1)
    assert json.loads(imported("orca.review.jsonl", "--replace")[1])["removed"] == 2


def test_no_candidates_are_no_review(tmp_path, imported):
    (tmp_path / "empty.md").write_text("# Orca 2\n", "utf-8")
    code, out, _ = imported("empty.md", "--review", "--option", "extractors=structured")
    assert code == 0 and json.loads(out) == {"candidates": 0, "file": None, "skipped": {}}


def test_standard_input_and_files_without_a_suffix(tmp_path, kblam):
    def run(*arguments, lines=()):
        return kblam("kb", "import", *arguments, "--kb", tmp_path / "x.kb", "--encoder", "hashing", "--json", lines=lines)

    code, out, _ = run("-", "--format", "csv", "--option", r"delimiter=\t", lines=["name\tseat", "Acme\tUlm"])
    assert code == 0 and json.loads(out)["added"] == 1 and triples_of(tmp_path, source="stdin") == {("Acme", "seat", "Ulm")}
    code, _, err = run("-", "--format", "csv", "--replace", lines=["name,seat", "Acme,Ulm"])
    assert code == 2 and "expected --option uri=NAME" in err
    for removed, lines in ((0, ["name,staff", "Acme,3", "Kite,4"]), (1, ["name,staff", "Acme,3"])):
        code, out, _ = run("-", "--format", "csv", "--replace", "--option", "uri=feed", lines=lines)
        assert code == 0 and json.loads(out)["removed"] == removed
    code, _, err = run("-", lines=["name,seat", "Acme,Ulm"])
    assert code == 1 and "--format csv" in err and len(err.splitlines()) == 1
    code, _, err = run("-", "--format", "md", "--review", lines=["# Acme", "", "Seat: Ulm"])
    assert code == 2 and "got stdin" in err
    code, _, err = run("-", "--format", "csv", "--llm", "json:loads", lines=["name,seat"])
    assert code == 2 and "--llm: expected a document" in err
    (tmp_path / "export").write_text("name,seat\nKite,Oslo\n", "utf-8")
    assert run(tmp_path / "export", "--format", "csv")[0] == 0
    assert triples_of(tmp_path, source=str(tmp_path / "export")) == {("Kite", "seat", "Oslo")}


# what was read before, labels, a chat model


def triples_of(tmp_path, **choice):
    with KnowledgeBase.open(tmp_path / "x.kb") as base:
        return {(t.name, t.property, t.value) for t in base.view(**choice)}


def test_a_document_read_again_replaces_what_it_said(tmp_path, imported):
    structured = ("--option", "extractors=structured")
    (tmp_path / "orca.md").write_text(ORCA, "utf-8")
    (tmp_path / "kite.md").write_text("# Kite\n\nSpeed: 12 m/s\n", "utf-8")
    for name in ("orca.md", "kite.md"):
        assert imported(name, *structured)[0] == 0
    (tmp_path / "orca.md").write_text("# Orca 2\n\nPayload: 90 kg\nColour: red\nSpeed: 2 m/s\n", "utf-8")
    code, out, err = imported("orca.md", *structured, "--replace")
    told = json.loads(out)
    assert (code, err, told["revision"], told["n_triples"], told["removed"]) == (0, "", 3, 4, 2)
    orca = {("Orca 2", "payload", "90 kg"), ("Orca 2", "colour", "red"), ("Orca 2", "speed", "2 m/s")}
    assert triples_of(tmp_path) == {*orca, ("Kite", "speed", "12 m/s")}
    told = json.loads(imported("orca.md", *structured, "--replace")[1])
    assert (told["revision"], told["unchanged"], told["added"], told["removed"]) == (3, 3, 0, 0)
    code, _, err = imported("./orca.md", *structured, "--replace")
    assert code == 0 and "is from ./orca.md, spelled like this" in err


def test_a_folder_read_again_forgets_the_files_that_are_gone(tmp_path, imported):
    (tmp_path / "docs").mkdir()
    for name, weight in (("a", 3), ("b", 4), ("c", 5)):
        (tmp_path / "docs" / f"{name}.csv").write_text(f"name,weight\n{name},{weight}\n", "utf-8")
    assert imported("docs/")[0] == 0
    (tmp_path / "docs" / "a.csv").unlink()
    (tmp_path / "docs" / "b.csv").write_text("name,weight\nb,9\n", "utf-8")
    (tmp_path / "docs" / "c.csv").write_text("name,weight\nc,\n", "utf-8")
    told = json.loads(imported("docs/", "--replace")[1])
    assert (told["revision"], told["added"], told["removed"]) == (2, 1, 3)
    assert triples_of(tmp_path) == {("b", "weight", "9")}


def test_a_file_of_triples_is_replaced_in_one_namespace(tmp_path, imported):
    def write(*values):
        lines = [json.dumps({"name": "Acme", "property": f"p{i}", "value": value}) for i, value in enumerate(values)]
        (tmp_path / "t.jsonl").write_text("\n".join(lines), "utf-8")

    write("1", "2")
    for namespace in ("sales", "lab"):
        code, _, err = imported("t.jsonl", "--replace", "--namespace", namespace)
        assert code == 0
    write("1")
    assert json.loads(imported("t.jsonl", "--replace", "--namespace", "lab")[1])["removed"] == 1
    assert len(triples_of(tmp_path, namespace="sales")) == 2 and len(triples_of(tmp_path, namespace="lab")) == 1


def test_what_is_imported_carries_labels(tmp_path, kblam, imported):
    lines = [{"name": "a", "property": "p", "value": "1"}]
    lines += [{"name": "b", "property": "p", "value": "2", "namespace": "own", "tags": ["old"], "valid_from": "2001"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    labels = ("--namespace", "sales", "--tag", "x", "--tag", "y", "--from", "2020", "--to", "2024")
    assert imported("t.jsonl", *labels)[0] == 0
    listed = json.loads(kblam("kb", "list", "--kb", tmp_path / "x.kb", "--json")[1])
    common = {"namespace": "sales", "valid_from": "2020", "valid_to": "2024"}
    assert [t | common for t in listed] == listed and [t["tags"] for t in listed] == [["x", "y"], ["old", "x", "y"]]
    code, _, err = imported("t.jsonl", "--to", "2000")
    assert code == 1 and "expected a time after 2001" in err and len(err.splitlines()) == 1
    (tmp_path / "orca.md").write_text(ORCA, "utf-8")
    assert imported("orca.md", "--review", "--tag", "robots", "--option", "extractors=structured")[0] == 0
    assert imported("orca.review.csv")[0] == 0
    assert triples_of(tmp_path, tags="robots") == {("Orca 2", "payload", "80 kg"), ("Orca 2", "maker", "Acme")}


@pytest.mark.parametrize("extractors", [None, "llm", "llm,structured"])
def test_a_chat_model_reads_a_document(tmp_path, imported, monkeypatch, extractors):
    (tmp_path / "own_chat.py").write_text(
        "def chat(messages):\n"
        "    assert 'founded Acme' in messages[-1]['content']\n"
        """    return '{"triples": [{"name": "Acme", "property": "founder", "value": "Lena"}, """
        """{"name": "Acme", "property": "founded", "value": "1998"}]}'\n""",
        "utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "note.md").write_text("# Acme\n\nLena founded Acme.\n\nSeat: Ulm\n", "utf-8")
    option = () if extractors is None else ("--option", f"extractors={extractors}")
    code, out, _ = imported("note.md", "--llm", "own_chat:chat", *option)
    assert code == 0 and json.loads(out)["skipped"] == {"llm: value not in the text": 1}
    found = {("Acme", "founder", "Lena")} | (set() if extractors == "llm" else {("Acme", "seat", "Ulm")})
    assert triples_of(tmp_path) == found


def test_a_model_in_a_folder_reads_a_document(tmp_path, imported, tiny_model_folder, monkeypatch):
    monkeypatch.setattr("kblam_engine.cli._importing._LLM_TOKENS", 4)
    (tmp_path / "orca.md").write_text(ORCA, "utf-8")
    code, out, _ = imported("orca.md", "--llm", tiny_model_folder)
    told = json.loads(out)
    assert code == 0 and told["added"] == 2, "of the structure; random weights write no triples"
    assert told["skipped"] == {"llm: reply that could not be read": 1}
