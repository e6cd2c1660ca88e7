"""A turn that only names something asks what the turn before asked, and nothing else is touched."""

import pytest
from engine_parts import token_ids

from kblam_engine.ellipsis import Completed, completed
from kblam_engine.evidence import Examiner
from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.retrieval import Retriever
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Triple
from kblam_engine.wording import Rarity

TRIPLES = [
    Triple("Halden Kettle", "price", "49 euros"),
    Triple("Halden Kettle Pro", "price", "89 euros"),
    Triple("Brisa Fan", "weight", "2 kg"),
    Triple("Tundra Heater", "power", "1500 watts"),
]


@pytest.fixture(scope="module", name="table")
def table_fixture():
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder()) as kb:
        kb.add(TRIPLES)
        yield kb.snapshot()


@pytest.fixture(scope="module", name="examiner")
def examiner_fixture():
    return Examiner(Rarity(token_ids, 320))


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (["How much is the Halden Kettle?", "And the Pro?"], Completed("How much is the Pro?")),
        (["How much is the Halden Kettle?", "And the Brisa Fan?"], Completed("How much is the Brisa Fan?", True)),
        (["And how heavy is it?", "what about the Tundra Heater?"], Completed("how heavy is the Tundra Heater?", True)),
        (["What's its wattage?", "and the Kettle's?"], Completed("What's the Kettle's wattage?")),
        (
            ["How much is the Halden Kettle?", "And the Brisa Fan?", "ok, and the Tundra Heater?"],
            Completed("How much is the Tundra Heater?", True),
        ),
    ],
)
def test_a_name_alone(turns, expected, table, examiner):
    assert completed(turns, table, examiner) == expected


@pytest.mark.parametrize(
    "turns",
    [
        ["And the Pro?"],  # nothing was asked before
        ["How much is the Halden Kettle?", "and the power?"],  # a property
        ["How much is the Halden Kettle?", "And how heavy is the Brisa Fan?"],  # a question of its own
        ["How much is the Halden Kettle?", "Thanks!"],
        ["How much is the Halden Kettle?", "And Wonderland?"],  # no name of the knowledge base
        ["When do you open?", "the Brisa Fan"],  # the question before has no place for a name
        ["How much is the Halden Kettle?", ""],
    ],
)
def test_what_is_left_as_it_is(turns, table, examiner):
    assert completed(turns, table, examiner) == Completed(turns[-1])


def test_retrieval_asks_the_completed_question(table, examiner):
    retriever = Retriever(HashingEncoder(), examiner, EvidenceHead(4, 64))
    chat = [
        {"role": "user", "content": "How much is the Halden Kettle?"},
        {"role": "assistant", "content": "49 euros."},
        {"role": "user", "content": "And the Brisa Fan?"},
    ]
    alone = [{"role": "user", "content": "How much is the Brisa Fan?"}]
    assert retriever.retrieve(chat, table).log_odds.tolist() == retriever.retrieve(alone, table).log_odds.tolist()
