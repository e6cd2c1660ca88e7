"""Headings below a thing: parts of what is said of it ("Charging") and other things; and titles that say what kind of document it is."""

import pytest
from sources_parts import make_pdf, parts, written

from kblam_engine.sources import open_source
from kblam_engine.sources.documents.headings import is_general, is_topic, is_verbal
from kblam_engine.sources.documents.titles import read_title
from kblam_engine.sources.extractors.sections import part_as_property, property_in


def found(tmp_path, text, name="x.md"):
    return set(parts(open_source(written(tmp_path, name, text), extractors="structured")))


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Orca 2 User Guide", "Orca 2"), ("The Orca 2 Manual", "Orca 2"), ("TX-9 Datasheet", "TX-9"), ("Heron Specifications", "Heron"),
        ("Heron Product Sheet", "Heron"), ("About Tern Labs", "Tern Labs"), ("Overview of the Zephyr 400", "Zephyr 400"),
        ("User guide: Orca 2 (2024)", "Orca 2"), ("Orca 2 – Technical Data, v1.2", "Orca 2"), ("Borealis Staff Handbook", "Borealis"),
        ("Kettle K3: Installation and Maintenance Manual", "Kettle K3"), ("Lisbon City Guide", "Lisbon"), ("fastcsv README", "fastcsv"),
    ],
)  # fmt: skip
def test_titles_of_papers(title, name):
    assert read_title(title) == (name, True)


@pytest.mark.parametrize(
    "title",
    ["Michelin Guide", "Acme Product Catalogue", "The Hitchhiker's Guide to the Galaxy", "About a Boy", "Chicago Manual of Style",
     "Introduction to Algorithms", "About this manual", "Orca 2", "OpenAPI Specification"],
)  # fmt: skip
def test_titles_that_are_names(title):
    assert read_title(title) == (title, False)


@pytest.mark.parametrize("title", ["Staff Handbook", "Technical Specifications", "Owner's Manual", "User Guide", "Safety Data Sheet"])
def test_titles_that_say_the_kind_alone(title):
    assert read_title(title) == (title, True)


def test_a_guide_is_about_what_the_document_says_without_it():
    assert read_title("Porto Guide", is_said=lambda name: name == "Porto").name == "Porto"
    assert read_title("Porto Guide", is_said=lambda name: False).name == "Porto Guide"
    assert read_title("EU Specifications", above="Orca 2").name == "EU Specifications"
    assert read_title("Orca 2 Pro Specifications", above="Orca family").name == "Orca 2 Pro"


@pytest.mark.parametrize("heading", ["Charging", "Sick Leave", "Parental leave", "Water resistance", "Food & drink", "Working hours", "Wireless Charging"])
def test_words_of_parts(heading):
    assert is_topic(heading) and not is_general(heading)


@pytest.mark.parametrize("heading", ["Descaling", "Getting started", "Getting Started", "Eating out", "How to charge the robot"])
def test_what_is_done(heading):
    assert is_verbal(heading)


@pytest.mark.parametrize(
    "heading",
    ["Boeing", "Beijing", "King", "Spring", "Redwing", "Starling", "Fleming", "Washing machine", "Flying Tigers", "Acme Insurance", "Orca 2", ""],
)
def test_what_neither_is_a_part_nor_is_done(heading):
    assert not is_topic(heading) and not is_verbal(heading)


@pytest.mark.parametrize(
    ("part", "prop", "together"),
    [
        ("Charging", "time", "charging time"), ("Charging", "charge current", "charge current"), ("Holidays", "days per year", "holiday days per year"),
        ("Working hours", "week", "working hours week"), ("Getting around", "day pass", "day pass (getting around)"), ("3. Sick Leave", "pay", "sick leave pay"),
        ("Food & drink", "dish", "dish (food and drink)"), ("CHARGING", "time", "charging time"), ("Climate", "January", "climate January"),
    ],
)  # fmt: skip
def test_a_property_of_a_part(part, prop, together):
    assert property_in(part, prop) == together
    assert part_as_property("GDP growth") == "GDP growth"


