"""The model answers from a view of a knowledge base."""

from engine_parts import QUESTION, copying_engine
from kb_parts import open_kb

from kblam_engine import Triple


def test_the_model_answers_from_a_view_as_if_there_were_nothing_else(tiny_tokenizer, six_triples):
    engine = copying_engine(tiny_tokenizer)
    other = Triple("Orca 2", "battery life", "two weeks", namespace="rumours")
    with open_kb(":memory:") as kb, open_kb(":memory:") as alone:
        kb.add([other, *six_triples])
        alone.add(six_triples)
        view = engine.answer(QUESTION, kb=kb.view(namespace=""), max_new_tokens=60)
        expected = engine.answer(QUESTION, kb=alone, max_new_tokens=60)
        assert view.text == expected.text and "7.5 hours" in view.text
        assert [a.triple for a in view.attended] == [a.triple for a in expected.attended] == [six_triples[2]]
        rumoured = engine.answer(QUESTION, kb=kb.view(namespace="rumours"), max_new_tokens=60)
        assert [a.triple for a in rumoured.attended] == [other] and "two weeks" in rumoured.text
    engine.injection.detach()
