"""The plain records that all twins share: what a kernel reads, what it obeys, and what it writes.

A driver takes the fields of its records one by one, in this order: Numba unpacks a named tuple by Python, at ten times
the cost of a plain argument.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# A number of any type, or outside a kernel an array of them.
Scalar = Any

# What an anchor is. The CUDA twin counts on it that the keys of ranks are larger than IGNORED and POSITIVE.
IGNORED, POSITIVE, NEGATIVE, BAD = 0, 1, 2, 255

# The places of `Rows.codes`: the labels of negatives and of ignored anchors, and the highest legal label.
BACKGROUND, IGNORED_LABEL, HIGHEST = range(3)


class Rows(NamedTuple):
    """Checked, C-contiguous, read-only rows of b samples with n anchors in all."""

    loss: NDArray[Any]  # (n,) float32 or float64, sample after sample
    rank: NDArray[Any]  # (n,), the dtype of loss; (0,): the loss itself
    labels: NDArray[Any]  # (n,) unsigned: the bits of the labels
    codes: NDArray[Any]  # (3,), the dtype of labels: BACKGROUND, IGNORED_LABEL, HIGHEST
    quotas: NDArray[np.int64]  # (b,) explicit quotas; (0,): the rule decides
    offsets: NDArray[np.int64]  # (b + 1,) sample i owns the anchors offsets[i] to offsets[i + 1]
    shortest: int  # anchors of the shortest sample
    longest: int  # anchors of the longest sample


class Rule(NamedTuple):
    """`Mining` as machine numbers: what decides how many negatives a sample keeps."""

    ratio: float
    round_up: bool
    extra: int
    min_negatives: int
    min_always: bool
    max_negatives: int
    omit_nan: bool

    @property
    def unbounded(self) -> "Rule":
        """The same rule without its least and its most."""
        return self._replace(min_negatives=0, max_negatives=np.iinfo(np.int64).max)


# The rows of the counts and of the sums in `Mined`.
NUM_POS, NUM_NEG, NUM_KEPT, NUM_NAN, NUM_BAD, DONE, NUM_COUNTS = range(7)
POSITIVE_SUM, NEGATIVE_SUM, THRESHOLD, NUM_SUMS = range(4)


class Mined(NamedTuple):
    """What mining writes: per sample, and per anchor where a mask is asked for.

    Few arrays with many rows: each array costs a call of one sample as much as a hundred anchors.
    """

    # (6, b) NUM_POS, NUM_NEG, NUM_KEPT: positives, negatives, kept negatives. NUM_NAN: anchors with NaN that are not
    # ignored by their label. NUM_BAD: labels out of range. DONE: 1 once the sample is written.
    counts: NDArray[np.int64]
    # (3, b) POSITIVE_SUM, NEGATIVE_SUM: of the losses of the positives and of the kept negatives. THRESHOLD: rank of
    # the easiest kept negative; NaN where nothing is kept.
    sums: NDArray[np.float64]
    pos_mask: NDArray[np.bool_]  # (n,), or (0,): not asked for
    hard_negative_mask: NDArray[np.bool_]  # (n,), or (0,): not asked for


class Tally(NamedTuple):
    """What an analysis writes beside `Mined`, under each of R ratios; its workers add to their own part of a table."""

    num_kept: NDArray[np.int64]  # (b, R)
    negative_sum: NDArray[np.float64]  # (b, R) of the losses of the kept negatives
    threshold: NDArray[np.float64]  # (b, R) loss of the easiest of them; NaN where none is kept
    tables: NDArray[np.int64]  # (workers, TABLES, BINS) losses by bin: added to
    levels: NDArray[np.int64]  # (workers, L) negatives by feature map: added to
    anchors: NDArray[np.int64]  # (2, n) in their samples: the positives; the kept negatives
    losses: NDArray[Any]  # (2, n) of these anchors
    places: NDArray[np.int64]  # (workers, 2, 2) where both begin and end


# Losses are counted by the upper half of their float32; every NaN in one bin.
BINS, NAN_BIN = 1 << 16, 0x7FC0

# Which losses a table counts: of negatives, at even and at odd places; of the others by their role; of samples.
EVEN, ODD, POSITIVES, KEPT, SAMPLES, TABLES = range(6)


class SoftmaxRule(NamedTuple):
    """`Softmax` as machine numbers."""

    smoothing: float
    most: float  # what a class can cost at most, in nats
    excluded: int  # -1; or a class: the largest of all others stands in for the label


class SigmoidRule(NamedTuple):
    """`Sigmoid` and `Focal` as machine numbers."""

    positive: float
    negative: float
    gamma: float
    excluded: int  # -1; or a class: -log of the largest probability of all others is the loss


class LogitRows(NamedTuple):
    """C-contiguous, read-only rows of logits and of what goes with them."""

    logits: NDArray[Any]  # (b, A, C) float32 or float64
    labels: NDArray[np.int64]  # (b, A) classes 0 to C - 1; C: none of them; below 0: ignored
    scores: NDArray[Any]  # (b, A, C) targets, the dtype of logits; or (0, 0, 0): the labels are
    weights: NDArray[Any]  # (C,) of the classes, the dtype of logits


class Computed(NamedTuple):
    """What the kernels of the losses from logits write."""

    values: NDArray[Any]  # (b, A) losses or (b, A, C) gradients, the dtype of logits
    # (b,) 0 until the sample is written; then 1, and 1 for each tile that took a second path; of losses that number
    # is negative where a label is none of the C classes, for the caller to judge.
    done: NDArray[np.int64]


class Divisor(NamedTuple):
    """What the sum of a batch, or of each sample, is divided by."""

    constant: float  # below 0: what is counted
    is_own: int  # 1: each sample by its own count, before their mean
    with_kept: int  # 1: kept negatives are counted too
    least: int  # of the count of a sample
    instead: float  # of 0
