"""What a part of a document is about: headings of things and of sections, names in the text itself; and on which page it stands."""

import pytest
from sources_parts import make_pdf, parts, written

from kblam_engine.sources import open_source
from kblam_engine.sources.documents.headings import is_general, kinds_of


def read(tmp_path, name, text):
    return open_source(written(tmp_path, name, text), extractors="structured")


@pytest.mark.parametrize(
    "heading",
    ["Overview", "Technical data", "Specifications (EU)", "Key specs", "Weight and dimensions", "Safety", "Parts", "See also",
     "Key figures 2024", "Contact us", "Weights & measurements", "DIMENSIONS"],
)  # fmt: skip
def test_headings_of_sections(heading):
    assert is_general(heading)


@pytest.mark.parametrize("heading", ["Orca 2", "Narwhal", "Acme Robotics", "The data bank", "Safety First Ltd", "2024", "", "And"])
def test_headings_of_things(heading):
    assert not is_general(heading)


def test_sections_of_several_things_are_known_by_standing_below_each():
    assert kinds_of(["Orca", "Gizmos", "Narwhal", "Overview", "Gizmos"]) == {"gizmos", "overview"}
    assert kinds_of(["Fleet", "Specs", "Narwhal", "Prices", "Narwhal"]) == {"specs", "prices"}, "a thing in two chapters is one"
    assert kinds_of([]) == frozenset()


def test_plain_headings_of_several_products(tmp_path):
    text = "".join(f"{name}\n\n{kind}\n\nPayload: {n} kg\nSpeed: {n} m/s\n\n" for n, name in enumerate(("Orca", "Narwhal", "Kite"), 1) for kind in ("Gizmos",))
    assert {(t.name, t.value) for t in read(tmp_path, "x.txt", text)} == {
        (name, f"{n} {unit}") for n, name in enumerate(("Orca", "Narwhal", "Kite"), 1) for unit in ("kg", "m/s")
    }


def test_a_short_heading_above_one_pair(tmp_path):
    text = "Orca 2\n\nDimensions\nHeight: 1.2 m\n\n2. Narwhal\nWeight: 3 kg\n\nDimensions\nHeight: 0.4 m\n"
    assert parts(read(tmp_path, "x.txt", text)) == [("Orca 2", "height", "1.2 m"), ("Narwhal", "weight", "3 kg"), ("Narwhal", "height", "0.4 m")]
    prose = "Orca 2\n\nWhat nobody had thought of at first\nwas this: the robot is too heavy.\n"
    assert [block.kind for block in read(tmp_path, "y.txt", prose).read().blocks] == ["heading", "paragraph"]


def test_numbered_headings_of_a_pdf_with_a_title(tmp_path):
    pages = [
        [f"{n}. {name}", "", f"The {name} is a robot of the warehouse.", "", "Contact", "", f"Service: {n}", f"Warranty: {n} years"]
        for n, name in enumerate(("Orca", "Narwhal", "Kite"), 1)
    ]
    path = tmp_path / "hand.pdf"
    path.write_bytes(make_pdf(pages, title="Product handbook"))
    source = open_source(path, extractors="structured")
    assert source.read().title == "Product handbook"
    warranties = {t.name: (t.value, t.metadata["page"]) for t in source if t.property == "warranty"}
    assert warranties == {"Orca": ("1 years", 1), "Narwhal": ("2 years", 2), "Kite": ("3 years", 3)}


@pytest.mark.parametrize("title", ["untitled", "Microsoft Word - x", "hand.docx", ""])
def test_titles_that_programs_make_up_are_none(tmp_path, title):
    path = tmp_path / "hand.pdf"
    path.write_bytes(make_pdf([["Orca", "", "Payload: 80 kg", "Speed: 2 m/s"]], title=title))
    assert open_source(path).read().title == "Orca"


def test_a_subheading_that_may_be_a_part_is_less_sure(tmp_path):
    text = "# Acme\n\n## Narwhal\n\nPayload: 3 kg\nSpeed: 1 m/s\n\n## {}\n\n{}: 4 kg\nReach: 3 m\n"
    alone = {t.name: t.provenance.confidence for t in read(tmp_path, "x.md", text.format("Kite", "Weight"))}
    assert alone == {"Narwhal": 0.65, "Kite": 0.65}
    alike = {t.name: t.provenance.confidence for t in read(tmp_path, "y.md", text.format("Kite", "Payload"))}
    assert alike == {"Narwhal": 0.9, "Kite": 0.9}, "of what is said alike, each is a thing"
    named = {t.name: t.provenance.confidence for t in read(tmp_path, "z.md", text.format("Kite 2", "Weight"))}
    assert named["Kite 2"] == 0.9


