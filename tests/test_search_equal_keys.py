"""Keys that are equal or nearly so: counted as equally right, and built into a tree without comparing them over and over."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kblam_engine.search import clustering, tree_growth
from kblam_engine.search.clustering import many_centres, nearest_centres, parts_of
from kblam_engine.search.equal_keys import distinct, fingerprints, large_groups
from kblam_engine.search.exact import scan
from kblam_engine.search.interface import Found, nothing
from kblam_engine.search.recall import K, fitting_beam, recall_of, sample_queries
from kblam_engine.search.tree import Beam
from kblam_engine.search.tree_growth import LARGEST, grow, with_slots

DIM = 48


def unit(n, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def found_of(at, scores):
    return Found(np.array([at]), np.array([scores], np.float32), np.zeros(1, np.float32))


def slots_of(tree):
    return np.sort(np.concatenate([tree.members(c) for c in range(len(tree.inters))]))


def test_recall_is_by_score_so_equal_keys_are_equally_right():
    truth = found_of([1, 2, 3, 4], [0.9, 0.8, 0.5, 0.5])
    assert recall_of(found_of([1, 2, 9, 8], [0.9, 0.8, 0.5, 0.5]), truth) == 1
    assert recall_of(found_of([1, 2, 9, 7], [0.9, 0.8, 0.5, 0.49]), truth) == 0.75
    # Neither what comes twice nor what is not there is found.
    assert recall_of(found_of([1, 1, 1, 1], [0.9] * 4), truth) == 0.25
    assert recall_of(found_of([1, -1, -1, -1], [0.9, *[-np.inf] * 3]), truth) == 0.25
    assert recall_of(nothing(1, 4), truth) == 0


def test_recall_is_of_what_there_is_to_find():
    few = found_of([5, 6, -1, -1], [0.4, 0.3, -np.inf, -np.inf])
    assert recall_of(few, few) == 1 and recall_of(found_of([5, -1], [0.4, -np.inf]), few) == 0.5
    assert recall_of(nothing(1, 4), nothing(1, 4)) == 1
    both = Found(*(np.concatenate([getattr(a, name) for a in (few, nothing(1, 4))]) for name in Found.__slots__))
    assert recall_of(both, both) == 1


def test_fingerprints_are_equal_for_equal_keys_alone(monkeypatch):
    monkeypatch.setattr("kblam_engine.search.equal_keys._CHUNK", 7)
    keys = unit(40)[np.random.default_rng(1).integers(40, size=300)]
    prints = fingerprints(keys, np.arange(300))
    same = (keys[:, None] == keys[None]).all(2)
    np.testing.assert_array_equal(prints[:, None] == prints[None], same)
    chosen = np.arange(5, 300, 3)
    np.testing.assert_array_equal(fingerprints(keys, chosen), prints[chosen])
    first = distinct(keys, chosen)
    assert len(first) == len(np.unique(prints[chosen])) and (np.diff(first) > 0).all() and np.isin(first, chosen).all()
    groups, others = large_groups(prints, 8)
    assert sorted([*np.concatenate(groups).tolist(), *others.tolist()]) == list(range(300))
    assert groups and all(len(group) > 8 and len(set(prints[group].tolist())) == 1 for group in groups)
    assert np.unique(prints[others], return_counts=True)[1].max() <= 8


@pytest.mark.parametrize(("n_others", "n_equal"), [(3_000, 3_000), (500, 6_000), (0, 2_000)])
def test_equal_keys_are_cut_into_parts_like_any_others(n_others, n_equal):
    keys = np.concatenate([unit(n_others), np.repeat(unit(1, seed=5), n_equal, 0)])
    keys = keys[np.random.default_rng(2).permutation(len(keys))]
    tree = replace(grow(keys), beam=Beam(12, 60))
    np.testing.assert_array_equal(slots_of(tree), np.arange(len(keys)))
    assert tree.inters.sizes.max() <= LARGEST * len(keys) / tree_growth.shape_of(len(keys))[1] * 2
    queries = sample_queries(keys, 30)
    assert recall_of(tree.search(queries, 8), scan(keys, queries, 8)) > 0.8


def test_building_compares_equal_keys_with_few_centres(monkeypatch):
    """Half of the keys are equal: one cluster, that k-means would be asked to cut into thousands."""
    compared = []
    real = clustering.nearest_centres
    counting = lambda rows, centres: compared.append(len(rows) * len(centres)) or real(rows, centres)  # noqa: E731
    monkeypatch.setattr(clustering, "nearest_centres", counting)
    monkeypatch.setattr(tree_growth, "nearest_centres", counting)
    n = 8_000
    grow(unit(n))
    distinct_ones = sum(compared)
    compared.clear()
    grow(np.concatenate([unit(n // 2), np.repeat(unit(1, seed=5), n // 2, 0)]))
    assert sum(compared) < distinct_ones


def test_where_every_key_has_many_equals_the_beam_stays_narrow():
    """A hundred users with the same settings."""
    keys = np.tile(unit(100), (120, 1))
    tree = grow(keys)
    assert len(tree.inters) >= 4 * 100 and tree.inters.sizes.max() <= 60
    queries = sample_queries(keys, 50)
    truth = scan(keys, queries, K)
    tree = replace(tree, beam=fitting_beam(tree, queries, truth))
    assert tree.beam.inters < len(tree.inters) / 2
    assert recall_of(tree.search(queries, K), truth) > 0.95


def test_directions_are_found_from_one_of_each_kind():
    """Of 5,000 keys 4,000 are equal: nearly all that the keys hold lies along one direction."""
    keys = np.concatenate([unit(1_000), np.repeat(unit(1, seed=5), 4_000, 0)])
    assert grow(keys).coarse.n_directions == grow(unit(1_000)).coarse.n_directions > DIM / 2


def test_equal_keys_that_come_later_are_cut_into_parts():
    keys = unit(3_000)
    tree = grow(keys)
    more = np.concatenate([keys, np.repeat(keys[:2], 1_000, 0)])
    grown = with_slots(tree, more, len(more))
    np.testing.assert_array_equal(slots_of(grown), np.arange(len(more)))
    assert grown.inters.sizes.max() <= LARGEST * max(8, grown.inters.sizes.mean())
    np.testing.assert_array_equal(grown.inters.sizes, [len(grown.members(c)) for c in range(len(grown.inters))])
    means = [grown.coarse.project(more[grown.members(c)]).mean(0) for c in range(len(grown.inters))]
    assert np.abs(grown.coarse.decoded(grown.inters.means) - means).max() < 1.5 * grown.coarse.steps.max()
    assert len(grown.root_of) == len(grown.begins) == len(grown.ends) == len(grown.inters)


def test_nearly_equal_rows_are_cut_into_parts_in_steps(monkeypatch):
    monkeypatch.setattr(clustering, "WIDEST", 8)
    rows = torch.from_numpy(np.repeat(unit(1), 2_000, 0).astype(np.float32))
    rows += 1e-7 * torch.arange(2_000)[:, None]
    for some in (rows, torch.from_numpy(unit(2_000).astype(np.float32))):
        parts = parts_of(some, 10)
        assert sorted(torch.cat(parts).tolist()) == list(range(2_000))
        assert 1 <= min(map(len, parts)) and max(map(len, parts)) <= 20 and len(parts) < 1_000


def test_many_centres_are_about_as_near_as_those_found_at_once(monkeypatch):
    rows = torch.from_numpy(unit(3_000).astype(np.float32))
    at_once = nearest_centres(rows, many_centres(rows, 300))[1].mean()
    monkeypatch.setattr(clustering, "WIDEST", 20)
    centres = many_centres(rows, 300)
    assert 250 < len(centres) < 350
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(len(centres)))
    assert nearest_centres(rows, centres)[1].mean() > 0.9 * at_once


def test_rows_that_are_one_and_the_same_give_some_of_themselves(monkeypatch):
    monkeypatch.setattr(clustering, "WIDEST", 20)
    rows = torch.from_numpy(np.repeat(unit(1), 500, 0)).float()
    centres = many_centres(rows, 100)
    assert 50 <= len(centres) <= 150 and (nearest_centres(rows, centres)[1] > 0.99).all()


def test_scores_that_are_in_memory_at_once_are_bounded(monkeypatch):
    rows, centres = torch.from_numpy(unit(500)).float(), torch.from_numpy(unit(90, seed=2)).float()
    labels, scores = nearest_centres(rows, centres)
    monkeypatch.setattr(clustering, "_SCORES", 1_000)
    again, same = nearest_centres(rows, centres)
    assert torch.equal(labels, again)
    torch.testing.assert_close(scores, same)
