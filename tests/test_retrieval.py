"""The retrieval layer: candidates and their probabilities, and what must not change them."""

import warnings

import numpy as np
import pytest
import torch

from kblam_engine import retrieval
from kblam_engine.evidence import FEATURES, Examiner
from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.retrieval import N_NEAREST, Questions, Retrieved, Retriever, up_to_question
from kblam_engine.search.interface import nothing
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Triple
from kblam_engine.wording import Rarity

QUESTION = [{"role": "user", "content": "What is the battery life of the Orca 2?"}]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def retriever(tiny_tokenizer):
    """A retriever with a head that is random but for two features that matter."""

    def token_ids(text):
        return tiny_tokenizer(text, add_special_tokens=False)["input_ids"]

    head = EvidenceHead(hidden=8, embed_dim=64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
        head.direct.weight.normal_(0, 0.05, generator=generator)
        head.direct.weight[0, :4] += 3.0
    return Retriever(HashingEncoder(), Examiner(Rarity(token_ids, 320)), head)


def many_triples():
    return [
        Triple(f"Unit {n}", f"{part} {what}", f"{n * 7} {what} of part {n}")
        for n in range(20)
        for part, what in (("main", "weight"), ("rear", "colour"))
    ]


def kb_of(triples, multi=False):
    kb = KnowledgeBase.open(":memory:", encoder=HashingEncoder(), multi=multi)
    kb.add(triples)
    return kb


def found(retriever, kb, messages=QUESTION):
    result = retriever.retrieve(messages, kb.snapshot())
    return dict(zip(result.triples, result.log_odds.tolist(), strict=True)), result


def assert_same(a, b):
    assert list(a) == list(b)
    assert list(a.values()) == pytest.approx(list(b.values()), abs=1e-4)


def test_candidates_come_best_first_with_their_positions(retriever, memory_kb, six_triples):
    scores, result = found(retriever, memory_kb)
    snapshot = memory_kb.snapshot()
    assert result.triples[0] == six_triples[2]
    assert list(result.triples) == snapshot.triples(result.positions)
    assert sorted(result.positions.tolist()) == list(range(6))
    assert (np.diff(result.log_odds) <= 0).all()
    assert ((result.probabilities >= 0) & (result.probabilities <= 1)).all()


def test_shuffling_triples_changes_nothing(retriever, six_triples):
    triples = [*six_triples, *many_triples()]
    first, _ = found(retriever, kb_of(triples))
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(triples))
        again, _ = found(retriever, kb_of([triples[i] for i in order]))
        assert_same(first, again)


def test_removed_is_as_never_added(retriever, six_triples):
    gone = [Triple("Orca 2", "battery weight", "3 kg"), Triple("Narwhal", "battery life", "9 hours")]
    kb = kb_of([gone[0], *six_triples[:3], gone[1], *six_triples[3:]])
    with_them, _ = found(retriever, kb)
    for triple in gone:
        assert triple in with_them
        assert kb.remove(triple.name, triple.property) == 1
    without, _ = found(retriever, kb)
    assert_same(without, found(retriever, kb_of(six_triples))[0])


def test_replaced_is_as_if_always_so(retriever, six_triples):
    kb = kb_of(six_triples)
    kb.set("Orca 2", "battery life", "8 hours")
    expected = [
        t if t.property != "battery life" else Triple(t.name, t.property, "8 hours") for t in six_triples
    ]
    assert_same(found(retriever, kb)[0], found(retriever, kb_of(expected))[0])


def test_update_is_seen_by_the_next_retrieval_only(retriever, memory_kb):
    before = memory_kb.snapshot()
    memory_kb.set("Orca 2", "battery life", "8 hours")
    assert retriever.retrieve(QUESTION, before).triples[0].value == "7.5 hours"
    assert retriever.retrieve(QUESTION, memory_kb.snapshot()).triples[0].value == "8 hours"
    memory_kb.remove("Orca 2")
    assert "Orca 2" not in {t.name for t in retriever.retrieve(QUESTION, memory_kb.snapshot()).triples}


def test_empty_kb_has_no_candidates(retriever):
    result = retriever.retrieve(QUESTION, kb_of([]).snapshot())
    assert (
        result.triples == ()
        and len(result.positions) == len(result.log_odds) == len(result.probabilities) == 0
    )


@pytest.mark.parametrize("n", [1, 2, 3])
def test_small_kbs(retriever, six_triples, n):
    assert set(found(retriever, kb_of(six_triples[:n]))[0]) == set(six_triples[:n])


def test_several_values_of_one_property(retriever):
    triples = [Triple("Orca 2", "colour", c) for c in ("red", "green", "blue")]
    assert set(found(retriever, kb_of(triples, multi=True))[0]) == set(triples)