MANUAL = """# Orca 2 User Guide

The Orca 2 is a warehouse robot.

## Charging

- time: 2 hours

## Cleaning

- time: 10 minutes

## Technical data

Payload: 80 kg
Top speed: 2 m/s

## Getting started

Press the red button for three seconds.

## Dock

- height: 40 cm
- weight: 5 kg

## Orca 2 Pro

- payload: 95 kg
- price: 9,000 euros
"""
FOUND = {
    ("Orca 2", "description", "warehouse robot"), ("Orca 2", "charging time", "2 hours"), ("Orca 2", "cleaning time", "10 minutes"),
    ("Orca 2", "payload", "80 kg"), ("Orca 2", "top speed", "2 m/s"), ("Orca 2", "getting started", "Press the red button for three seconds."),
    ("Dock", "height", "40 cm"), ("Dock", "weight", "5 kg"), ("Orca 2 Pro", "payload", "95 kg"), ("Orca 2 Pro", "price", "9,000 euros"),
}  # fmt: skip


def test_a_manual(tmp_path):
    assert found(tmp_path, MANUAL) == FOUND
    assert ("Orca 2", "dock height", "40 cm") in found(tmp_path, MANUAL.replace("for three", "at the dock for three"))


def test_a_manual_as_text_and_as_a_page(tmp_path):
    text = "ORCA 2 USER MANUAL\n\nCHARGING\n\ntime: 2 hours\nplug: CCS\n\nSPECIFICATIONS\n\nPower: 500 W\nWeight: 80 kg\n"
    said = {("charging time", "2 hours"), ("charging plug", "CCS"), ("power", "500 W"), ("weight", "80 kg")}
    assert found(tmp_path, text, "x.txt") == {("ORCA 2", *pair) for pair in said}
    path = tmp_path / "x.pdf"
    path.write_bytes(make_pdf([text.splitlines()]))
    assert set(parts(open_source(path, extractors="structured"))) == {("ORCA 2", *pair) for pair in said}
    page = "<h1>TX-9 Datasheet</h1><h2>Mounting</h2><dl><dt>Thread<dd>M12<dt>Torque<dd>5 Nm</dl><h2>Calibration</h2><table><tr><th>Interval<td>1 year</table>"
    assert found(tmp_path, page, "x.html") == {
        ("TX-9", "mounting thread", "M12"), ("TX-9", "mounting torque", "5 Nm"), ("TX-9", "calibration interval", "1 year"),
    }  # fmt: skip


def document(title, sections):
    return f"# {title}\n\n" + "".join(f"## {heading}\n\n" + "".join(f"- {pair}\n" for pair in pairs) + "\n" for heading, pairs in sections.items())


@pytest.mark.parametrize(
    ("title", "sections", "names"),
    [
        ("Borealis Staff Handbook", {"Holidays": ["days: 28"], "Sick leave": ["certificate: day 3"], "Team Phoenix": ["lead: Aino"]}, {"Borealis", "Team Phoenix"}),
        ("Staff Handbook", {"Holidays": ["days: 28"], "Canteen": ["open: 11 to 14"]}, {"Staff Handbook", "Canteen"}),
        ("Oat pancakes", {"Ingredients": ["oats: 150 g"], "Frying": ["oil: 1 tbsp"], "Nutrition": ["energy: 230 kcal"]}, {"Oat pancakes"}),
        ("fastcsv", {"Installation": ["python: 3.10"], "Benchmarks": ["rows: 2 million"], "Testing": ["runner: pytest"]}, {"fastcsv"}),
        ("Lisbon City Guide", {"Getting around": ["day pass: 7 euros"], "Belém Tower": ["built: 1519"], "Alfama": ["tram: 28"]}, {"Lisbon", "Belém Tower", "Alfama"}),
        ("Tool Catalogue", {"Hammer": ["weight: 6 kg"], "Saw": ["weight: 4 kg"], "Returns": ["period: 30 days"]}, {"Tool Catalogue", "Hammer", "Saw"}),
        ("Heron Range", {"Heron S Specifications": ["weight: 1 kg"], "About Heron Aerospace": ["seat: Ghent"]}, {"Heron S", "Heron Aerospace"}),
    ],
)  # fmt: skip
def test_what_documents_are_about(tmp_path, title, sections, names):
    triples = found(tmp_path, document(title, sections))
    assert {name for name, _, _ in triples} == names
    assert len(triples) == sum(map(len, sections.values())), "nothing is lost"


