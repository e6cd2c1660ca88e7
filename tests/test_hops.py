"""Selecting again when the answer moves on to what a written value names."""

import json
from pathlib import Path

import numpy as np
import pytest
from engine_parts import copying_engine, same, token_ids

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation import run_evaluation
from kblam_engine.evaluation.baselines import PromptOptions
from kblam_engine.evaluation.questions import question_from_dict, read_questions
from kblam_engine.evidence import Examiner
from kblam_engine.gating import decide
from kblam_engine.hops import following, joined, next_question
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.retrieval import Retrieved
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triple_files import read_jsonl
from kblam_engine.triples import Triple
from kblam_engine.wording import Rarity

VALIDATION = Path(__file__).parent / "validation" / "hops"
MAKER = Triple("Orca 2", "maker", "Acme")
BOSS = Triple("Acme", "boss", "Lena Hoffmann")
OTHERS = [Triple("Borealis", "boss", "Tomás Rivera"), Triple("Orca 2", "price", "90"), Triple("Acme", "seat", "Berlin")]
QUESTION = "What is the boss of the maker of Orca 2?"


@pytest.fixture(scope="module")
def examiner():
    return Examiner(Rarity(token_ids, 2000))


def found(*triples, log_odds=None):
    odds = np.array(log_odds if log_odds is not None else [2.0] * len(triples), np.float32)
    return Retrieved(np.arange(len(triples)), triples, odds)


def test_the_value_takes_the_place_of_the_name(examiner):
    assert next_question(examiner, "Who leads the maker of the Orca 2?", MAKER) == "Who leads the maker of the Acme?"
    assert next_question(examiner, "And who leads the maker?", MAKER) == "Acme: And who leads the maker?"


def test_only_triples_about_what_the_value_names_follow():
    written = Triple("Orca 2", "made by", "Acme, with parts of Borealis")
    candidates = found(OTHERS[1], BOSS, OTHERS[0], Triple("Acm", "boss", "x"), Triple("Acme Robotics", "boss", "x"))
    kept, gates = following(candidates, written, 0.5, 4)
    assert kept.triples == (BOSS, OTHERS[0]) and kept.positions.tolist() == [1, 2]
    assert gates.n_open == 2 and not gates.refused
    assert following(candidates, written, 0.5, 1)[0].triples == (BOSS,)
    assert following(candidates, written, 0.95, 4)[1].refused
    assert following(candidates, Triple("a", "b", "nothing"), 0.5, 4)[1].refused


def test_open_triples_keep_their_slots():
    first = found(MAKER, OTHERS[1], BOSS, log_odds=[3.0, -3.0, -4.0])
    gates = decide(first.log_odds, 0.5)
    more = Retrieved(np.array([2, 7]), (BOSS, OTHERS[0]), np.array([2.0, -2.0], np.float32))
    merged, merged_gates = joined(first, gates, more, decide(more.log_odds, 0.5))
    assert merged.triples == (MAKER, BOSS, OTHERS[1]) and merged.positions.tolist() == [0, 2, 1]
    assert merged.log_odds.tolist() == [3.0, 2.0, -3.0]
    assert merged_gates.n_open == 2 and len(merged_gates.triples) == 3
    assert merged_gates.confidence == gates.confidence


def test_what_is_written_is_not_opened_again():
    first = found(MAKER, log_odds=[3.0])
    gates = decide(first.log_odds, 0.5)
    merged, merged_gates = joined(first, gates, first, gates)
    assert merged.triples == (MAKER,) and merged_gates.n_open == 1


@pytest.fixture(scope="module")
def engine(tiny_tokenizer):
    made = copying_engine(tiny_tokenizer)
    yield made
    made.injection.detach()


@pytest.fixture
def kb():
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder()) as opened:
        opened.add([MAKER, BOSS, *OTHERS])
        yield opened


def test_an_answer_moves_on_to_what_its_value_names(engine, kb):
    once = engine.answer(QUESTION, kb, max_new_tokens=120)
    assert once.text == MAKER.statement
    twice = engine.answer(QUESTION, kb, max_new_tokens=120, max_hops=2)
    assert twice.text == f"{MAKER.statement}\n{BOSS.statement}"
    assert not twice.refused and twice.confidence == once.confidence
    quoted = {a.triple: [twice.text[slice(*span)] for span in a.spans] for a in twice.attended if a.weight}
    assert quoted == {MAKER: ["Acme"], BOSS: ["Lena Hoffmann"]}


def test_any_of_the_written_triples_may_lead_on(tiny_tokenizer, kb):
    engine = copying_engine(tiny_tokenizer, n_select=2)
    try:
        answer = engine.answer("What is the price and the maker of Orca 2?", kb, max_new_tokens=150, max_hops=2)
    finally:
        engine.injection.detach()
    first, second, third, *rest = answer.text.split("\n")
    assert {first, second} == {MAKER.statement, OTHERS[1].statement}
    assert {third, *rest} <= {t.statement for t in (BOSS, OTHERS[2])}


def test_an_answer_that_leads_nowhere_is_the_same(engine, kb):
    kb.set("Orca 2", "maker", "Zephyr")
    same(
        engine.answer(QUESTION, kb, max_new_tokens=120, max_hops=3), engine.answer(QUESTION, kb, max_new_tokens=120)
    )


def test_rows_of_a_batch_move_on_by_themselves(engine, kb):
    questions = [QUESTION, "What is the seat of Acme?", QUESTION]
    batch = engine.answer_batch(questions, [kb, kb, None], max_new_tokens=60, max_hops=2)
    for question, each, answer in zip(questions, [kb, kb, None], batch, strict=True):
        same(answer, engine.answer(question, each, max_new_tokens=60, max_hops=2))


def test_an_evaluation_asks_for_two_hops(engine):
    supports = [["Orca 2", "maker"], ["Acme", "boss"]]
    asked = [question_from_dict({"question": QUESTION, "kind": "two_hops", "answers": [["Lena Hoffmann"]], "supports": supports})]
    for hops, exact in (({}, 0), ({"max_hops": 2}, 1)):
        done = run_evaluation(
            engine, [MAKER, BOSS, *OTHERS], asked, prompts=PromptOptions(max_new_tokens=120), answer_options=hops
        )
        assert done.system.overall.exact == exact
        assert done.to_dict()["options"].get("max_hops") == hops.get("max_hops")


@pytest.mark.parametrize("max_hops", [0, -1, 1.5, True, "2"])
def test_wrong_numbers_of_hops(engine, kb, max_hops):
    with pytest.raises(ConfigurationError, match="max_hops"):
        engine.answer(QUESTION, kb, max_hops=max_hops)


def test_the_chains_of_the_validation_set_are_in_its_knowledge_base():
    assert {question.kind for question in read_questions(VALIDATION / "questions.jsonl")} == {"two_hops", "simple"}
    triples = {(t.name, t.property): t.value for t in read_jsonl(VALIDATION / "kb.jsonl")}
    for line in (VALIDATION / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        question = json.loads(line)
        *before, last = (tuple(support) for support in question["supports"])
        assert len(before) == (question["kind"] == "two_hops")
        assert [triples[support] for support in before] == [last[0]] * len(before)
        assert question["answers"] == [[triples[last]]]
