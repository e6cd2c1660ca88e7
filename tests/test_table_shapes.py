"""What a table in a document means: things in rows or in columns, keys and values, figures by year; and cells that span others."""

import docx
import pytest
from sources_parts import parts, written

from kblam_engine.sources import open_source


def table(*rows, below="# Acme\n\n"):
    """Return a Markdown table below a heading; the first row is its header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return below + "\n".join([lines[0], "|" + "--|" * len(rows[0]), *lines[1:]]) + "\n"


def html(*rows, below="<h1>Acme</h1>"):
    return f"{below}<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def td(*cells):
    return "".join(f"<td>{cell}</td>" for cell in cells)


def read(tmp_path, name, text):
    return open_source(written(tmp_path, name, text), extractors="structured")


MARKDOWN = {
    "things in rows": (
        table(("Item", "Price"), ("Chair", "20 €"), ("Table", "30 €")),
        [("Chair", "price", "20 €"), ("Table", "price", "30 €")],
    ),
    "the name stands behind an identifier": (
        table(("ID", "Name", "Age"), ("7", "Ada", "36"), ("8", "Bob", "40")),
        [("Ada", "ID", "7"), ("Ada", "age", "36"), ("Bob", "ID", "8"), ("Bob", "age", "40")],
    ),
    "the name stands behind a number": (
        table(("No.", "Robot", "Payload"), ("1", "Orca", "80 kg"), ("2", "Kite", "3 kg")),
        [("Orca", "payload", "80 kg"), ("Kite", "payload", "3 kg")],
    ),
    "names that come again name nothing": (
        table(("Country", "City", "People"), ("Italy", "Rome", "3 M"), ("Italy", "Milan", "1 M")),
        [("Rome", "country", "Italy"), ("Rome", "people", "3 M"), ("Milan", "country", "Italy"), ("Milan", "people", "1 M")],
    ),
    "things in columns": (
        table(("", "Kestrel 4", "Kestrel 5"), ("Payload", "80 kg", "60 kg"), ("Speed", "2 m/s", "3 m/s")),
        [("Kestrel 4", "payload", "80 kg"), ("Kestrel 5", "payload", "60 kg"),
         ("Kestrel 4", "speed", "2 m/s"), ("Kestrel 5", "speed", "3 m/s")],
    ),
    "things in columns, without numbers in their names": (
        table(("", "Orca", "Kite"), ("Payload", "80 kg", "60 kg"), ("Speed", "2 m/s", "3 m/s")),
        [("Orca", "payload", "80 kg"), ("Kite", "payload", "60 kg"), ("Orca", "speed", "2 m/s"), ("Kite", "speed", "3 m/s")],
    ),
    "things in rows below an empty corner": (
        table(("", "Payload", "Speed"), ("Orca", "80 kg", "2 m/s"), ("Kite", "60 kg", "3 m/s")),
        [("Orca", "payload", "80 kg"), ("Orca", "speed", "2 m/s"), ("Kite", "payload", "60 kg"), ("Kite", "speed", "3 m/s")],
    ),
    "one thing in a column": (
        table(("Feature", "Orca 2"), ("Payload", "80 kg"), ("Colour", "red")),
        [("Orca 2", "payload", "80 kg"), ("Orca 2", "colour", "red")],
    ),
    "the section's own thing in a column": (
        table(("Feature", "Acme"), ("Seat", "Oslo"), ("Staff", "240")),
        [("Acme", "seat", "Oslo"), ("Acme", "staff", "240")],
    ),
    "parameters are things as well": (
        table(("Parameter", "Default"), ("timeout", "30 s"), ("retries", "5"), ("path", "/tmp")),
        [("timeout", "default", "30 s"), ("retries", "default", "5"), ("path", "default", "/tmp")],
    ),
    "keys and values": (
        table(("Property", "Value"), ("Seat", "Oslo"), ("Staff", "240")),
        [("Acme", "seat", "Oslo"), ("Acme", "staff", "240")],
    ),
    "keys and values whose first pair is the header, as Markdown wants one": (
        table(("Payload", "80 kg"), ("Speed", "2 m/s")),
        [("Acme", "payload", "80 kg"), ("Acme", "speed", "2 m/s")],
    ),
    "keys and values that say what they are about": (
        table(("", ""), ("Name", "Orca 2"), ("Payload", "80 kg")),
        [("Orca 2", "payload", "80 kg")],
    ),
    "a record of the section": (
        table(("Payload", "Speed"), ("80 kg", "2 m/s")),
        [("Acme", "payload", "80 kg"), ("Acme", "speed", "2 m/s")],
    ),
    "figures by year, in rows": (
        table(("Year", "Revenue"), ("2020", "5 M"), ("2021", "6 M")),
        [("Acme", "revenue 2020", "5 M"), ("Acme", "revenue 2021", "6 M")],
    ),
    "figures by year, in columns": (
        table(("Metric", "2020", "2021"), ("Revenue", "5 M", "6 M"), ("Staff", "20", "30")),
        [("Acme", "revenue 2020", "5 M"), ("Acme", "revenue 2021", "6 M"), ("Acme", "staff 2020", "20"), ("Acme", "staff 2021", "30")],
    ),
    "prices by size": (
        table(("Size", "Price"), ("40", "9 €"), ("41", "10 €")),
        [("Acme", "price size 40", "9 €"), ("Acme", "price size 41", "10 €")],
    ),
    "triples": (
        table(("Subject", "Predicate", "Object"), ("Orca 2", "maker", "Acme")),
        [("Orca 2", "maker", "Acme")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MARKDOWN)
def test_with_a_header(tmp_path, what):
    text, wanted = MARKDOWN[what]
    source = read(tmp_path, "x.md", text)
    assert sorted(parts(source)) == sorted(wanted)
    assert not source.skipped


UNMARKED = {
    "keys and values": (
        html(td("Payload", "80 kg"), td("Speed", "2 m/s")),
        [("Acme", "payload", "80 kg"), ("Acme", "speed", "2 m/s")],
        0.95,
    ),
    "keys and values without numbers, by what the keys are called": (
        html(td("Motto", "Onwards"), td("Address", "Main St"), td("Chief", "Lena")),
        [("Acme", "motto", "Onwards"), ("Acme", "address", "Main St"), ("Acme", "chief", "Lena")],
        0.95,
    ),
    "nothing to tell by": (
        html(td("France", "Paris"), td("Italy", "Rome"), below="<h1>Countries</h1>"),
        [("Countries", "france", "Paris"), ("Countries", "italy", "Rome")],
        0.6,
    ),
    "a header that numbers stand below": (
        html(td("Colour", "Code", "Price"), td("red", "7", "9 €"), td("blue", "8", "10 €")),
        [("red", "code", "7"), ("red", "price", "9 €"), ("blue", "code", "8"), ("blue", "price", "10 €")],
        0.95,
    ),
    "two keys and values in a row": (
        html(td("Payload", "80 kg", "Speed", "2 m/s"), td("Weight", "8 kg", "Range", "2 km")),
        [("Acme", "payload", "80 kg"), ("Acme", "speed", "2 m/s"), ("Acme", "weight", "8 kg"), ("Acme", "range", "2 km")],
        0.95,
    ),
}


@pytest.mark.parametrize("what", UNMARKED)
def test_without_a_marked_header(tmp_path, what):
    text, wanted, confidence = UNMARKED[what]
    triples = list(read(tmp_path, "x.html", text))
    assert sorted(parts(triples)) == sorted(wanted)
    assert {triple.provenance.confidence for triple in triples} == {confidence}


def test_one_row_is_a_guess(tmp_path):
    (lone,) = read(tmp_path, "x.md", table(("Founder", "Founded"), ("Lena", "2014")))
    assert lone.provenance.confidence == 0.65
    (named,) = read(tmp_path, "y.md", table(("Person", "Born"), ("Lena", "1980")))
    assert named.provenance.confidence == 0.95


def test_rows_without_a_header_are_counted(tmp_path):
    source = read(tmp_path, "x.html", html(td("Orca", "80", "2"), td("Kite", "3", "12")))
    assert not list(source) and source.skipped == {"structured: row of a table without a header": 2}


def test_rows_of_another_width_are_counted(tmp_path):
    source = read(tmp_path, "x.html", html(td("Robot", "Payload"), td("Orca", "80 kg"), td("Kite", "3 kg"), td("a", "b", "c")))
    assert len(list(source)) == 2 and source.skipped == {"structured: table row of another width": 1}


def test_cells_that_span_columns_and_rows(tmp_path):
    header = "<th rowspan=2>Part</th><th colspan=2>Size</th>", "<th>w</th><th>h</th>"
    found = parts(read(tmp_path, "x.html", html(*header, td("Box", "1", "2"), td("Bag", "3", "4"))))
    assert found == [("Box", "size w", "1"), ("Box", "size h", "2"), ("Bag", "size w", "3"), ("Bag", "size h", "4")]
    rows = "<th>City</th><th>Country</th>", "<td>Rome</td><td rowspan=2>Italy</td>", "<td>Milan</td>", td("Oslo", "Norway")
    found = parts(read(tmp_path, "y.html", html(*rows)))
    assert found == [("Rome", "country", "Italy"), ("Milan", "country", "Italy"), ("Oslo", "country", "Norway")]


def test_cells_cannot_ask_for_millions_of_copies(tmp_path):
    cells = "<td colspan=99999 rowspan=99999>x</td>" * 200
    page = "<h1>A</h1>" + "".join(f"<table><tr>{cells}</tr>{'<tr><td>y</td></tr>' * 900}</table>" for _ in range(20))
    assert len(read(tmp_path, "x.html", page).read().text) < 40 * len(page)


@pytest.mark.parametrize("span", ["", "x", "-3", "0", "²", "1e9"])
def test_what_is_no_number_of_columns(tmp_path, span):
    page = html(f'<td colspan="{span}">Payload</td><td>80 kg</td>', td("Speed", "2 m/s"))
    assert parts(read(tmp_path, "x.html", page)) == [("Acme", "payload", "80 kg"), ("Acme", "speed", "2 m/s")]


def test_word_tables_have_no_header_by_themselves(tmp_path):
    document = docx.Document()
    document.add_heading("Orca 2", 1)
    for rows in ([("Payload", "80 kg"), ("Speed", "2 m/s")], [("Robot", "Pilot", "Base"), ("Kite", "Ada", "Oslo"), ("Pike", "Bob", "Ulm")]):
        made = document.add_table(rows=0, cols=len(rows[0]))
        for row in rows:
            for cell, text in zip(made.add_row().cells, row, strict=True):
                cell.text = text
        document.add_paragraph()
    document.save(tmp_path / "orca.docx")
    assert set(parts(open_source(tmp_path / "orca.docx", extractors="structured"))) == {
        ("Orca 2", "payload", "80 kg"), ("Orca 2", "speed", "2 m/s"),
        ("Kite", "pilot", "Ada"), ("Kite", "base", "Oslo"), ("Pike", "pilot", "Bob"), ("Pike", "base", "Ulm"),
    }  # fmt: skip


def test_one_name_in_the_tables_of_several_things(tmp_path):
    parts_of = table(("Part", "Price", "Maker"), ("Battery", "{}", "Voltara"), ("Cable", "5 €", "Voltara"), below="")
    text = f"# Orca 2\n\n{parts_of.format('300 €')}\n# Narwhal\n\n{parts_of.format('200 €')}"
    assert sorted(parts(read(tmp_path, "x.md", text))) == [
        ("Battery (Narwhal)", "maker", "Voltara"),
        ("Battery (Narwhal)", "price", "200 €"),
        ("Battery (Orca 2)", "maker", "Voltara"),
        ("Battery (Orca 2)", "price", "300 €"),
        ("Cable", "maker", "Voltara"),
        ("Cable", "price", "5 €"),
    ]
