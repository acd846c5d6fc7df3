"""The plain record that a kernel fills for an analysis."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Histograms: of the negatives, at even and at odd places; of the others by their role; of the losses of samples.
EVEN, ODD, POSITIVES, KEPT, SAMPLES, TABLES = range(6)


class Tally(NamedTuple):
    """What a kernel writes about b samples, under each of R ratios; and what its workers count, block after block."""

    num_kept: NDArray[np.int64]  # (b, R)
    sums: NDArray[np.float64]  # (b, R) of the losses of the kept negatives
    threshold: NDArray[np.float64]  # (b, R) loss of the easiest of them; NaN where none is kept
    tables: NDArray[np.int64]  # (workers, TABLES, 65536) losses by the upper half of their float32: added to
    levels: NDArray[np.int64]  # (workers, L) negatives by feature map: added to
    anchors: NDArray[np.int64]  # (2, n) in their samples: the positives; the kept negatives
    losses: NDArray[Any]  # (2, n) of these anchors
    places: NDArray[np.int64]  # (workers, 2, 2) where both begin and end
