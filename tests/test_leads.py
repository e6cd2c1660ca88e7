"""How far candidates are ahead of each other."""

import numpy as np
import pytest

from kblam_engine.leads import best_of_others, leads_among_siblings, leads_of_names


@pytest.mark.parametrize("scores", [{}, {4: 0.5}, {4: -0.5, 2: -0.25}, {1: 0.5, 2: 0.75, 3: 0.75}, {1: 0.5, 2: 0.25, 3: 0.75}])
def test_the_best_of_the_others_is_that_of_every_other_one(scores):
    expected = {i: max((s for j, s in scores.items() if j != i), default=0.0) for i in scores}
    assert best_of_others(scores) == expected


def test_a_name_leads_by_its_best():
    assert leads_of_names([7, 3, 7, 5], [0.5, 0.75, 1.0, 0.25]) == {7: 0.25, 3: -0.25, 5: -0.75}
    assert leads_of_names([7, 7], [0.25, 0.5]) == {7: 0.5}


def test_siblings_are_compared_with_their_best_other():
    rng = np.random.default_rng(0)
    names = rng.integers(0, 6, 30).tolist()
    scores = rng.integers(0, 4, (30, 3)).astype(np.float32)  # with equals among them
    leads, n_others = leads_among_siblings(names, scores)
    for at, name in enumerate(names):
        others = [i for i, other in enumerate(names) if other == name and i != at]
        assert n_others[at] == len(others)
        expected = scores[at] - scores[others].max(0) if others else scores[at]
        np.testing.assert_array_equal(leads[at], expected)
