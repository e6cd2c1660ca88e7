"""Hard negatives: one KB for a batch, and what the retrieval layer puts beside what is asked for."""

import itertools
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from kblam_engine.evidence import Examiner
from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.gating import OPEN_FLOOR
from kblam_engine.retrieval import Retrieved, Retriever
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.statements import REFUSAL_TEXT
from kblam_engine.training.instructions import draw_answered
from kblam_engine.training.lexicon import load_lexicon
from kblam_engine.training.mining import Miner, draw_size, draw_together, shared_pool
from kblam_engine.training.native import Mining, examples, mined_batch
from kblam_engine.training.pools import EncodedWorld
from kblam_engine.training.samples import Sample, unanswerable
from kblam_engine.training.worlds import invented_world, linked
from kblam_engine.wording import Rarity


@pytest.fixture(scope="module")
def encoded():
    return EncodedWorld(linked(Random(2), invented_world(Random(1), load_lexicon(), [], 120)), HashingEncoder())


@pytest.fixture(scope="module")
def retriever(tiny_tokenizer):
    def token_ids(text):
        return tiny_tokenizer(text, add_special_tokens=False)["input_ids"]

    return Retriever(HashingEncoder(), Examiner(Rarity(token_ids, 320)), EvidenceHead(4, 64))


class Fixed:
    """A retrieval layer that gives the same log-odds whatever is asked, in the order of the pool or of a list."""

    def __init__(self, log_odds, first=()):
        self.log_odds, self.first = log_odds, first

    def retrieve(self, messages, table):
        members = table.members.tolist()
        order = [members.index(m) for m in self.first] + [i for i, m in enumerate(members) if m not in self.first]
        order = order[: len(self.log_odds)]
        return Retrieved(np.array(order), tuple(table.triples(order)), np.array(self.log_odds, np.float32))


def draw_of(encoded):
    return lambda random: draw_answered(random, encoded.world)


# --- one KB for many questions ----------------------------------------------------------------------------


def test_sizes_are_even_on_a_logarithmic_scale():
    random = Random(0)
    drawn = [draw_size(random, (10, 10_000)) for _ in range(3000)]
    assert 10 <= min(drawn) and max(drawn) <= 10_000
    for low, high in itertools.pairwise((10, 100, 1000, 10_001)):
        assert sum(low <= size < high for size in drawn) / 3000 == pytest.approx(1 / 3, abs=0.04)
    assert draw_size(random, (30, 30)) == 30


def test_a_shared_pool_makes_sense_of_all_its_samples(encoded):
    random = Random(0)
    for n in (2, 8):
        for size in (10, 60, 300):
            drawn = draw_together(random, encoded, n, draw_of(encoded))
            assert len(drawn) == n
            members = set(shared_pool(random, encoded, drawn, size).members.tolist())
            for sample in drawn:
                assert set(sample.supports) <= members and not members & set(sample.hidden)
                for entity in sample.entities:
                    assert set(encoded.world.entities[entity]) <= members
            assert len(members) >= min(size, 250) - 8 * n


def test_samples_that_hide_what_others_ask_for_are_not_drawn_together(encoded):
    entity = encoded.world.entities[3]
    asks = Sample("simple", (), entity[:1], "x")
    hides = Sample("unanswerable", (), (), None, hidden=entity[:1])
    other = Sample("unanswerable", (), (), None, entities=(7,))
    queue = iter([asks, hides, hides, other])
    assert draw_together(Random(0), encoded, 2, lambda random: next(queue)) == [asks, other]
    assert draw_together(Random(0), encoded, 2, lambda random: hides if random.random() < 0.5 else hides) == [hides] * 2
    queue = itertools.chain([asks], itertools.repeat(hides))
    assert draw_together(Random(0), encoded, 3, lambda random: next(queue)) == [asks] * 3, "in the end the last again"


# --- what is selected -------------------------------------------------------------------------------------


def pool_and_sample(encoded, n_supports=1):
    entity = next(e for e in encoded.world.entities if len(e) >= 4)
    supports = entity[:n_supports]
    sample = Sample("simple", ({"role": "user", "content": "?"},), supports, "x")
    return shared_pool(Random(0), encoded, [sample], 40), sample


def test_what_retrieval_opens_beside_the_right_triple_is_open_in_training(encoded):
    pool, sample = pool_and_sample(encoded)
    wrong = [int(m) for m in pool.members if m not in sample.supports][:4]
    miner = Miner(Fixed([5.0, 1.0, 0.5, -3.0, -4.0], (*sample.supports, *wrong)), 0.5, 6)
    counts = set()
    for seed in range(30):
        selected = miner.select(Random(seed), sample, pool)
        assert [at for at, _ in selected][:3] == [*sample.supports, *wrong[:2]], "open in use"
        gates = [gate for _, gate in selected]
        assert gates == sorted(gates, reverse=True) and gates[0] == pytest.approx(-np.log1p(np.exp(-5.0)), abs=1e-4)
        assert all(OPEN_FLOOR <= gate <= 0 for gate in gates)
        counts.add(len(selected))
    assert counts == {3}


