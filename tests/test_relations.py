"""Relations become nouns: by rules, by a chat model, by what is given."""

import json

import pytest
from graph_parts import ACME, parts
from hypothesis import given
from hypothesis import strategies as st

from kblam_engine.errors import ConfigurationError
from kblam_engine.training.kg2kv import kg2kv
from kblam_engine.training.relations import RelationNamer, RelationNouns, named_by_rules, relation_words

# --- rules ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "of_head", "of_tail"),
    [
        ("foundedBy", "founder", "founded organisation"),
        ("FOUNDED_BY", "founder", "founded organisation"),
        ("hasBeenFoundedBy", "founder", "founded organisation"),
        ("founded", "founded organisation", "founder"),
        ("born_in", "birthplace", "native"),
        ("http://dbpedia.org/ontology/birthPlace", "birthplace", "native"),
        ("dbo:birthPlace", "birthplace", "native"),
        ("people.person.place_of_birth", "birthplace", "native"),
        ("isPartOf", "whole", "part"),
        ("has_part", "part", "whole"),
        ("has_capital", "capital", "country or region"),
        ("capitalOf", "country or region", "capital"),
        ("parent", "parent", "child"),
        ("mother of", "child", "parent"),
        ("WORKS_FOR", "employer", "employee"),
        ("worked at", "employer", "employee"),
        ("directed by", "director", "directed work"),
        ("nominated_by", "nominator", "nominated entity"),
        ("inhibits", "inhibited entity", "inhibitor"),
        ("frobnicated", "frobnicated entity", "frobnicator"),
        ("manufacturedIn", "place of manufacturing", "entity manufactured there"),
        ("exports to", "exporting destination", "entity exporting to it"),
        ("carried_out_by", "responsible party", "entity carried out by it"),
        ("won_award", "award", "winner"),
        ("speaksLanguage", "language", "speaker"),
        ("required skill", "required skill", "entity with this required skill"),
        ("mascotOf", "entity with this mascot", "mascot"),
        ("flight from", "flight origin", "entity with this flight origin"),
        ("date-of-birth", "date of birth", "entity with this date of birth"),
        ("GDPPerCapita", "GDP per capita", "entity with this GDP per capita"),
        ("hasISBN", "ISBN", "entity with this ISBN"),
        ("CEO", "CEO", "entity with this CEO"),
        ("coAuthor", "co-author", "co-author"),
        ("works", "works", "entity with this works"),
        ("marriedTo", "spouse", "spouse"),
        ("because", "cause", "effect"),
        ("as a result", "effect", "cause"),
        ("instance_of", "kind", "instance"),
        ("创始人", "创始人", "entity with this 创始人"),
    ],
)
def test_rules_name_relations(label, of_head, of_tail):
    nouns = named_by_rules(label)
    assert nouns is not None and (nouns.of_head, nouns.of_tail, nouns.source) == (of_head, of_tail, "rules")


@pytest.mark.parametrize("label", ["", "->", " __ ", "http://", "{}"])
def test_a_relation_without_words_has_no_noun(label):
    assert named_by_rules(label) is None


@given(st.text(max_size=40))
def test_any_label_gives_nouns_that_templates_can_hold(label):
    nouns = named_by_rules(label)
    assert (nouns is None) == (not relation_words(label))
    if nouns is not None:
        assert nouns.of_head.strip() == nouns.of_head != "" and nouns.of_tail.strip() == nouns.of_tail != ""
        assert not set("{}_") & set(nouns.of_head + nouns.of_tail)
        for question in (*nouns.ask_of_head, *nouns.ask_of_tail):
            assert question.count("{n}") == 1 and "{" not in question.replace("{n}", "")


def test_questions_fit_the_direction():
    nouns = named_by_rules("acquired")
    assert nouns.ask_of_head[0] == "What did {n} acquire?" and nouns.ask_of_tail[0] == "Who or what acquired {n}?"
    swapped = named_by_rules("acquired by")
    assert (swapped.ask_of_head, swapped.ask_of_tail) == (nouns.ask_of_tail, nouns.ask_of_head)
    assert "Whose mascot is {n}?" in named_by_rules("mascot").ask_of_tail


# --- a chat model -----------------------------------------------------------------------------------------


class Chat:
    """A chat model that says what it was told to, and remembers what it was asked."""

    def __init__(self, **replies):
        self.replies, self.asked = replies, []

    def __call__(self, messages):
        assert [m["role"] for m in messages] == ["system", "user"]
        label = messages[-1]["content"].split()[1]
        self.asked.append(label)
        return self.replies[label]


def reply(tail, head):
    return json.dumps({"tail": tail, "head": head})


def test_a_chat_model_is_asked_once_per_relation():
    chat = Chat(foundedBy="Sure!\n```json\n" + reply("The originator", "brainchild.") + "\n```")
    namer = RelationNamer(chat)
    for _ in range(3):
        nouns = namer("foundedBy")
    assert (nouns.of_head, nouns.of_tail, nouns.source) == ("originator", "brainchild", "model")
    assert chat.asked == ["foundedBy"] and not namer.refused
    again = RelationNamer(given=namer.named)  # another run needs no model
    assert again("foundedBy").of_head == "originator"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("founder", "expected a JSON object"),
        ("{tail: founder}", "not JSON"),
        (reply("founder", 3), "expected a text under 'head'"),
        (reply("founder", ""), "expected 1 to"),
        (reply("founder", "the company that somebody has once founded there"), "expected 1 to"),
        (reply("founder", "founded by"), "not a verb phrase"),
        (reply("founder", "is founded"), "not a verb phrase"),
        (reply("founder", "{n}"), "JSON"),
        (reply("founder", "org_name"), "expected letters"),
        (reply("Founder", "founder"), "the same noun"),
        (None, "expected a JSON object"),
    ],
)
def test_unusable_nouns_are_refused_and_the_rules_name_the_relation(text, why):
    namer = RelationNamer(Chat(foundedBy=text))
    assert namer("foundedBy") == named_by_rules("foundedBy")
    assert why in namer.refused["foundedBy"]


def test_two_relations_get_no_common_noun_from_a_model():
    namer = RelationNamer(Chat(born_in=reply("place", "person"), lives_in=reply("place", "inhabitant")))
    assert namer("born_in").of_head == "place"
    assert namer("lives_in").of_head == "residence" and "taken by 'born_in'" in namer.refused["lives_in"]


def test_what_a_chat_model_raises_reaches_the_caller():
    def broken(messages):
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError):
        kg2kv(ACME, namer=RelationNamer(broken))


def test_given_nouns_come_first_and_are_checked():
    nouns = RelationNouns("country code", "country", ("Which code has {n}?",))
    namer = RelationNamer(Chat(), given={"P297": nouns})
    found = kg2kv([("France", "P297", "FR")], namer=namer)
    assert parts(found.triples) == {("France", "country code", "FR"), ("FR", "country", "France")}
    assert found.samples[0].question == "Which code has France?" and found.relations["P297"].source == "given"
    with pytest.raises(ConfigurationError, match="expected a noun"):
        RelationNamer(given={"x": RelationNouns("a{n}", "b")})
    with pytest.raises(ConfigurationError, match="expected a question"):
        RelationNamer(given={"x": RelationNouns("a", "b", ("What?",))})
