"""Documents: their text, spans that are exact, what their layout says; and files that are damaged."""

import zipfile

import docx
import pytest
from kb_parts import open_kb
from sources_parts import make_pdf, parts, written

from kblam_engine.errors import ConfigurationError, ImportFileError
from kblam_engine.sources import open_source
from kblam_engine.sources.documents import read_document, text_document
from kblam_engine.sources.extractors import StructuredExtractor

MARKDOWN = """\
---
title: Orca handbook
author: "Tom Vahl"
nested:
  key: value
---
# Orca 2

The Orca 2 is a **warehouse robot**. It weighs 31 kg.

Payload: 80 kg
Head office: [Berlin](http://example.org)

## Parts

| Part    | Supplier | Price |
|---------|----------|-------|
| Battery | Voltara  | 300 € |
| Lidar   | –        | 120 € |

## Key facts

| Property | Value |
|---|---|
| Warranty | 2 years |

- Colours:
  - red
  - blue
- Weight: 31 kg
- Note: this is said to a reader.

## Glossary

Pallet
: A flat structure that carries goods.

- **AGV** – automated guided vehicle on marked floors
- **SKU**: stock keeping unit, the smallest thing stored

```
Code: not read
```
"""
MARKDOWN_TRIPLES = {
    ("Orca handbook", "author", "Tom Vahl"),
    ("Orca 2", "description", "warehouse robot"),
    ("Orca 2", "payload", "80 kg"),
    ("Orca 2", "head office", "Berlin"),
    ("Battery", "supplier", "Voltara"),
    ("Battery", "price", "300 €"),
    ("Lidar", "price", "120 €"),
    ("Orca 2", "warranty", "2 years"),
    ("Orca 2", "colours", "red, blue"),
    ("Orca 2", "weight", "31 kg"),
    ("Pallet", "definition", "A flat structure that carries goods."),
    ("AGV", "definition", "automated guided vehicle on marked floors"),
    ("SKU", "definition", "stock keeping unit, the smallest thing stored"),
}
HTML = """\
<!doctype html><html><head><title>Oslo</title><script>"Founded: never"</script></head><body>
<nav><ul><li>Home: page</li></ul></nav>
<table class="infobox"><tr><th colspan=2>Oslo</th></tr><tr><th>Country</th><td>Norway</td></tr>
<tr><th>Population</th><td>717,710<sup class="reference">[1]</sup></td></tr></table>
<p>Oslo lies on the <b>Oslofjord</b>.<br>Its mayor is Anne.</p>
<dl><dt>Area</dt><dd>480 km²</dd></dl>
<h2>Districts</h2>
<table><thead><tr><th>District</th><th>Residents</th></tr></thead><tr><td>Alna</td><td>49,801</td></tr></table>
<div style="display:none">Hidden: yes</div><footer>Copyright: me</footer></body></html>
"""


def structured(path, **options):
    return open_source(path, extractors="structured", **options)


def assert_spans(source):
    """The sentence of every triple is the document's text at its span, and has the value in it."""
    document = source.read()
    triples = list(source)
    assert triples
    for triple in triples:
        start, end = triple.provenance.span
        said = " ".join(document.text[start:end].split())
        assert said == triple.metadata["sentence"] and triple.provenance.document == document.id
        assert triple.value in said or triple.value.replace(", ", " ") in said
    return triples


def test_markdown(tmp_path):
    source = structured(written(tmp_path, "orca.md", MARKDOWN))
    assert set(parts(assert_spans(source))) == MARKDOWN_TRIPLES
    by_value = {t.value: t for t in source}
    assert by_value["Voltara"].metadata["section"] == "Orca 2 > Parts"
    assert by_value["Voltara"].provenance.confidence > by_value["warehouse robot"].provenance.confidence
    text = source.read().text
    assert "**" not in text and "not read" not in text and "http" not in text


def test_html(tmp_path):
    source = structured(written(tmp_path, "oslo.html", HTML))
    assert set(parts(assert_spans(source))) == {
        ("Oslo", "country", "Norway"),
        ("Oslo", "population", "717,710"),
        ("Oslo", "area", "480 km²"),
        ("Alna", "residents", "49,801"),
    }
    text = source.read().text
    assert "Oslo lies on the Oslofjord.\nIts mayor is Anne." in text
    assert not any(word in text for word in ("never", "Home", "Hidden", "Copyright", "[1]"))