def test_a_block_that_says_its_name(tmp_path):
    text = "# Fleet\n\nName: Orca 2\nPayload: 80 kg\n\nProduct: Kite\nPayload: 3 kg\n"
    assert parts(read(tmp_path, "x.md", text)) == [("Orca 2", "payload", "80 kg"), ("Kite", "payload", "3 kg")]
    assert parts(read(tmp_path, "y.md", "# Fleet\n\nName: Orca 2\n")) == [("Fleet", "name", "Orca 2")]


@pytest.mark.parametrize("other", ["see also the manual", "Speed:2 m/s", "More at https://x.y"])
def test_a_line_that_is_no_pair_does_not_hide_the_others(tmp_path, other):
    source = read(tmp_path, "x.md", f"# Orca\n\nPayload: 80 kg\n{other}\nRange: 12 km\n")
    found = set(parts(source))
    tight = {("Orca", "speed", "2 m/s")} if other.startswith("Speed") else set()
    assert found == {("Orca", "payload", "80 kg"), ("Orca", "range", "12 km")} | tight
    assert source.skipped == ({} if tight else {"structured: line among keys and values that is neither": 1})


def test_the_line_above_pairs_is_a_name_only_if_it_reads_like_one(tmp_path):
    for line, name in (("Kite 2", "Kite 2"), ("More at https://x.y", "Orca"), ("Technical data", "Orca"), ("we say:", "Orca")):
        assert {t.name for t in read(tmp_path, "x.md", f"# Orca\n\n{line}\nRange: 12 km\nWeight: 3 kg\n")} == {name}


def test_definitions_of_short_terms(tmp_path):
    page = "<h1>Acme</h1><h2>Glossary</h2><dl><dt>SKU<dt>Item<dd>thing stored</dl>"
    assert parts(read(tmp_path, "x.html", page)) == [("SKU", "definition", "thing stored"), ("Item", "definition", "thing stored")]
    page = "<h1>Acme</h1><dl><dt>API<dd>application programming interface<dt>WHO<dd>world health organization</dl>"
    assert {t.property for t in read(tmp_path, "y.html", page)} == {"definition"}
    assert parts(read(tmp_path, "z.md", "# Fruits\n\nApple\n: A fruit\n\nPea\n: A legume\n")) == [
        ("Apple", "definition", "A fruit"), ("Pea", "definition", "A legume"),
    ]  # fmt: skip
    page = "<h1>Acme</h1><dl><dt>Founders<dd>Lena<dd>Tomas<dt>Seat<dd>Oslo</dl>"
    assert parts(read(tmp_path, "w.html", page)) == [("Acme", "founders", "Lena; Tomas"), ("Acme", "seat", "Oslo")]


def test_a_table_set_with_blank_lines_is_one(tmp_path):
    text = "Orca 2\n======\n\nPayload      80 kg\n\nTop speed    2 m/s\n\nRange        9 km\n\nA sentence stands here and says nothing.\n"
    assert parts(read(tmp_path, "x.txt", text)) == [("Orca 2", "payload", "80 kg"), ("Orca 2", "top speed", "2 m/s"), ("Orca 2", "range", "9 km")]


def test_a_table_and_a_list_without_a_blank_line_between(tmp_path):
    text = "Orca 2\n======\n\nPayload      80 kg\nTop speed    2 m/s\n\x7f Colour: red\n\x7f Weight: 3 kg\n"
    assert set(parts(read(tmp_path, "x.txt", text))) == {
        ("Orca 2", "payload", "80 kg"), ("Orca 2", "top speed", "2 m/s"), ("Orca 2", "colour", "red"), ("Orca 2", "weight", "3 kg"),
    }  # fmt: skip


def test_sentences_with_wide_gaps_are_no_table(tmp_path):
    text = "Orca 2\n======\n\nThe robot drives.  It carries goods and more\nof what it is given.  Then it stops at the door\nand waits.\n"
    assert [block.kind for block in read(tmp_path, "x.txt", text).read().blocks] == ["heading", "paragraph"]


def test_a_sentence_is_on_its_own_page_though_its_paragraph_began_before(tmp_path):
    first = "The Kite 4 is a robot made by Acme Robotics and it was shipped to customers in the whole of"
    path = tmp_path / "kite.pdf"
    path.write_bytes(make_pdf([[first], ["Europe in 2014. It weighs 3.50 kg."]]))
    document = open_source(path).read()
    assert [block.page for block in document.blocks] == [1]
    assert document.page_at(document.text.index("The Kite")) == 1
    assert document.page_at(document.text.index("Europe")) == document.page_at(len(document.text)) == 2
    assert read(tmp_path, "x.txt", "No pages.\n").read().page_at(3) is None
