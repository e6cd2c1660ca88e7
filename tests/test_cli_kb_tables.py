"""`kblam kb`: in tables, differences and counts, triples that differ look different, and nothing is left out unsaid."""

import json
import re
import shutil

import pytest

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.cli.kb_tables import beside_columns, label_columns
from kblam_engine.triples import Provenance


@pytest.fixture
def kb(tmp_path):
    return tmp_path / "acme.kb"


def fill(kb, *batches):
    """Make each batch a revision."""
    with KnowledgeBase.open(kb, encoder="hashing") as base:
        for batch in batches:
            base.add(batch)


def table(out):
    """Return the first table of an output as lists of cells, the heading first."""
    lines = [re.split("[│┃]", line)[1:-1] for line in out.split("└")[0].splitlines() if line[:1] in "│┃"]
    return [[cell.strip() for cell in line] for line in lines]


def test_what_tells_triples_apart_has_a_column(kb, kblam, monkeypatch):
    fill(kb, [Triple("A", "p", "v"), Triple("A", "p", "v", namespace="sales")])
    assert table(kblam("kb", "list", "--kb", kb)[1])[0] == ["id", "name", "property", "value", "namespace"]
    assert [line[-1] for line in table(kblam("kb", "find", "v", "--kb", kb)[1])[1:]] in (["", "sales"], ["sales", ""])
    assert table(kblam("kb", "list", "--kb", kb, "--namespace", "")[1])[0] == ["id", "name", "property", "value"]
    assert [line[3] for line in table(kblam("kb", "history", "A", "--kb", kb)[1])] == ["namespace", "", "sales"]
    monkeypatch.setenv("COLUMNS", "60")
    assert table(kblam("kb", "list", "--kb", kb)[1])[0] == ["name", "property", "value", "namespace"]


def test_columns_of_tags_and_times():
    plain = Triple("A", "p", "v")
    others = [
        Triple("A", "p", "v", tags=("b", "a")),
        Triple("A", "p", "v", valid_from="2020"),
        Triple("A", "p", "v", valid_to="2024"),
        Triple("A", "p", "v", valid_from="2020", valid_to="2024"),
    ]
    assert label_columns([plain]) == {}
    assert label_columns([plain, *others]) == {
        "tags": ["", "a, b", "", "", ""],
        "holds": ["", "", "from 2020", "to 2024", "2020 to 2024"],
    }


def test_what_else_differs_is_told_of_triples_that_look_alike_only():
    first = Triple("A", "p", "v", {"page": 3, "kind": "x"}, Provenance("book", span=(1, 2)))
    second = Triple("A", "p", "v", {"page": 4, "kind": "x"}, Provenance("book", span=(1, 2)))
    long = Triple("A", "p", "w", {"note": "a" * 100})
    assert beside_columns([first, first, long]) == {}
    assert beside_columns([first, second, long]) == {"beside": ["page=3", "page=4", ""]}
    shortened = f"note={'a' * 59}…"
    assert beside_columns([long, Triple("A", "p", "w", {"note": "a" * 99})])["beside"] == [shortened, shortened]
    assert beside_columns([first, Triple("A", "p", "v")])["beside"] == ["page=3, kind=x, source=book, span=[1, 2]", ""]


