"""How far candidates are ahead of each other."""

import numpy as np

from kblam_engine.leads import leads_among_siblings, leads_of_names


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
