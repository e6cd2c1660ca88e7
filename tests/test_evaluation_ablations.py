"""Ablations: the system's retrieval replaced by the sentence encoder alone, or by what is asked for."""

import numpy as np
import pytest
from engine_parts import engine_fixture  # noqa: F401

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.ablations import ablated
from kblam_engine.evaluation.baselines import ABLATIONS, PromptOptions
from kblam_engine.evaluation.questions import Question
from kblam_engine.evaluation.runner import ask_systems


def question(text, supports):
    answers = tuple((f"answer {i}",) for i in range(len(supports)))
    kind = "simple" if supports else "unanswerable"
    return Question(({"role": "user", "content": text},), kind, answers, tuple(supports))


def ask(engine, memory_kb, name, asked, **options):
    return ablated(engine, name, asked).answer(asked.messages[0]["content"], memory_kb, max_new_tokens=4, **options)


def attended(answer):
    return {(a.triple.name, a.triple.property) for a in answer.attended}


def test_oracle_gates_open_the_supports_and_nothing_else(engine, memory_kb):
    known = {(t.name, t.property) for t in memory_kb}
    supports = tuple(sorted(known))[:2]
    answer = ask(engine, memory_kb, "oracle-gates", question("Tell me two things.", supports))
    assert attended(answer) == set(supports) and not answer.refused
    assert answer.confidence > 0.999


def test_oracle_gates_refuse_what_has_no_support(engine, memory_kb):
    text = "What is the battery life of the Orca 2?"
    answer = ask(engine, memory_kb, "oracle-gates", question(text, ()))
    assert answer.refused and not answer.attended
    assert not engine.answer(text, memory_kb, max_new_tokens=4).refused, "the engine itself is as it was"


def test_encoder_gates_open_the_nearest_key_and_never_refuse(engine, memory_kb):
    for text in ("What is the battery life of the Orca 2?", "Who invented the telephone?"):
        answer = ask(engine, memory_kb, "encoder-gates", question(text, ()), refusal_threshold=0.99)
        snapshot = memory_kb.snapshot()
        scores = np.asarray(snapshot.key_embeddings, np.float32) @ engine.encoder.encode([text])[0]
        nearest = snapshot.triple(int(scores.argmax()))
        assert not answer.refused
        assert [a.weight > 0 for a in answer.attended] == [True, *[False] * (len(answer.attended) - 1)]
        assert answer.attended[0].triple == nearest


def test_the_hidden_state_has_no_say_in_encoder_gates(engine, memory_kb):
    snapshot = memory_kb.snapshot()
    asked = question("What is the battery life of the Orca 2?", ())
    retriever = ablated(engine, "encoder-gates", asked).retriever
    alone = retriever.retrieve(asked.messages, snapshot)
    misled = -100 * engine.encoder.encode([asked.text])[0]
    assert retriever.retrieve(asked.messages, snapshot, misled).positions.tolist() == alone.positions.tolist()


def test_a_run_asks_ablations_beside_baselines(engine, memory_kb):
    triples = list(memory_kb)
    pairs = ((triples[0].name, triples[0].property),)
    asked = [question("What about it?", pairs), question("And the moon?", ())]
    names = ["dense", "encoder-gates", "oracle-gates"]
    found = ask_systems(engine, triples, asked, names, prompts=PromptOptions(max_new_tokens=4))
    assert list(found.answers) == ["kblam", *names]
    assert found.info["oracle-gates"] == {"what": ABLATIONS["oracle-gates"]}
    first, second = found.answers["oracle-gates"]
    assert first.retrieval_top1 and second.refused
    assert not any(answer.refused for answer in found.answers["encoder-gates"])


def test_unknown_names_are_told_what_there_is(engine, memory_kb):
    with pytest.raises(ConfigurationError, match="oracle-gates, .*, got 'perfect'"):
        ask_systems(engine, list(memory_kb), [question("?", ())], ["perfect"], prompts=PromptOptions())