@pytest.mark.parametrize(
    ("title", "sections"),
    [
        ("Sports at the club", {"Swimming": ["coach: Ann"], "Running": ["coach: Bo"], "Rowing": ["coach: Cy"]}),
        ("Departments of Acme", {"Payroll": ["head: Ann"], "Quality": ["head: Bo"], "Logistics": ["head: Cy"]}),
        ("Aircraft makers", {"Boeing": ["seat: Arlington"], "Airbus": ["seat: Leiden"]}),
        ("Birds", {"Redwing": ["length: 21 cm"], "Starling": ["song: long"], "Dunlin": ["nest: tundra"]}),
        ("Kitchen appliances", {"Washing machine": ["volume: 60 l"], "Oven": ["power: 3 kW"], "Cement": ["weight: 5 kg"], "Ring": ["price: 3 euros"]}),
        ("Towns in 2024", {"Reading": ["inhabitants: 174,000"], "Goring": ["inhabitants: 3,200"], "Whiting": ["river: none"]}),
        ("Acme User Guide", {"Orca": ["weight: 4 kg"], "Narwhal": ["weight: 5 kg"], "Kite": ["height: 2 m"]}),
    ],
)
def test_headings_that_are_things_stay_things(tmp_path, title, sections):
    assert {name for name, _, _ in found(tmp_path, document(title, sections))} == set(sections)


def test_words_that_the_text_writes_small_or_as_names(tmp_path):
    text = "# The coast\n\n## Wading\n\nThe wading birds feed at low tide.\n\n## Alfing\n\nYou come to Alfing by boat, and sleep there.\n"
    assert found(tmp_path, text) == {("The coast", "wading", "The wading birds feed at low tide."), ("Alfing", "description", "You come to Alfing by boat, and sleep there.")}


def test_how_sure_a_guess_is(tmp_path):
    path = written(tmp_path, "x.md", document("Pancakes", {"Ingredients": ["oats: 150 g"], "Frying": ["oil: 1 tbsp", "time: 3 min"], "Storage": ["fridge: 2 days"]}))
    sure = {t.property: t.provenance.confidence for t in open_source(path, extractors="structured", min_confidence=0)}
    assert sure == {"oats": 0.9, "frying oil": 0.65, "frying time": 0.65, "storage fridge": 0.9}


def test_what_stands_above_all_headings_is_of_the_document(tmp_path):
    text = "---\ntitle: Orca 2 User Guide\nauthor: Tom Vahl\n---\n\n## Charging\n\n- time: 2 hours\n"
    assert found(tmp_path, text) == {("Orca 2 User Guide", "author", "Tom Vahl"), ("Orca 2", "charging time", "2 hours")}


def test_parts_of_several_products_without_levels(tmp_path):
    text = "Product handbook\n\nOrca 2\n\nPayload: 80 kg\nSpeed: 2 m/s\n\nCharging\n\ntime: 2 hours\nplug: A\n\nKite 3\n\nPayload: 2 kg\nSpeed: 9 m/s\n"
    assert ("Orca 2", "charging time", "2 hours") in found(tmp_path, text, "x.txt")
    assert ("Kite 3", "speed", "9 m/s") in found(tmp_path, text, "x.txt")
