"""Scoring every key, and putting partial results together."""

import numpy as np
import pytest

from kblam_engine.products import product_of_rows
from kblam_engine.search import exact
from kblam_engine.search.interface import log_sum_exp, merged, nothing, top_of


def unit(rng, n, dim=32):
    rows = rng.standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def keys():
    return unit(np.random.default_rng(1), 3_000).astype(np.float16)


@pytest.fixture
def queries():
    return unit(np.random.default_rng(2), 3)


def naive(keys, queries, k, alive=None):
    scores = queries.astype(np.float64) @ keys.astype(np.float64).T
    if alive is not None:
        scores[:, ~alive] = -np.inf
    return np.argsort(-scores, axis=1)[:, :k], np.sort(scores, axis=1)[:, ::-1][:, :k], np.log(np.exp(scores).sum(1))


def test_products_of_rows_are_the_products(keys, queries):
    np.testing.assert_allclose(product_of_rows(keys, queries.T), keys.astype(np.float32) @ queries.T, atol=1e-5)
    assert product_of_rows(keys[:0], queries.T).shape == (0, 3)


@pytest.mark.parametrize("chunk", [100, 1_000, 65_536])
def test_a_scan_in_chunks_finds_what_sorting_every_score_finds(keys, queries, chunk, monkeypatch):
    monkeypatch.setattr(exact, "CHUNK", chunk)
    at, scores, log_normaliser = naive(keys, queries, 16)
    found = exact.scan(keys, queries, 16)
    np.testing.assert_array_equal(found.at, at)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    np.testing.assert_allclose(found.log_normaliser, log_normaliser, atol=1e-4)


def test_keys_that_do_not_count_are_neither_found_nor_in_the_normaliser(keys, queries):
    alive = np.arange(len(keys)) % 3 == 0
    at, scores, log_normaliser = naive(keys, queries, 5, alive)
    found = exact.ExactIndex(keys).search(queries, 5, alive)
    np.testing.assert_array_equal(found.at, at)
    np.testing.assert_allclose(found.log_normaliser, log_normaliser, atol=1e-4)
    assert found.scores.dtype == np.float32 and found.at.dtype == np.int64


def test_fewer_keys_than_asked_for_leave_room(keys, queries):
    found = exact.scan(keys[:4], queries, 6)
    assert (found.at[:, 4:] == -1).all() and np.isneginf(found.scores[:, 4:]).all()
    assert sorted(found.at[0, :4]) == [0, 1, 2, 3]
    none = exact.scan(keys[:4], queries, 6, np.zeros(4, bool))
    assert (none.at == -1).all() and np.isneginf(none.log_normaliser).all()


def test_no_keys_find_nothing(keys, queries):
    empty = exact.scan(keys[:0], queries, 4)
    assert empty.at.shape == (3, 4) and (empty.at == -1).all() and np.isneginf(empty.log_normaliser).all()


def test_parts_merge_to_the_whole_in_any_order(keys, queries):
    scores = keys.astype(np.float32) @ queries.T
    parts = [top_of(scores[i : i + 700], 9, np.arange(i, min(i + 700, len(keys)))) for i in range(0, len(keys), 700)]
    whole = top_of(scores, 9)
    for some in (parts, parts[::-1], [*parts, nothing(3, 9)]):
        joined = merged(some, 9)
        np.testing.assert_array_equal(joined.at, whole.at)
        np.testing.assert_allclose(joined.log_normaliser, whole.log_normaliser, rtol=1e-6)


def test_equal_scores_are_in_the_order_of_the_keys(queries):
    same = np.repeat(queries[:1].astype(np.float16), 50, 0)
    np.testing.assert_array_equal(np.sort(exact.scan(same, queries[:1], 50).at[0]), np.arange(50))
    assert (np.diff(exact.scan(same, queries[:1], 50).at[0]) > 0).all()


def test_log_sum_exp_does_not_overflow():
    assert log_sum_exp(np.array([[1000.0, 1000.0]], np.float32))[0] == pytest.approx(1000 + np.log(2))
    assert np.isneginf(log_sum_exp(np.full((1, 2), -np.inf, np.float32))[0])
