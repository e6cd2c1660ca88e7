"""Gates: which triples open, when the null triple wins, and that nothing is half a refusal."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kblam_engine.gating import OPEN_FLOOR, decide
from kblam_engine.native_layout import MIN_LOG_GATE


def log_odds(*probabilities):
    p = np.array(probabilities)
    return np.log(p / (1 - p)).astype(np.float32)


def test_probable_triples_open_and_the_others_shut():
    gates = decide(log_odds(0.97, 0.7, 0.2), 0.5)
    assert not gates.refused
    assert gates.null == MIN_LOG_GATE
    assert gates.confidence == pytest.approx(0.97, abs=1e-4)
    assert (gates.triples[:2] >= OPEN_FLOOR).all() and gates.triples[2] == MIN_LOG_GATE
    assert gates.n_open == 2
    assert gates.triples.dtype == np.float32


def test_the_second_triple_of_a_question_for_two_has_to_pass_less():
    odds = log_odds(0.9, 0.3, 0.25)
    assert decide(odds, 0.5).n_open == 1
    both = decide(odds, 0.5, n_asked=2)
    assert both.n_open == 2 and both.triples[1] >= OPEN_FLOOR and not both.refused
    assert decide(log_odds(0.9, 0.15), 0.5, n_asked=2).n_open == 1
    assert decide(log_odds(0.9, 0.8, 0.7), 0.5, n_asked=2).n_open == 3  # what is probable opens whatever was asked for
    assert decide(log_odds(0.9), 0.5, n_asked=2).n_open == 1


def test_a_question_for_two_is_refused_as_any_other():
    assert decide(log_odds(0.45, 0.4), 0.5, n_asked=2).refused


def test_without_a_probable_triple_it_refuses():
    gates = decide(log_odds(0.4, 0.3), 0.5)
    assert gates.refused
    assert (gates.triples == MIN_LOG_GATE).all() and gates.null > OPEN_FLOOR
    assert gates.n_open == 0
    assert gates.confidence == pytest.approx(0.4, abs=1e-4)


def test_without_triples_it_refuses():
    gates = decide(np.zeros(0, np.float32), 0.5)
    assert gates.refused and gates.confidence == 0.0 and gates.null == 0.0
    assert len(gates.triples) == gates.n_open == 0


@pytest.mark.parametrize("p", [0.1, 0.49, 0.51, 0.9])
def test_threshold_moves_the_decision_and_not_the_confidence(p):
    for threshold in (0.05, 0.5, 0.95):
        gates = decide(log_odds(p), threshold)
        assert gates.refused == (p < threshold)
        assert gates.confidence == pytest.approx(p, abs=1e-4)


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8),
    st.floats(0.001, 0.999),
)
def test_gates_are_in_range_and_in_order_for_any_evidence(odds, threshold):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gates = decide(np.array(sorted(odds, reverse=True), np.float32), threshold)
    assert np.isfinite(gates.triples).all()
    assert (gates.triples <= 0).all() and (gates.triples >= MIN_LOG_GATE).all()
    assert (np.diff(gates.triples) <= 0).all()
    assert not ((gates.triples > MIN_LOG_GATE) & (gates.triples < OPEN_FLOOR)).any(), "ajar"
    assert gates.refused == (gates.n_open == 0)
    assert (gates.triples[: gates.n_open] >= OPEN_FLOOR).all(), "open triples come first"
    assert 0.0 <= gates.confidence <= 1.0