def test_a_question_for_two_things_opens_the_second_more_easily(encoded):
    pool, sample = pool_and_sample(encoded)
    wrong = next(int(m) for m in pool.members if m not in sample.supports)
    miner = Miner(Fixed([5.0, -1.0], (*sample.supports, wrong)), 0.5, 6)  # .27, more than .4 of the threshold

    def least_open(turn):
        asked = replace(sample, messages=({"role": "user", "content": turn},))
        return min(len(miner.select(Random(seed), asked, pool)) for seed in range(20))

    assert least_open("Who founded it, and when?") == 2
    assert least_open("Who founded it?") == 1


def test_the_best_wrong_triples_are_opened_now_and_then(encoded):
    pool, sample = pool_and_sample(encoded)
    wrong = [int(m) for m in pool.members if m not in sample.supports][:3]
    miner = Miner(Fixed([5.0, -1.0, -2.0, -3.0], (*sample.supports, *wrong)), 0.5, 6)
    found = [miner.select(Random(seed), sample, pool) for seed in range(60)]
    assert {len(selected) for selected in found} == {1, 2, 3}
    for selected in found:
        assert [at for at, _ in selected] == [*sample.supports, *wrong[: len(selected) - 1]]
        assert all(gate == OPEN_FLOOR for _, gate in selected[1:])


def test_what_is_asked_for_is_open_even_if_retrieval_fails(encoded):
    pool, sample = pool_and_sample(encoded, 2)
    wrong = [int(m) for m in pool.members if m not in sample.supports][:8]
    for log_odds in ([4.0] * 8, [-4.0] * 8):
        miner = Miner(Fixed(log_odds, wrong), 0.5, 4)
        for seed in range(20):
            selected = miner.select(Random(seed), sample, pool)
            assert [at for at, _ in selected][:2] == list(sample.supports) and len(selected) <= 4
            right = [gate for _, gate in selected[:2]]
            assert right == sorted(right, reverse=True), "what is written first is the likeliest"
            assert all(OPEN_FLOOR <= gate <= min(right) for _, gate in selected[2:])


def test_more_may_be_asked_for_than_an_answer_selects(encoded):
    pool, sample = pool_and_sample(encoded, 3)
    selected = Miner(Fixed([4.0] * 8), 0.5, 2).select(Random(0), sample, pool)
    assert [at for at, _ in selected] == list(sample.supports)


def test_how_much_is_drawn_does_not_depend_on_what_is_found(encoded):
    pool, sample = pool_and_sample(encoded)
    states = []
    for log_odds in ([3.0], [-3.0, -4.0], [2.0] * 20):
        random = Random(1)
        Miner(Fixed(log_odds), 0.5, 6).select(random, sample, pool)
        states.append(random.getstate())
    assert states[0] == states[1] == states[2]


# --- batches ----------------------------------------------------------------------------------------------


def test_mined_batches_answer_with_the_right_triples_only(encoded, retriever):
    mining = Mining(Miner(retriever, 0.5, 6), [encoded], 1.0, (10, 200))
    rows = [r for seed in range(6) for r in mined_batch(Random(seed), mining, lambda m: m[-1]["content"], 8)]
    beside = 0
    for row in rows:
        if row.answer == REFUSAL_TEXT:
            assert row.triples == () and row.gates == (0.0,)
            continue
        right = [t for t in row.triples if t.value in row.answer]
        assert right and len(row.gates) == len(row.triples) <= 6
        beside += len(row.triples) > len(right)
    assert beside > 10
    again = [r for seed in range(6) for r in mined_batch(Random(seed), mining, lambda m: m[-1]["content"], 8)]
    assert rows == again


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_batches_is_mined(encoded, share, monkeypatch):
    calls = []
    monkeypatch.setattr("kblam_engine.training.native.mined_batch", lambda *args: calls.append(args) or ["mined"])
    mining = Mining(None, [encoded], share, (10, 20))
    stream = examples(Random(0), [encoded.world], str, 2, mining=mining)
    found = sum(batch == ["mined"] for batch in itertools.islice(stream, 200))
    assert found == len(calls) and found / 200 == pytest.approx(share, abs=0.1)


def test_unanswerable_samples_keep_their_kb(encoded, retriever):
    """Near misses stay beside what they miss, whatever else the batch asks for."""
    random = Random(0)
    drawn = draw_together(random, encoded, 8, lambda r: unanswerable(r, encoded.world))
    members = set(shared_pool(random, encoded, drawn, 30).members.tolist())
    for sample in drawn:
        assert not members & set(sample.hidden)
        assert all(members >= set(encoded.world.entities[entity]) for entity in sample.entities)