def test_other_triples_of_a_good_name_become_candidates(retriever):
    siblings = [Triple("Orca 2", f"aspect {n}", f"value {n}") for n in range(30)]
    others = [Triple(f"Battery life unit {n}", "battery life", f"{n} hours") for n in range(40)]
    kb = kb_of([*siblings, Triple("Orca 2", "battery life", "7.5 hours"), *others])
    scores, _ = found(retriever, kb)
    names = [t.name for t in scores]
    assert names.count("Orca 2") >= 20
    assert len(scores) <= N_NEAREST + 3 * 24


def test_hidden_query_joins_the_score(retriever, memory_kb):
    snapshot = memory_kb.snapshot()
    key = np.asarray(snapshot.key_embeddings[5], np.float32)
    candidates, positions, _ = retriever.examine(QUESTION, snapshot, 3 * key)
    assert positions[0] == 5 and candidates[0].cos_hidden == pytest.approx(3.0, abs=0.01)
    candidates, positions, _ = retriever.examine(QUESTION, snapshot)
    assert positions[0] == 2 and {c.cos_hidden for c in candidates} == {0.0}


def test_the_question_is_the_last_user_message_and_the_conversation_the_last_three():
    messages = [
        user("one"),
        assistant("a"),
        user("two"),
        assistant("b"),
        user("three"),
        assistant("c"),
        user("four"),
    ]
    assert Questions.of(messages) == Questions("four", "two three four")
    assert Questions.of([{"role": "system", "content": "be kind"}]) == Questions("be kind", "be kind")


def test_unfinished_answer_and_system_message_ask_nothing(retriever, memory_kb):
    plain, _ = found(retriever, memory_kb)
    begun, _ = found(retriever, memory_kb, [*QUESTION, assistant("The founder of Acme Robotics is")])
    assert_same(plain, begun)
    assert up_to_question([assistant("x")]) == [assistant("x")]


def test_follow_up_finds_its_subject(retriever, memory_kb, six_triples):
    messages = [
        user("Who founded Acme Robotics?"),
        assistant("Lena Hoffmann."),
        user("And the founding date?"),
    ]
    scores, _ = found(retriever, memory_kb, messages)
    assert next(iter(scores)) == six_triples[1]


@pytest.mark.parametrize("text", ["?", "\N{ROCKET}", "北京", "x" * 3000, "Orca " * 500, " "])
def test_odd_questions(retriever, memory_kb, text):
    scores, _ = found(retriever, memory_kb, [user(text)])
    assert len(scores) == 6 and np.isfinite(list(scores.values())).all()


def test_extreme_log_odds_are_probabilities_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = Retrieved(np.arange(3), (), np.array([1e4, 0.0, -1e4], np.float32))
        assert result.probabilities.tolist() == [1.0, 0.5, 0.0]


def test_the_turn_is_encoded_without_each_name_that_it_has_and_not_without_namesakes(retriever, monkeypatch):
    encoded = []
    encode = type(retriever.encoder).encode
    monkeypatch.setattr(
        type(retriever.encoder), "encode", lambda self, texts, **options: encoded.extend(texts) or encode(self, texts)
    )
    kb = kb_of([Triple(name, "battery life", "9 hours") for name in ("Orca Blue", "Orca Red", "Narwhal Pro")])
    snapshot = kb.snapshot()
    for question, without in (
        ("How long does Orca Blue last?", {"How long does it last?"}),
        ("Does Orca Blue outlast Narwhal Pro?", {"Does it outlast Narwhal Pro?", "Does Orca Blue outlast it?"}),
    ):
        encoded.clear()
        retriever.retrieve([user(question)], snapshot)
        assert set(encoded) - {question} == without


class FindsNothing:
    """A search of an application's own, that keeps to the letter: there may be nothing to find."""

    def search(self, queries, k):
        return nothing(len(queries), k)


def test_a_search_that_finds_nothing_is_a_table_without_triples(retriever, monkeypatch):
    monkeypatch.setattr(retrieval, "KEPT_KEYS", 5)
    snapshot = kb_of(many_triples()).snapshot()
    blind = Retriever(retriever.encoder, retriever.examiner, retriever.head, lambda table: FindsNothing())
    candidates, positions, features = blind.examine([user("How deep?")], snapshot)
    assert candidates == [] and positions.dtype == np.int64 and features.shape == (0, len(FEATURES))
    result = blind.retrieve([user("How deep?")], snapshot)
    assert result.triples == () and result.positions.shape == result.log_odds.shape == result.probabilities.shape == (0,)
    # A name that is said brings its triples along all the same.
    named = blind.retrieve([user("What is the main weight of Unit 7?")], snapshot)
    assert "Unit 7" in {triple.name for triple in named.triples}
