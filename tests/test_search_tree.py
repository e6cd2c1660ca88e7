"""The tree over keys: clusters, search, growth, and its agreement with scoring every key."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kblam_engine.errors import ConfigurationError
from kblam_engine.search import recall as recall_module
from kblam_engine.search.clustering import nearest_centres, parts_of, spherical_kmeans
from kblam_engine.search.exact import scan
from kblam_engine.search.recall import ROOTS, beam_of, fitting_beam, sample_queries
from kblam_engine.search.tree import Beam
from kblam_engine.search.tree_growth import LARGEST, grow, shape_of, with_slots

DIM = 32
ALL = Beam(10_000, 10_000)


def clustered(n, seed=0, n_themes=40, spread=0.5):
    """Return keys around themes, as those of real properties and names are."""
    rng = np.random.default_rng(seed)
    themes = np.random.default_rng(99).standard_normal((n_themes, DIM))
    rows = themes[rng.integers(n_themes, size=n)] + spread * rng.standard_normal((n, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def queries_near(keys, n=50, seed=3):
    rng = np.random.default_rng(seed)
    rows = keys[rng.integers(len(keys), size=n)] + 0.1 * rng.standard_normal((n, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def queries_far(n=100, seed=3):
    """Return queries in any direction: their best keys are here and there."""
    rows = np.random.default_rng(seed).standard_normal((n, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def recall(found, truth):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.at.tolist(), truth.at.tolist(), strict=True)])


@pytest.fixture(scope="module")
def keys():
    return clustered(2_500)


@pytest.fixture(scope="module")
def tree(keys):
    return grow(keys)


def test_centres_are_unit_vectors_and_the_same_for_the_same_seed(keys):
    rows = torch.from_numpy(keys)
    centres = spherical_kmeans(rows, 40, seed=5)
    assert centres.shape == (40, DIM)
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(40))
    assert torch.equal(centres, spherical_kmeans(rows, 40, seed=5))
    assert not torch.equal(centres, spherical_kmeans(rows, 40, seed=6))


def test_clustering_finds_well_separated_themes():
    keys = torch.from_numpy(clustered(2_000, n_themes=5, spread=0.02))
    labels, scores = nearest_centres(keys, spherical_kmeans(keys, 20))
    assert scores.min() > 0.95
    assert len(torch.unique(labels)) <= 20


def test_more_clusters_than_rows_are_cut(keys):
    assert len(spherical_kmeans(torch.from_numpy(keys[:3]), 10)) == 3


@pytest.mark.parametrize("rows", [clustered(400, n_themes=3), np.repeat(clustered(1), 400, 0)])
def test_no_part_has_more_than_twice_its_share(rows):
    parts = parts_of(torch.from_numpy(rows), 50)
    assert sorted(torch.cat(parts).tolist()) == list(range(400))
    assert 1 <= min(map(len, parts)) and max(map(len, parts)) <= 2 * 50


def test_every_key_is_in_one_cluster(tree, keys):
    slots = np.concatenate([tree.members(c) for c in range(len(tree.inters))])
    np.testing.assert_array_equal(np.sort(slots), np.arange(len(keys)))
    whole, leaves = keys[tree.leaf_slots].astype(np.float32), tree.leaves * tree.coarse.steps @ tree.coarse.directions.T
    assert np.linalg.norm(whole - leaves, axis=1).max() < 0.35 and tree.leaves.dtype == np.int8
    assert tree.roots.sizes.sum() == tree.inters.sizes.sum() == len(keys)
    assert tree.inters.sizes.max() <= LARGEST * max(8, tree.inters.sizes.mean())


def test_the_tree_has_the_shape_of_a_cube_root():
    assert shape_of(1_000_000) == (800, 40_000) and shape_of(1) == (1, 1)


def test_a_beam_over_everything_is_the_dense_search(tree, keys):
    queries = queries_near(keys)
    found, truth = replace(tree, beam=ALL).search(queries, 16), scan(keys, queries, 16)
    np.testing.assert_array_equal(found.at, truth.at)
    np.testing.assert_allclose(found.scores, truth.scores, atol=1e-6)
    np.testing.assert_allclose(found.log_normaliser, truth.log_normaliser, atol=1e-5)


def test_a_narrow_beam_finds_most_and_shifts_no_logit(tree, keys):
    queries = queries_near(keys)
    found, truth = replace(tree, beam=Beam(4, 24)).search(queries, 10), scan(keys, queries, 10)
    assert recall(found, truth) > 0.9
    assert np.abs(found.log_normaliser - truth.log_normaliser).max() < 0.1
    # Leaving out what the beam passes by would shift every logit by the log of the share that was looked at.
    sharp = 8.0
    pruned, dense = (s.log_normaliser for s in (replace(tree, beam=Beam(4, 24)).search(sharp * queries, 1),
                                                scan(keys, sharp * queries, 1)))
    assert np.abs(pruned - dense).max() < 1.0


def test_a_wider_beam_finds_more(tree, keys):
    queries, truth = queries_far(), scan(keys, queries_far(), 2)
    found = [recall(replace(tree, beam=Beam(r, i)).search(queries, 2), truth) for r, i in ((1, 8), (4, 16), (16, 250))]
    assert found == sorted(found) and found[0] < 0.9 < found[-1]


def test_removed_keys_are_not_found(tree, keys):
    queries = queries_near(keys)
    alive = np.ones(len(keys), bool)
    alive[scan(keys, queries, 4).at.ravel()] = False
    found, truth = replace(tree, beam=ALL).search(queries, 8, alive), scan(keys, queries, 8, alive)
    np.testing.assert_array_equal(found.at, truth.at)


def test_added_keys_are_found_and_the_tree_before_stays_as_it_was(tree, keys):
    more = np.concatenate([keys, clustered(1_500, seed=8)])
    before = tree.members(0).copy()
    grown = with_slots(tree, more, len(more))
    queries = queries_near(more[len(keys) :])
    assert recall(replace(grown, beam=Beam(8, 40)).search(queries, 10), scan(more, queries, 10)) > 0.9
    found, truth = replace(grown, beam=ALL).search(queries, 16), scan(more, queries, 16)
    np.testing.assert_array_equal(found.at, truth.at)
    np.testing.assert_allclose(found.log_normaliser, truth.log_normaliser, atol=1e-5)
    assert tree.n_slots == len(keys) and not tree.loose
    np.testing.assert_array_equal(tree.members(0), before)


def test_keys_added_in_one_place_split_that_cluster_alone(tree, keys):
    spot = np.repeat(keys[:1], 900, 0).astype(np.float32)
    spot += 0.05 * np.random.default_rng(4).standard_normal(spot.shape)
    spot = (spot / np.linalg.norm(spot, axis=1, keepdims=True)).astype(np.float16)
    more = np.concatenate([keys, spot])
    grown = with_slots(tree, more, len(more))
    assert len(grown.inters) > len(tree.inters)
    assert grown.inters.sizes.max() <= LARGEST * max(8, grown.inters.sizes.mean())
    assert 0 < np.count_nonzero(grown.ends[: len(tree.ends)] != tree.ends) < 10
    slots = np.concatenate([grown.members(c) for c in range(len(grown.inters))])
    np.testing.assert_array_equal(np.sort(slots), np.arange(len(more)))
    found, truth = replace(grown, beam=ALL).search(queries_near(spot), 5), scan(more, queries_near(spot), 5)
    np.testing.assert_array_equal(found.at, truth.at)


def test_equal_keys_do_not_make_one_endless_cluster():
    keys = np.concatenate([np.repeat(clustered(1), 1_000, 0), clustered(500)])
    tree = grow(keys)
    assert tree.inters.sizes.max() <= LARGEST * max(8, tree.inters.sizes.mean()) * 2


@pytest.mark.parametrize("n", [1, 2, 9])
def test_a_few_keys_make_a_tree(n):
    keys = clustered(n)
    found = grow(keys).search(queries_near(keys, 2), 4)
    assert sorted(found.at[0, : min(n, 4)]) == sorted(scan(keys, queries_near(keys, 2), 4).at[0, : min(n, 4)])


def test_a_beam_follows_at_least_one():
    with pytest.raises(ConfigurationError, match="beam"):
        Beam(0, 1)


def test_centres_are_the_means_of_their_keys_also_of_those_added_later(tree, keys):
    more = np.concatenate([keys, clustered(1_500, seed=8)])
    for some, rows in ((tree, keys), (with_slots(tree, more, len(more)), more)):
        projected = some.coarse.project(rows)
        means = np.stack([projected[some.members(c)].mean(0) for c in range(len(some.inters))])
        # A mean of codes is as near as a code: half a step. Codes of later keys may end before the key does.
        assert np.abs(some.coarse.decoded(some.inters.means) - means).max() < 1.5 * some.coarse.steps.max()
        np.testing.assert_allclose(some.inters.lengths, np.linalg.norm(means, axis=1), atol=0.01)
        np.testing.assert_array_equal(some.inters.sizes, [len(some.members(c)) for c in range(len(some.inters))])
        assert some.inters.means.dtype == np.int8


def test_scores_of_centres_are_those_of_their_directions(tree, keys):
    query = queries_near(keys, 1)[0]
    means = tree.coarse.decoded(tree.inters.means)
    expected = means @ tree.coarse.project(query[None])[0] / np.linalg.norm(means, axis=1)
    found = tree.inters.scores(tree.coarse.against_codes(tree.coarse.project(query[None])[0]))
    np.testing.assert_allclose(found, expected, atol=0.01)
    some = np.array([3, 0, 7])
    np.testing.assert_allclose(
        tree.inters.scores(tree.coarse.against_codes(tree.coarse.project(query[None])[0]), some), found[some], atol=1e-6
    )


def test_a_fitting_beam_finds_its_share_and_a_narrower_one_does_not(tree, keys, monkeypatch):
    widths = (8, 16, 32, 64)
    monkeypatch.setattr(recall_module, "INTERS", widths)
    queries = queries_far()
    truth = scan(keys, queries, 2)
    fitting = [fitting_beam(tree, queries, truth, goal) for goal in (0.9, 0.99)]
    for goal, beam in zip((0.9, 0.99), fitting, strict=True):
        assert recall(replace(tree, beam=beam).search(queries, 2), truth) >= goal
        narrower = beam_of(ROOTS[-1], widths[widths.index(beam.inters) - 1])
        assert recall(replace(tree, beam=narrower).search(queries, 2), truth) < goal
    assert 8 < fitting[0].inters < fitting[1].inters < 64
    assert fitting_beam(tree, queries, truth, 1.1) == beam_of(ROOTS[-1], 64)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_damaged_key_spoils_nothing_but_itself(keys, bad):
    damaged = keys.copy()
    damaged[[7, 90]] = bad
    alive = ~np.isin(np.arange(len(keys)), [7, 90])
    queries = queries_near(keys)
    truth = scan(keys, queries, 10, alive)
    for beam in (Beam(16, 100), ALL):
        found = grow(damaged, beam=beam).search(queries, 10)
        assert recall(found, truth) > 0.98 and not np.isin(found.at, [7, 90]).any()
        assert np.abs(found.log_normaliser - truth.log_normaliser).max() < 0.1
    more = np.concatenate([damaged, np.full((50, DIM), bad, np.float16)])
    grown = with_slots(grow(damaged, beam=Beam(16, 100)), more, len(more))
    assert recall(grown.search(queries, 10), truth) > 0.95
    assert np.isfinite(grown.inters.lengths).all() and np.isfinite(sample_queries(more, 50)).all()
