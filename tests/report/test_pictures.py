"""What the pictures of a report draw."""

import numpy as np

from ssd_mining.analysis.histogram import LossHistogram
from ssd_mining.analysis.one_pass import bins_of
from ssd_mining.kernels.records import BINS
from ssd_mining.report.pictures import density_of


def test_smooth_data_are_drawn_smooth():
    losses = np.exp(np.random.default_rng(0).uniform(np.log(1 / 64), np.log(16), 400_000))  # as many in every octave
    counts = np.bincount(bins_of(losses), minlength=BINS)
    edges, counts = LossHistogram.of(counts, losses.min(), losses.max()).log_bins()
    density = density_of(edges, counts)
    assert counts.max() > 1.5 * counts.min()  # the saw
    np.testing.assert_allclose(density, 40_000, rtol=0.05)
