"""From a PDF of twenty pages over a review to answers that say page and characters: the commands of docs/sources.md."""

import csv
import json

from sources_parts import make_pdf

from kblam_engine import KnowledgeBase
from kblam_engine.sources import open_source

NAMES = (
    "Orca Narwhal Beluga Dolphin Manatee Walrus Osprey Heron Falcon Puffin "
    "Lynx Badger Otter Marten Ibex Bison Gecko Iguana Tapir Kestrel"
).split()
PAGES = [
    ["Robot handbook", "", f"{name} {i}", "", f"The {name} {i} was designed by Lab {i} in Berlin.", "",
     f"Payload: {40 + 7 * i} kg", f"Battery life: {6 + i} hours", "", f"Page {i} of 20"]
    for i, name in enumerate(NAMES, start=1)
]  # fmt: skip


def test_twenty_pages_become_answers_with_sources(tmp_path, kblam, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handbook.pdf").write_bytes(make_pdf(PAGES, title="Robot handbook"))
    code, out, _ = kblam("kb", "import", "handbook.pdf", "--review", "--kb", "robots.kb")
    assert code == 0 and "candidates in handbook.review.csv; edit it" in out

    with open("handbook.review.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["page"] for row in rows} == {str(page) for page in range(1, 21)}
    (wrong,) = [row for row in rows if (row["name"], row["property"]) == ("Falcon 9", "payload")]
    wrong["value"] = "104 kg"  # a person knows better
    for row in rows:
        row["keep"] = "no" if row["property"] == "description" else "yes"
    with open("handbook.review.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)

    assert kblam("kb", "import", "handbook.review.csv", "--kb", "robots.kb")[0] == 0
    text = open_source("handbook.pdf").read().text
    with KnowledgeBase.open("robots.kb") as kb:
        assert kb.get("Falcon 9", "payload").metadata["reviewed"] == "corrected"
        assert kb.verify() == [] and len(kb.view(source="handbook.pdf")) == len(kb) >= 58
        for triple in kb:
            start, end = triple.provenance.span
            page = triple.metadata["page"]
            assert NAMES[page - 1] in triple.name and triple.provenance.uri == "handbook.pdf"
            assert triple.value in text[start:end] or triple.metadata.get("reviewed") == "corrected"

    code, out, _ = kblam("ask", "--kb", "robots.kb", "--json", "How long does the battery of the Otter 13 last?")
    answer = json.loads(out)
    assert code == 0 and "19 hours" in answer["text"] and not answer["refused"]
    found = answer["attended"][0]
    assert found["metadata"]["page"] == 13 and found["provenance"]["uri"] == "handbook.pdf"
    start, end = found["provenance"]["span"]
    assert text[start:end] == "Battery life: 19 hours"
    code, out, _ = kblam("ask", "--kb", "robots.kb", "--explain", "What is the payload of the Falcon 9?")
    assert code == 0 and "104 kg" in out and "page" in out and "handbook.pdf" in out
