"""The plain records that the twins share: what a kernel reads, obeys and writes."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


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


class Rows(NamedTuple):
    """Checked, C-contiguous, read-only rows of b samples with n anchors in all, as every kernel takes them."""

    loss: NDArray[Any]  # (n,) float32 or float64, sample after sample
    rank: NDArray[Any]  # (n,), the dtype of loss; (0,): the loss itself
    labels: NDArray[Any]  # (n,) unsigned: the bits of the labels
    codes: NDArray[Any]  # (3,), the dtype of labels: background, ignored, highest legal label
    quotas: NDArray[np.int64]  # (b,) explicit quotas; (0,): the rule decides
    offsets: NDArray[np.int64]  # (b + 1,) sample i owns the anchors offsets[i] to offsets[i + 1]
    shortest: int  # anchors of the shortest sample
    longest: int  # anchors of the longest sample


# The rows of the counts and of the sums in `Mined`.
NUM_POS, NUM_NEG, NUM_KEPT, NUM_NAN, NUM_BAD, DONE = range(6)
POSITIVE_SUM, NEGATIVE_SUM, THRESHOLD = range(3)


class Mined(NamedTuple):
    """What a kernel writes: per sample, and per anchor where a mask is asked for.

    Few arrays with many rows: each array costs a call of one sample as much as a hundred anchors.
    """

    counts: NDArray[Any]  # (6, b) int64
    sums: NDArray[Any]  # (3, b) float64
    pos_mask: NDArray[np.bool_]  # (n,), or (0,): not asked for
    hard_negative_mask: NDArray[np.bool_]  # (n,), or (0,): not asked for

    @property
    def num_pos(self) -> NDArray[np.int64]:
        """Positives, (b,)."""
        row: NDArray[np.int64] = self.counts[NUM_POS]
        return row

    @property
    def num_neg(self) -> NDArray[np.int64]:
        """Negatives, (b,)."""
        row: NDArray[np.int64] = self.counts[NUM_NEG]
        return row

    @property
    def num_kept(self) -> NDArray[np.int64]:
        """Kept negatives, (b,)."""
        row: NDArray[np.int64] = self.counts[NUM_KEPT]
        return row

    @property
    def num_nan(self) -> NDArray[np.int64]:
        """Anchors with NaN that are not ignored by their label, (b,)."""
        row: NDArray[np.int64] = self.counts[NUM_NAN]
        return row

    @property
    def num_bad(self) -> NDArray[np.int64]:
        """Labels out of range, (b,)."""
        row: NDArray[np.int64] = self.counts[NUM_BAD]
        return row

    @property
    def done(self) -> NDArray[np.int64]:
        """1 once the sample is written, (b,)."""
        row: NDArray[np.int64] = self.counts[DONE]
        return row

    @property
    def positive_sum(self) -> NDArray[np.float64]:
        """Sum of the losses of the positives, (b,)."""
        row: NDArray[np.float64] = self.sums[POSITIVE_SUM]
        return row

    @property
    def negative_sum(self) -> NDArray[np.float64]:
        """Sum of the losses of the kept negatives, (b,)."""
        row: NDArray[np.float64] = self.sums[NEGATIVE_SUM]
        return row

    @property
    def threshold(self) -> NDArray[np.float64]:
        """Rank of the easiest kept negative, (b,); NaN where nothing is kept."""
        row: NDArray[np.float64] = self.sums[THRESHOLD]
        return row


class SoftmaxRule(NamedTuple):
    """`Softmax` as machine numbers."""

    smoothing: float
    most: float  # what a class can cost at most, in nats
    besides: int  # -1; or a class: the largest of all others stands in for the label


class SigmoidRule(NamedTuple):
    """`Sigmoid` and `Focal` as machine numbers."""

    positive: float
    negative: float
    gamma: float
    besides: int  # -1; or a class: -log of the largest probability of all others is the loss


class LogitRows(NamedTuple):
    """What a twin reads: C-contiguous, read-only rows."""

    logits: NDArray[Any]  # (b, A, C) float32 or float64
    labels: NDArray[np.int64]  # (b, A) classes 0 to C - 1; C: none of them; below 0: ignored
    scores: NDArray[Any]  # (b, A, C) targets, the dtype of logits; or (0, 0, 0): the labels are
    weights: NDArray[Any]  # (C,) of the classes, the dtype of logits


class Computed(NamedTuple):
    """What a twin writes."""

    values: NDArray[Any]  # (b, A) losses or (b, A, C) gradients, the dtype of logits
    # (b,) 0 until the sample is written; then 1, and 1 for each tile that took a second path; of losses that number
    # is negative where a label is none of the C classes, for the caller to judge.
    done: NDArray[np.int64]
