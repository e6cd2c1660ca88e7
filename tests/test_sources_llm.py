"""The LLM extractor: what a chat model says is checked against the text, and counted where it is thrown away."""

import json
from unicodedata import normalize

import pytest
from sources_parts import parts, written

from kblam_engine.errors import ConfigurationError, KBLaMError, ModelNotFoundError
from kblam_engine.sources import open_source
from kblam_engine.sources.documents import text_document
from kblam_engine.sources.extractors import LLMExtractor
from kblam_engine.sources.extractors.base import sentences
from kblam_engine.sources.extractors.llm import ChatModelError, chunks, read_reply

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


MEASURED = "The Orca weighs 3.50 kg, costs 12,500 euros at -5 °C. It has 12 500 parts, opens at 12:30, and is ±0.5 mm off in 1/2 of all."


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("3.50", "3.50"),
        ("3.50 kg", "3.50 kg"),
        ("12,500 euros", "12,500 euros"),
        ("-5 °C", "-5 °C"),
        ("−5 °C", "-5 °C"),  # a minus sign for the text's hyphen
        ("12 500 parts", "12 500 parts"),
        ("±0.5 mm", "±0.5 mm"),
        ("3", None),
        ("3.5", None),
        ("50 kg", None),
        ("12", None),
        ("500 euros", None),
        ("5 °C", None),
        ("500 parts", None),
        ("30", None),
        ("0.5 mm", None),
        ("2", None),
    ],
)
def test_numbers_are_kept_whole_or_not_at_all(value, kept):
    extractor = LLMExtractor(Scripted(reply(("Orca", "property", value))))
    assert [triple.value for triple in extractor(text_document(MEASURED, ""))] == ([] if kept is None else [kept])
    assert extractor.rejected == ({"value not in the text": 1} if kept is None else {})


@pytest.mark.parametrize("value", ["2014", "14 staff", "5 days", "Orca 2"])
def test_a_comma_a_range_and_another_name_are_no_part_of_a_number(value):
    text = "Acme was founded in 2014, 14 staff built the Orca 2. That took 3-5 days."
    assert [t.value for t in LLMExtractor(Scripted(reply(("Acme", "x", value))))(text_document(text, ""))] == [value]


@pytest.mark.parametrize(("in_text", "in_reply"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_coded_otherwise_and_stay_as_the_text_has_them(in_text, in_reply):
    text = normalize(in_text, "Zoë Müller leads Acme in Zürich. Jose is there.")
    said = [("Zoë Müller", "seat", "Zürich"), ("Acme", "leader", "zoë müller"), ("Acme", "leader", "Zoë Müller"), ("Zoe Muller", "x", "Acme"), ("Acme", "x", "Zu")]
    extractor = LLMExtractor(Scripted(reply(*[tuple(normalize(in_reply, part) for part in three) for three in said])))
    document = text_document(text, "")
    triples = list(extractor(document))
    assert parts(triples) == [
        (normalize(in_text, "Zoë Müller"), "seat", normalize(in_text, "Zürich")),
        ("Acme", "leader", normalize(in_text, "Zoë Müller")),
    ]
    assert {document.text[slice(*t.provenance.span)] for t in triples} == {text.partition(" Jose")[0]}
    assert extractor.rejected == {"said twice": 1, "name not in the text": 1, "value not in the text": 1}


def test_names_are_spelled_as_the_text_has_them():
    text = "Orca Mk. II\n===========\n\nThe ORCA is fast. An Orca is small.\n"
    chat = Scripted(reply(("orca", "a", "fast"), ("Orca", "b", "small"), ("orca mk. ii", "c", "fast")))
    assert [t.name for t in LLMExtractor(chat)(text_document(text, ""))] == ["ORCA", "Orca", "Orca Mk. II"]


@pytest.mark.parametrize(
    ("text", "value", "kept"),
    [
        ("The range is 12 km.", "12 km.", "12 km"),
        ("The range is 12 km, at most.", "12 km,", "12 km"),
        ("The range is 12 km in all.", "12 km.", "12 km"),
        ("The range is known by Acme Inc. alone.", "Acme Inc.", "Acme Inc."),
        ("The range is known to Acme Inc.", "Acme Inc.", "Acme Inc."),
        ("The range is known at 5 p.m.", "5 p.m.", "5 p.m."),
        ("The range is in Yahoo! too.", "Yahoo!", "Yahoo!"),
    ],
)
def test_a_value_ends_before_the_full_stop_of_its_sentence(text, value, kept):
    chat = Scripted(reply(("range", "x", value), ("range", "x", kept)))
    extractor = LLMExtractor(chat)
    (triple,) = extractor(text_document(f"{text} More of it.", ""))
    assert triple.value == kept and extractor.rejected == {"said twice": 1}


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


def test_a_chat_model_that_raises_is_named_with_the_cause():
    def broken(messages):
        raise TimeoutError("slow\nvery slow")

    with pytest.raises(ChatModelError, match=r"chat model test_sources_llm\..*broken, reading a\.txt: .*got TimeoutError: slow very slow;") as caught:
        list(LLMExtractor(broken)(text_document(TEXT, "a.txt")))
    assert isinstance(caught.value, KBLaMError) and isinstance(caught.value.__cause__, TimeoutError)


def test_an_error_of_the_engine_stays_as_it_is():
    def missing(messages):
        raise ModelNotFoundError("no such model")

    with pytest.raises(ModelNotFoundError, match="^no such model$"):
        list(LLMExtractor(missing)(text_document(TEXT, "")))


def test_a_chat_model_that_returns_nothing_is_told():
    with pytest.raises(ChatModelError, match=r"chat model test_sources_llm\.Scripted, reading a text: expected the text of a reply, got NoneType; return"):
        list(LLMExtractor(Scripted(None))(text_document(TEXT, "")))


def test_an_exception_without_a_text_is_named(tmp_path):
    def broken(messages):
        raise ConnectionError

    with pytest.raises(ChatModelError, match="got ConnectionError; read the document again"):
        list(LLMExtractor(broken)(text_document("Acme is in Oslo.", "a.txt")))


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


def test_a_full_stop_may_be_that_of_an_abbreviation_and_of_the_sentence():
    text = "It runs on 12 V. Its frost limit is -5 °C. Orca 2 is by Acme Inc. The U.S. Navy had it in Jan. 1990 from J. Smith."
    assert [text[a:b] for a, b in sentences(text)] == [
        "It runs on 12 V.",
        "Its frost limit is -5 °C.",
        "Orca 2 is by Acme Inc.",
        "The U.S. Navy had it in Jan. 1990 from J. Smith.",
    ]
