"""Products on torch's threads are the products."""

import warnings

import numpy as np
import pytest

from kblam_engine.products import product

draws = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(7, 5), (5,)], ids=["matrix", "vector"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_products_are_those_of_numpy(shape, dtype):
    a = draws.standard_normal((9, shape[0] if len(shape) == 2 else 5)).astype(dtype)
    b = draws.standard_normal(shape).astype(np.float32)
    found = product(a, b)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, a.astype(np.float32) @ b, rtol=1e-5, atol=1e-6)


def test_read_only_arrays_are_taken_quietly():
    a = np.ones((2, 3), np.float32)
    a.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(product(a, a.T), np.full((2, 2), 3.0))


def test_slices_and_nothing():
    a = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(product(a[::2, ::3], a[:2, 0]), a[::2, ::3] @ a[:2, 0])
    assert product(a[:0], a.T).shape == (0, 4)
