"""The LLM extractor: what a chat model says is checked against the text, and counted where it is thrown away."""

import json

import pytest
from sources_parts import parts, written

from kblam_engine.errors import ConfigurationError
from kblam_engine.sources import open_source
from kblam_engine.sources.documents import text_document
from kblam_engine.sources.extractors import LLMExtractor
from kblam_engine.sources.extractors.base import sentences
from kblam_engine.sources.extractors.llm import chunks, read_reply

TEXT = """\
Acme Robotics
=============

Acme Robotics was founded in 2014 by “Lena” Hoffmann. It makes robots.

The seat is in Berlin. The company has 240
employees.
"""


class Scripted:
    """Replies in turn, the last reply again and again."""

    def __init__(self, *replies):
        self.replies, self.asked = list(replies), []

    def __call__(self, messages):
        self.asked.append(messages)
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def reply(*triples):
    return json.dumps({"triples": [dict(zip(("name", "property", "value"), t, strict=True)) for t in triples]})


def test_what_is_in_the_text_is_kept_with_its_sentence():
    chat = Scripted(
        reply(
            ("Acme Robotics", "founder", 'acme robotics was founded in 2014 by "lena" hoffmann'),
            ("Acme Robotics", "founder", '"Lena" Hoffmann'),
            ("acme robotics", "Founder", "“lena” hoffmann"),
            ("Acme Robotics", "employees", 240),
            ("Acme Robotics", "employees", "240 employees"),
            ("Acme Robotics", "employees", "24"),
            ("Acme", "ceo", "Tomás Rivera"),
            ("Borealis", "seat", "Berlin"),
            ("Berlin", "is", "Berlin"),
            ("Acme Robotics", "x", True),
        )
    )
    document = text_document(TEXT, "acme.txt")
    extractor = LLMExtractor(chat)
    triples = list(extractor(document))
    assert parts(triples[1:]) == [
        ("Acme Robotics", "founder", "“Lena” Hoffmann"),
        ("Acme Robotics", "employees", "240"),
        ("Acme Robotics", "employees", "240 employees"),
    ]
    assert extractor.rejected == {
        "said twice": 1,
        "value not in the text": 2,
        "name not in the text": 1,
        "value that is the name": 1,
        "no triple": 1,
    }
    founder, employees = triples[1], triples[2]
    assert document.text[slice(*founder.provenance.span)] == founder.metadata["sentence"]
    assert founder.metadata["sentence"] == "Acme Robotics was founded in 2014 by “Lena” Hoffmann."
    assert employees.metadata["sentence"] == "The company has 240 employees."
    assert founder.provenance.confidence > employees.provenance.confidence
    assert (founder.provenance.extractor, founder.provenance.document) == ("llm", document.id)


@pytest.mark.parametrize(
    "text",
    [
        '{"triples": [{"name": "a"}]}',
        'Here:\n```json\n[{"name": "a"}]\n```\nDone [1].',
        '<think>{"triples": [{"name": "b"}]}</think>{"triples": [{"name": "a"}]}',
        '{"name": "a"}\n{"name":',
        'A {word} and [1] then {"triples": [{"name": "a"}]}',
    ],
)
def test_replies_of_every_manner(text):
    assert read_reply(text) == [{"name": "a"}]


@pytest.mark.parametrize("text", ["", "no", "[1, 2]", '{"a": 1}', "<think>never ends", "[" * 5000])
def test_replies_that_cannot_be_read(text):
    assert read_reply(text) is None


def test_a_reply_that_cannot_be_read_is_asked_for_again_and_then_counted():
    chat = Scripted("I would rather not.", reply(("Acme Robotics", "seat", "Berlin")))
    extractor = LLMExtractor(chat)
    assert len(list(extractor(text_document(TEXT, "")))) == 1 and not extractor.rejected
    assert [m["role"] for m in chat.asked[1][-3:]] == ["user", "assistant", "user"]
    extractor = LLMExtractor(Scripted("", "No."), tries=2)
    assert not list(extractor(text_document(TEXT, "")))
    assert extractor.rejected == {"reply that could not be read": 1}


def test_an_endless_reply_is_cut():
    extractor = LLMExtractor(Scripted(reply(*[("Acme Robotics", f"p{n}", "Berlin") for n in range(250)])))
    assert len(list(extractor(text_document(TEXT, "")))) == 200
    assert extractor.rejected == {"triple beyond the first 200 of a reply": 50}


def test_what_the_model_raises_reaches_the_caller():
    def broken(messages):
        raise TimeoutError("slow")

    with pytest.raises(TimeoutError):
        list(LLMExtractor(broken)(text_document(TEXT, "")))


def test_chunks_are_whole_sentences_of_one_section():
    text = "One\n===\n\n" + "Word word word. " * 40 + "\n\nShort.\n\nTwo\n===\n\nOther. " + "x" * 700 + "\n"
    document = text_document(text, "")
    found = list(chunks(document, 300))
    covered = "".join(document.text[c.start : c.end] for c in found)
    bodies = "".join(document.text_of(b) for b in document.blocks if b.kind != "heading")
    assert "".join(covered.split()) == "".join(bodies.split())
    assert all(c.end - c.start <= 300 for c in found)
    assert {c.section for c in found} == {("One",), ("Two",)}
    assert all(document.text[c.end - 1] == "." for c in found if c.section == ("One",))


def test_the_heading_tells_the_model_what_the_text_is_about():
    chat = Scripted(reply(("Acme Robotics", "seat", "Berlin")))
    list(LLMExtractor(chat)(text_document("Acme Robotics\n=============\n\nThe seat is in Berlin.\n", "")))
    assert chat.asked[0][-1]["content"] == "Text about Acme Robotics:\n\nThe seat is in Berlin."


def test_as_an_extractor_of_a_source(tmp_path):
    path = written(tmp_path, "acme.txt", TEXT)
    chat = Scripted(reply(("Acme Robotics", "seat", "Berlin"), ("Acme Robotics", "seat", "Bern")))
    source = open_source(path, extractors=["structured", LLMExtractor(chat)])
    assert ("Acme Robotics", "seat", "Berlin") in parts(source)
    assert source.skipped["llm: value not in the text"] == 1


def test_bad_settings():
    with pytest.raises(ConfigurationError, match="expected chunk"):
        LLMExtractor(Scripted(""), chunk=10)


def test_sentences_by_punctuation():
    text = 'Dr. A. Smith came, e.g. Monday. "He left." Then 3.5 kg? Yes! It cost 5 approx. ten.'
    found = [text[a:b] for a, b in sentences(text)]
    assert found == ["Dr. A. Smith came, e.g. Monday.", '"He left."', "Then 3.5 kg?", "Yes!", "It cost 5 approx. ten."]
