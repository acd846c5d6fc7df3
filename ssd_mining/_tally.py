"""The plain records that a kernel fills for an analysis."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Tally(NamedTuple):
    """What a kernel writes about the losses of a block that was mined with masks.

    A span is a stretch of anchors on the one axis of the rows: a sample, or what it has of a feature map.
    """

    tables: NDArray[
        np.int64
    ]  # (workers, 65536, t) negatives by the upper half of their float32: add up what is there
    num_neg: NDArray[np.int64]  # (s,) negatives of every span; -1: not done
    places: NDArray[np.int64]  # (m,) positives and kept negatives, in the order of the anchors


class Swept(NamedTuple):
    """What a kernel writes about b samples under each of R ratios."""

    num_kept: NDArray[Any]  # (b, R) int64
    sums: NDArray[Any]  # (b, R) float64 of the losses of the kept negatives
    threshold: NDArray[Any]  # (b, R) float64 loss of the easiest of them; NaN where none is kept
    done: NDArray[np.int64]  # (b,) 1 once the sample is written
