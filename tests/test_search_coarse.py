"""Keys in a few bytes: which directions are kept, and how near codes come to keys."""

import numpy as np
import pytest

from kblam_engine.search.coarse import KEPT, Coarse

DIM = 64


def uneven(n, strong, seed=0):
    """Return unit keys that use `strong` of their dimensions much more than the others, in a frame turned by chance."""
    rng = np.random.default_rng(seed)
    frame = np.linalg.qr(np.random.default_rng(1).standard_normal((DIM, DIM)))[0]
    lengths = np.where(np.arange(DIM) < strong, 1.0, 0.05)
    rows = rng.standard_normal((n, DIM)) * lengths @ frame
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_the_directions_hold_the_share_of_the_keys_that_they_have_to():
    keys = uneven(3_000, strong=20)
    coarse = Coarse.of(keys)
    assert coarse.n_directions == 32  # 20 strong ones, in multiples of 16
    assert (coarse.project(keys) ** 2).sum() >= KEPT * (keys**2).sum()
    np.testing.assert_allclose(coarse.directions.T @ coarse.directions, np.eye(32), atol=1e-5)


def test_keys_without_a_preferred_direction_keep_nearly_all():
    assert Coarse.of(uneven(3_000, strong=DIM)).n_directions == DIM


@pytest.mark.parametrize("n_keys", [1, 5])
def test_a_few_keys_are_held_whole(n_keys):
    keys = uneven(n_keys, strong=DIM)
    coarse = Coarse.of(keys)
    back = coarse.codes(coarse.project(keys)) * coarse.steps @ coarse.directions.T
    np.testing.assert_allclose(back, keys, atol=0.1)


def test_scores_of_codes_are_near_those_of_keys_and_rank_the_best_first():
    keys, others = uneven(4_000, strong=20), uneven(50, strong=20, seed=7)
    coarse = Coarse.of(keys[:1_000])
    codes = coarse.codes(coarse.project(keys.astype(np.float16)))
    assert codes.dtype == np.int8 and codes.shape == (4_000, 32)
    exact = keys @ others.T
    coarsely = np.stack([codes @ coarse.against_codes(query) for query in coarse.project(others)], 1)
    assert np.abs(exact - coarsely).max() < 0.1
    best, shortlist = np.argsort(-exact, 0)[:16], np.argsort(-coarsely, 0)[:64]
    found = [len(set(b) & set(s)) / 16 for b, s in zip(best.T.tolist(), shortlist.T.tolist(), strict=True)]
    assert np.mean(found) > 0.98


def test_keys_beyond_those_seen_are_cut_to_the_largest_code():
    keys = uneven(500, strong=20)
    coarse = Coarse.of(keys)
    assert np.abs(coarse.codes(coarse.project(10 * keys)).astype(int)).max() == 127


def test_keys_of_nothing_but_zeros_do_no_harm():
    coarse = Coarse.of(np.zeros((8, DIM), np.float32))
    assert not coarse.codes(coarse.project(np.zeros((2, DIM), np.float32))).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_damaged_key_has_no_coordinates_and_changes_no_direction(bad):
    keys = uneven(500, strong=20)
    damaged = keys.copy()
    damaged[[3, 40]] = 0
    expected = Coarse.of(damaged)
    damaged[3], damaged[40, 1] = bad, bad
    coarse = Coarse.of(damaged)
    np.testing.assert_array_equal(coarse.directions, expected.directions)
    np.testing.assert_array_equal(coarse.steps, expected.steps)
    projected = coarse.project(damaged)
    assert not projected[[3, 40]].any() and np.isfinite(projected).all()
    np.testing.assert_allclose(projected[:3], coarse.project(keys[:3]), atol=1e-6)
    assert np.isnan(damaged[3]).any() or np.isinf(damaged[3]).any()  # what is given stays as it is