def test_a_change_of_tags_times_or_source_is_seen_in_diff_and_history(kb, kblam, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    fill(
        kb,
        [Triple("A", "p", "v")],
        [Triple("A", "p", "v", tags=("t",))],
        [Triple("A", "p", "v", valid_from="2020")],
        [Triple("A", "p", "v", provenance=Provenance("book"))],
        [Triple("A", "p", "v", provenance=Provenance("atlas"))],
    )

    def changes(before):
        heading, *lines = table(kblam("kb", "diff", before, before + 1, "--kb", kb)[1])
        return heading[4:], [line[:1] + line[4:] for line in lines]

    assert changes(1) == (["tags"], [["-", ""], ["+", "t"]])
    assert changes(2) == (["tags", "holds"], [["-", "t", ""], ["+", "", "from 2020"]])
    assert changes(4) == (["beside"], [["-", "source=book"], ["+", "source=atlas"]])
    lines = [line[3:6] for line in table(kblam("kb", "history", "A", "--kb", kb)[1])]
    assert lines[:3] == [["tags", "holds", "beside"], ["", "", ""], ["t", "", ""]]
    assert lines[3:] == [["", "from 2020", ""], ["", "", "source=book"], ["", "", "source=atlas"]]


def test_differences_are_counted_and_limited(kb, kblam):
    fill(kb, [Triple(f"N{i:02}", "p", "v") for i in range(60)], [Triple("N00", "p", "w")])
    _, out, err = kblam("kb", "diff", 0, "--kb", kb)
    assert len(table(out)) == 51 and out.endswith("60 added, 0 removed\n")
    assert err == "… and 10 more; --limit 0 shows all\n"
    code, out, err = kblam("kb", "diff", 0, "--kb", kb, "--limit", 0)
    assert len(table(out)) == 61 and err == ""
    assert len(json.loads(kblam("kb", "diff", 0, "--kb", kb, "--json", "--limit", 1)[1])["added"]) == 60
    assert kblam("kb", "diff", 1, "--kb", kb)[1].endswith("1 added, 1 removed\n")
    assert kblam("kb", "diff", 2, "--kb", kb) == (0, "0 added, 0 removed\n", "")


def test_nothing_found_is_said(kb, kblam):
    fill(kb, [Triple("A", "p", "v")])
    for command in (["list", "--namespace", "typo"], ["find", "nosuch"], ["search", "x", "--tag", "typo"], ["history", "B"]):
        assert kblam("kb", *command, "--kb", kb) == (0, "", "no triples match\n"), command
        assert kblam("kb", *command, "--kb", kb, "--json") == (0, "[]\n", "")
    assert kblam("kb", "stats", "--source", "typo", "--kb", kb)[2] == "no triples match\n"
    KnowledgeBase.open(kb.with_name("empty"), encoder="hashing").close()
    assert kblam("kb", "log", "--kb", kb.with_name("empty")) == (0, "", "no revisions yet\n")


def test_a_document_and_where_it_lies_are_one_source(kb, kblam):
    page = Provenance("sha256:5841", "orca.md")
    fill(kb, [Triple("Orca", "speed", "2", provenance=page), Triple("Orca", "payload", "80", provenance=page)])
    fill(kb, [Triple("Orca", "price", "9", provenance=Provenance("list"))])
    found = json.loads(kblam("kb", "stats", "--kb", kb, "--json")[1])
    assert found["sources"] == {"orca.md": 2, "list": 1} and found["n_sources"] == 2
    assert json.loads(kblam("kb", "info", "--kb", kb, "--json")[1])["n_sources"] == 2
    of_page = json.loads(kblam("kb", "stats", "--kb", kb, "--json", "--source", "sha256:5841")[1])
    assert of_page["sources"] == {"orca.md": 2}, "the document is still found by its id"


def test_growth_is_that_of_what_is_shown(kb, kblam):
    fill(kb, *([Triple(f"N{i}", "p", "v", tags=("t",))] for i in range(60)))

    def counted(*options):
        found = json.loads(kblam("kb", "stats", "--kb", kb, "--json", *options)[1])
        return [step["number"] for step in found["growth"]], found["n_revisions"]

    growth, n_revisions = counted()
    assert n_revisions == 60 and growth[-1] == 60 and len(growth) < 60
    _, out, err = kblam("kb", "stats", "--kb", kb)
    assert f"{len(growth)} of 60 revisions; " in err and "whole" not in out
    assert counted("--revision", 3) == ([1, 2, 3], 3) and counted("--revision", 0) == ([], 0)
    _, out, err = kblam("kb", "stats", "--kb", kb, "--revision", 3)
    assert err == "" and re.search(r"3 triples, .* MB for the whole knowledge base\n$", out)
    for part in (["--tag", "t"], ["--source", "x"], ["--namespace", ""], ["--at", "2020"], ["--tag", "t", "--revision", 3]):
        assert counted(*part) == ([], 0), part
        _, out, _ = kblam("kb", "stats", "--kb", kb, *part)
        assert "revision" not in out and "MB for the whole knowledge base" in out


def test_a_plot_tells_once_of_letters_it_has_no_font_for(kb, kblam, monkeypatch, tmp_path):
    picture = tmp_path / "kb.png"
    fill(kb, [Triple("値段は九万円ですか", "説明", "v"), Triple("Ⓐ", "p", "v", tags=("t",))])
    monkeypatch.setattr("kblam_engine.cli.kb_plot._FONTS", ("No Such Font", "STIXGeneral"))
    _, _, err = kblam("kb", "stats", "--kb", kb, "--plot", picture)
    assert err.count("\n") == 1 and "no font here has: 値 段" in err and err.endswith(" …\n") and "Ⓐ" not in err
    monkeypatch.setattr("kblam_engine.cli.kb_plot._FONTS", ())
    assert "Ⓐ" in kblam("kb", "stats", "--kb", kb, "--plot", picture, "--tag", "t")[2]
    assert kblam("kb", "stats", "--kb", kb, "--plot", picture, "--tag", "t", "--top", 1)[0] == 0
    assert "or a part, with triples in it" in kblam("kb", "stats", "--kb", kb, "--plot", picture, "--tag", "typo")[2]


def test_a_knowledge_base_is_no_source(kb, kblam, tmp_path):
    """Neither its folder, nor its database, nor an archive of it: their tables would come in as triples."""
    fill(kb, [Triple("A", "p", "v")])
    shutil.make_archive(str(tmp_path / "packed"), "zip", kb)
    new = tmp_path / "new.kb"
    for source in (f"{kb}/", kb / "kb.sqlite", f"sqlite:///{kb}/kb.sqlite?table=names", tmp_path / "packed.zip"):
        code, out, err = kblam("kb", "import", source, "--kb", new, "--encoder", "hashing")
        assert (code, out) == (1, "") and "expected a source of triples, got a knowledge base; kblam kb export" in err, source
        assert not new.exists()
    query = "query=SELECT n.text AS name, 'is' AS property, value FROM triples t JOIN names n ON n.id = name_id"
    assert kblam("kb", "import", kb / "kb.sqlite", "--option", query, "--kb", new, "--encoder", "hashing")[0] == 0
    with KnowledgeBase.open(new) as base:
        assert [(t.name, t.property, t.value) for t in base] == [("A", "is", "v")], "asked for, it is read"
