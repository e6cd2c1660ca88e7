"""PDF pages: headers and footers are no text, sentences go on over the end of a page."""

import pytest
from sources_parts import make_pdf, parts

from kblam_engine.sources import open_source
from kblam_engine.sources.documents.running_lines import without_running_lines

NAMES = ["Orca", "Kite", "Bolt", "Lynx", "Heron", "Ibex"]


def left(*pages):
    return without_running_lines(["\n".join(page) for page in pages]).texts


def test_first_and_last_lines_that_stand_on_most_pages_go():
    pages = [("Report", "", f"text {word}", "", str(number)) for number, word in enumerate("abcd", start=1)]
    assert left(*pages) == ["text a", "text b", "text c", "text d"]
    assert left(("One", "x"), ("Two", "y")) == ["One\nx", "Two\ny"]
    assert left(("Report", "x"), ("Report", "y")) == ["Report\nx", "Report\ny"], "two pages are no rule"


def test_headers_of_several_lines_and_numbers_that_count_with_the_pages():
    pages = [
        ("ACME ROBOTICS", "Handbook, edition 4", "Confidential", "", f"The {name} is a robot.", "", f"{n} / 6", "acme.example")
        for n, name in enumerate(NAMES, start=1)
    ]
    assert left(*pages) == [f"The {name} is a robot." for name in NAMES]
    shown = without_running_lines(["\n".join(page) for page in pages])
    assert shown.title == "ACME ROBOTICS"
    page_of = [(f"Page {n} of 6", "", f"{name} text") for n, name in enumerate(NAMES, start=1)]
    assert left(*page_of) == [f"{name} text" for name in NAMES]


def test_left_and_right_pages_differ():
    heads = ["Acme Robotics {}", "{} Handbook"]
    pages = [(heads[n % 2].format(n), "", f"{name} text") for n, name in enumerate(NAMES, start=1)]
    assert left(*pages) == [f"{name} text" for name in NAMES]


def test_a_chapters_title_stays_once():
    names = [*NAMES, "Gecko", "Otter", "Tapir", "Bison"]
    pages = [("Batteries" if n < 4 else f"{name} chapter", f"{name} text") for n, name in enumerate(names)]
    assert left(*pages)[:4] == ["Batteries\nOrca text", "Kite text", "Bolt text", "Lynx text"]
    twice = [("Batteries" if n < 2 else f"{name} chapter", f"{name} text") for n, name in enumerate(NAMES)]
    assert left(*twice)[1] == "Batteries\nKite text"


def test_what_looks_like_data_stays():
    # The same warranty on every page, and hours that happen to count with the pages.
    pages = [(f"{name} robot", "", f"Payload: {31 * n} kg", f"Life: {n + 6} hours", "Warranty: 2 years") for n, name in enumerate(NAMES)]
    assert left(*pages) == ["\n".join(page) for page in pages]
    versions = [(f"{name} robot", "", f"Payload: {31 * n} kg", "", "Version: 2.1", "Status: final") for n, name in enumerate(NAMES)]
    assert left(*versions) == ["\n".join(page[:3]) for page in versions]
    # What heads a table that goes on over pages.
    table = [("Part      Supplier", f"{name}      Voltara", "", str(n)) for n, name in enumerate(NAMES, start=1)]
    assert left(*table) == ["\n".join(page[:2]) for page in table]


@pytest.mark.parametrize(
    ("end", "begin", "whole"),
    [
        ("The Orca 2 was designed by", "Acme Robotics in Berlin.", "designed by\nAcme Robotics in Berlin."),
        ("The Orca 2 carries goods in", "large halls of Acme.", "goods in\nlarge halls"),
        ("The Orca 2 works in a ware-", "house of Acme.", "in a warehouse of"),
        ("The Orca 2 is a robot.", "it is red.", "robot.\n\nit is red"),
        ("Payload: 80 kg", "of metal and wood", "80 kg\n\nof metal"),
        ("The Orca 2 is a robot of Acme", "Parts of it are red.", "of Acme\n\nParts of"),
    ],
)
def test_a_sentence_goes_on_on_the_next_page(tmp_path, end, begin, whole):
    path = tmp_path / "a.pdf"
    frame = [("Handbook", "", *text, "", f"Page {n} of 3") for n, text in enumerate([[end], [begin], ["The end."]], start=1)]
    path.write_bytes(make_pdf([list(page) for page in frame]))
    document = open_source(path).read()
    assert whole in document.text and "Page" not in document.text and "Handbook" not in document.text
    for block in document.blocks:
        assert document.text_of(block).strip() == document.text_of(block) != ""


def test_triples_over_the_end_of_a_page_and_none_of_headers(tmp_path):
    path = tmp_path / "a.pdf"
    body = [
        ["Orca 2", "", "The Orca 2 was designed by"],
        ["Acme Robotics. It is made in Ulm.", "", "Payload: 80 kg", "Speed: 2 m/s"],
        ["Care", "", "The warranty of the Orca 2 is two years."],
    ]
    pages = [["Version: 2.1", "Owner: Tom Vahl", "", *lines, "", f"Acme Robotics - page {n}"] for n, lines in enumerate(body, start=1)]
    path.write_bytes(make_pdf(pages))
    source = open_source(path)
    found = {(t.name, t.property, t.value): t for t in source}
    designer = found["Orca 2", "designer", "Acme Robotics"]
    assert designer.metadata["page"] == 1 and designer.metadata["sentence"] == "The Orca 2 was designed by Acme Robotics."
    assert found["Orca 2", "payload", "80 kg"].metadata["page"] == 2
    assert not [p for p in parts(found.values()) if "Tom Vahl" in p or "2.1" in p or "page" in " ".join(p)]
    text = source.read().text
    for triple in found.values():
        start, end = triple.provenance.span
        assert " ".join(text[start:end].split()) == triple.metadata["sentence"]
