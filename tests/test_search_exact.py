"""Scoring every key, and putting partial results together."""

import tracemalloc

import numpy as np
import pytest

from kblam_engine.knowledge_base.rows import SelectedRows, selected
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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_damaged_key_is_neither_found_nor_in_the_normaliser(keys, queries, bad):
    damaged = keys.copy()
    damaged[7], damaged[8, 3] = bad, bad
    alive = ~np.isin(np.arange(len(keys)), [7, 8])
    found, without = exact.scan(damaged, queries, 16), exact.scan(keys, queries, 16, alive)
    np.testing.assert_array_equal(found.at, without.at)
    np.testing.assert_allclose(found.log_normaliser, without.log_normaliser, rtol=1e-6)
    assert np.isneginf(exact.score_some(damaged, queries[0], np.array([7, 8]))).all()


def test_a_query_of_nan_finds_nothing(keys, queries):
    found = exact.scan(keys, queries * np.nan, 4)
    assert (found.at == -1).all() and np.isneginf(found.scores).all() and np.isneginf(found.log_normaliser).all()


def test_a_choice_of_keys_is_scanned_like_a_copy_of_them(keys, queries, monkeypatch):
    monkeypatch.setattr(exact, "CHUNK", 1_000)
    positions = np.random.default_rng(4).permutation(len(keys))[:2_500]
    chosen = selected(keys, positions)
    assert isinstance(chosen, SelectedRows)
    found, truth = exact.scan(chosen, queries, 9), exact.scan(keys[positions], queries, 9)
    np.testing.assert_array_equal(found.at, truth.at)
    np.testing.assert_allclose(found.log_normaliser, truth.log_normaliser, rtol=1e-6)


def test_a_scan_of_a_choice_takes_little_memory():
    rows = np.ones((70_000, 128), np.float16)
    chosen = selected(rows, np.arange(1, len(rows)))
    tracemalloc.start()
    exact.scan(chosen, np.ones((2, 128), np.float32), 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6  # of 18 MB
