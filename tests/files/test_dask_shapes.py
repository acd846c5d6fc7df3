"""Dask arrays of which nobody knows the size yet: refused with the call that tells it."""

import numpy as np
import pytest

import ssd_mining as sm

pytestmark = pytest.mark.extra("dask")

LOSSES = np.random.default_rng(0).gamma(0.3, 1.0, (12, 50))
LABELS = (np.random.default_rng(1).random(LOSSES.shape) < 0.1).astype(np.uint8)


@pytest.mark.parametrize("unknown", ["both", "values", "labels"])
def test_chunks_of_unknown_sizes_are_refused_with_advice_that_helps(unknown):
    import dask.array as da

    import ssd_mining.dask as ours

    lazy = da.from_array(LOSSES, (4, -1)), da.from_array(LABELS, (4, -1))
    keep = lazy[0].sum(axis=1) > 0
    values, labels = (
        array[keep] if unknown in (name, "both") else array
        for name, array in zip(("values", "labels"), lazy, strict=True)
    )
    for function in (ours.mine_hard_negatives, ours.analyse):
        with pytest.raises(ValueError, match=r"values: expected chunks of known sizes, .* compute_chunk_sizes\(\)"):
            function(values, labels, background=0)
    with pytest.raises(ValueError, match=r"sources: expected arrays of a known shape, .* compute_chunk_sizes\(\)"):
        sm.read_blocks(values, labels)
    for array in (values, labels):
        array.compute_chunk_sizes()
    got = ours.mine_hard_negatives(values, labels, background=0).num_kept.compute()
    np.testing.assert_array_equal(got, sm.confidence_loss(LOSSES, LABELS, background=0).num_kept)