def test_html_in_latin_1_and_broken(tmp_path):
    path = tmp_path / "x.htm"
    path.write_bytes('<h1>Zürich<p>Fläche: 88 km²<table><tr><td>a</table><b>'.encode("latin-1"))
    assert parts(structured(path)) == [("Zürich", "fläche", "88 km²")]


@pytest.mark.parametrize("depth", [190, 390])
def test_html_of_many_levels(tmp_path, depth):
    page = "<h1>Oslo</h1>" + "<div>" * depth + "<p>Area: 454 km²</p>" + "</div>" * depth + "<p>Founded: 1048</p>"
    found = parts(structured(written(tmp_path, "deep.html", page)))
    assert found == [("Oslo", "area", "454 km²"), ("Oslo", "founded", "1048")]


def test_html_of_too_many_levels_is_refused(tmp_path):
    page = "<div>" * 1000 + "<p>Area: 454 km²</p>"
    with pytest.raises(ImportFileError, match="at most 400 deep"):
        structured(written(tmp_path, "deeper.html", page)).read()


def test_tables_in_cells_of_a_word_table(tmp_path):
    path = tmp_path / "orca.docx"
    document = docx.Document()
    document.add_heading("Orca 2", 0)
    layout = document.add_table(rows=2, cols=2)
    layout.cell(0, 0).text = "Payload: 80 kg"
    inner = layout.cell(0, 1).add_table(rows=2, cols=2)
    for row, texts in enumerate([["Part", "Supplier"], ["Battery", "Voltara"]]):
        for column, text in enumerate(texts):
            inner.cell(row, column).text = text
    layout.cell(1, 0).merge(layout.cell(1, 1)).text = "Speed: 2 m/s"
    document.save(path)
    found = parts(assert_spans(structured(path)))
    assert len(found) == 3
    assert set(found) == {("Orca 2", "payload", "80 kg"), ("Battery", "supplier", "Voltara"), ("Orca 2", "speed", "2 m/s")}


def test_word(tmp_path):
    path = tmp_path / "orca.docx"
    document = docx.Document()
    document.add_heading("Orca 2", 0)
    document.add_heading("Overview", 1)
    document.add_paragraph("Payload: 80 kg\nSpeed: 2 m/s")
    document.add_paragraph("Warranty: 2 years", style="List Bullet")
    table = document.add_table(rows=2, cols=3)
    for row, texts in enumerate([["Part", "Supplier", "Price"], ["Battery", "Voltara", "300 €"]]):
        for column, text in enumerate(texts):
            table.cell(row, column).text = text
    document.save(path)
    assert set(parts(assert_spans(structured(path)))) == {
        ("Orca 2", "payload", "80 kg"),
        ("Orca 2", "speed", "2 m/s"),
        ("Orca 2", "warranty", "2 years"),
        ("Battery", "supplier", "Voltara"),
        ("Battery", "price", "300 €"),
    }


PDF_PAGES = [
    ["Orca 2", "", "Overview", "", "The Orca 2 is a robot. The first was deliv-", "ered in 2016.", "", "Payload: 80 kg", "Speed: 2 m/s", "", "Handbook 1"],
    ["Parts", "", "Part\tSupplier\tPrice", "Battery\tVoltara\t300", "Lidar\tNorlund\t120", "", "Handbook 2"],
    ["Service", "", "The warranty is two years.", "", "Handbook 3"],
]  # fmt: skip


def test_pdf(tmp_path):
    path = tmp_path / "orca.pdf"
    path.write_bytes(make_pdf(PDF_PAGES, title="Orca"))
    source = structured(path)
    triples = assert_spans(source)
    assert {(*p, t.metadata["page"]) for p, t in zip(parts(triples), triples, strict=True)} >= {
        ("Orca 2", "payload", "80 kg", 1),
        ("Orca 2", "speed", "2 m/s", 1),
        ("Battery", "supplier", "Voltara", 2),
        ("Lidar", "price", "120", 2),
    }
    text = source.read().text
    assert "was delivered in 2016" in text and "Handbook" not in text


