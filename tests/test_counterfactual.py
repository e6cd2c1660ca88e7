"""Counterfactual copies: nothing that is true stays, nothing is invented, and the seed decides."""

from collections import Counter, defaultdict
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from kblam_engine.training.counterfactual import counterfactual
from kblam_engine.triples import Triple

PARTS = st.tuples(st.sampled_from("ABCDEFGH"), st.sampled_from(["p", "q"]), st.sampled_from("uvwxyz"))
KBS = st.lists(PARTS, max_size=30, unique=True).map(lambda parts: [Triple(*part) for part in parts])
SINGLE = st.lists(PARTS, max_size=30, unique_by=lambda part: part[:2]).map(
    lambda parts: [Triple(*part) for part in parts]
)


def by_property(triples):
    groups = defaultdict(Counter)
    for triple in triples:
        groups[triple.property][triple.value] += 1
    return groups


@given(SINGLE, st.integers(0, 5))
def test_values_are_permuted_inside_each_property(triples, seed):
    copy = counterfactual(Random(seed), triples)
    assert [(t.name, t.property) for t in copy.triples] == [(t.name, t.property) for t in triples]
    before, after = by_property(triples), by_property(copy.triples)
    for prop, values in before.items():
        assert set(after[prop]) <= set(values)
        if 2 * max(values.values()) <= values.total():
            assert after[prop] == values
        for at, (old, new) in enumerate(zip(triples, copy.triples, strict=True)):
            if old.property == prop:
                assert (old.value == new.value) == (at in copy.kept) == (len(values) == 1)


@given(KBS, st.integers(0, 5))
def test_no_triple_gets_a_value_that_is_true_of_its_name(triples, seed):
    copy = counterfactual(Random(seed), triples)
    true = {(t.name, t.property, t.value) for t in triples}
    for at, new in enumerate(copy.triples):
        assert ((new.name, new.property, new.value) in true) == (at in copy.kept)
    for at in copy.kept:  # only where every value of the property is true of the name
        old = triples[at]
        assert all((old.name, old.property, value) in true for value in by_property(triples)[old.property])
    missing = sum((by_property(triples)[p] - c).total() for p, c in by_property(copy.triples).items())
    assert missing <= len(copy.borrowed)


@given(KBS)
def test_the_seed_decides(triples):
    assert counterfactual(Random(3), triples) == counterfactual(Random(3), iter(triples))


def test_seeds_differ_and_metadata_stays():
    triples = [Triple(f"Name {i}", "code", f"value {i}", {"source": i}) for i in range(50)]
    one, other = counterfactual(Random(0), triples), counterfactual(Random(1), triples)
    assert one.triples != other.triples and not one.kept and not one.borrowed
    assert [t.metadata for t in one.triples] == [t.metadata for t in triples]
    assert by_property(one.triples) == by_property(triples)


def test_case_and_spacing_make_no_other_value():
    copy = counterfactual(Random(0), [Triple("a", "seat", "Berlin"), Triple("b", "seat", "BERLIN")])
    assert copy.kept == (0, 1) and [t.value for t in copy.triples] == ["Berlin", "BERLIN"]


def test_a_value_of_the_majority_is_borrowed():
    triples = [Triple(f"n{i}", "open", "no" if i == 7 else "yes") for i in range(10)]
    copy = counterfactual(Random(0), triples)
    assert [t.value for t in copy.triples] == ["no"] * 7 + ["yes"] + ["no"] * 2
    assert len(copy.borrowed) == 8 and not copy.kept


def test_another_of_several_values_is_no_counterfactual():
    triples = [Triple("WHO", "member", m) for m in ("Chad", "Peru")] + [
        Triple("ESA", "member", m) for m in ("Spain", "Italy")
    ]
    for seed in range(10):
        copy = counterfactual(Random(seed), triples)
        assert {t.value for t in copy.triples[:2]} == {"Spain", "Italy"}
    assert counterfactual(Random(0), triples[:2]).kept == (0, 1)


def test_equal_values_do_not_move_together():
    triples = [Triple(f"n{i}", "continent", "ABCD"[i % 4]) for i in range(200)]
    new = counterfactual(Random(0), triples).triples
    assert len({(old.value, new.value) for old, new in zip(triples, new, strict=True)}) == 12


def test_nothing_gives_nothing():
    assert counterfactual(Random(0), []).triples == ()