def test_plain_text_keeps_its_own_offsets(tmp_path):
    text = "Orca 2\n======\n\nPayload: 80 kg\nSpeed:  2 m/s\n\nPike\nPayload: 12 kg\nSpeed: 3 m/s\n\nPart      Price\nBattery   300\nLidar     120\n"
    source = structured(written(tmp_path, "orca.txt", text))
    triples = assert_spans(source)
    assert source.read().text == text
    assert set(parts(triples)) == {
        ("Orca 2", "payload", "80 kg"),
        ("Orca 2", "speed", "2 m/s"),
        ("Pike", "payload", "12 kg"),
        ("Pike", "speed", "3 m/s"),
        ("Battery", "price", "300"),
        ("Lidar", "price", "120"),
    }
    start, end = next(t.provenance.span for t in triples if t.value == "2 m/s")
    assert text[start:end] == "Speed:  2 m/s"


def test_windows_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffOrca\r\n\r\nPayload: 80 kg\r\nSpeed: 2 m/s\r\n".encode())
    assert read_document(path).text == "Orca\n\nPayload: 80 kg\nSpeed: 2 m/s\n"
    assert parts(structured(path)) == [("Orca", "payload", "80 kg"), ("Orca", "speed", "2 m/s")]


def test_the_name_of_the_file_is_the_last_resort(tmp_path):
    text = "Payload: 80 kg\nSpeed: 2 m/s\n"
    (first, _) = structured(written(tmp_path, "orca-two.txt", text))
    assert first.name == "orca two" and first.provenance.confidence == 0.72
    (first, _) = structured(written(tmp_path, "orca-two.txt", text), topic="Orca 2")
    assert first.name == "Orca 2" and first.provenance.confidence == 0.9


@pytest.mark.parametrize("text", ["Note: look here.", "See: the book", "At 10:30 it rang.", "http://x.org: y", "He said: this is a long sentence that goes on and on and ends here."])
def test_what_is_no_key_value_line(text):
    assert not list(StructuredExtractor(leads=False)(text_document(f"Topic\n=====\n\n{text}\n", "x.txt")))


def test_a_document_has_the_same_id_wherever_it_lies(tmp_path):
    one, two = written(tmp_path, "a.txt", "Some text.\n"), written(tmp_path, "b.txt", "Some text.\n")
    assert read_document(one).id == read_document(two).id == text_document("Some text.\n", "").id
    assert read_document(one, document_id="doc-7", uri="https://x.org/a").uri == "https://x.org/a"
    assert read_document(one, document_id="doc-7").id == "doc-7"


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"0" * 30_000_000)


DAMAGED = {
    "x.pdf": b"%PDF-1.4 nothing",
    "y.pdf": make_pdf([[""]]),
    "x.docx": b"PK\x03\x04 nothing",
    "x.html": b"",
    "x.txt": b"caf\xe9 is not UTF-8",
    "y.txt": b" \n\n ",
    "x.md": b"\xff",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_document_is_named_and_nothing_is_added(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    kb = open_kb(":memory:")
    with pytest.raises(ImportFileError) as caught:
        kb.add(structured(path))
    assert caught.value.path == str(path) and caught.value.reason and len(kb) == 0


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
def test_truncated_documents_do_not_get_through_as_something_else(tmp_path, cut):
    whole = make_pdf(PDF_PAGES)
    path = tmp_path / "x.pdf"
    path.write_bytes(whole[: int(len(whole) * cut)])
    try:
        text = read_document(path).text
    except ImportFileError as error:
        assert error.path == str(path)
    else:  # pypdf found its way without the table at the end
        assert "Orca 2" in text


def test_a_word_bomb_is_refused(tmp_path):
    bomb(tmp_path / "x.docx")
    with pytest.raises(ImportFileError, match="no bomb"):
        read_document(tmp_path / "x.docx")


def test_options(tmp_path):
    path = written(tmp_path, "x.txt", "Orca\n\nPayload: 80 kg\n")
    assert not list(structured(path, min_confidence=0.95))
    with pytest.raises(ConfigurationError, match=r"expected structured or rules, got 'llm'; pass LLMExtractor"):
        open_source(path, extractors=["llm"])
    with pytest.raises(ConfigurationError, match="min_confidence"):
        open_source(path, min_confidence=2)
    with pytest.raises(ImportFileError, match="expected at most"):
        read_document(path, max_mb=1e-6)
    with pytest.raises(ImportFileError, match="expected a document"):
        read_document(written(tmp_path, "x.xyz", "a"))
