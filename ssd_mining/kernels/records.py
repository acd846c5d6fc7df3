"""The plain records that all twins share: what a kernel reads, the rule it follows, and what it writes.

A driver takes the fields of its records one by one, in this order: Numba unpacks a named tuple in Python, which costs
ten times as much as a plain argument.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# A number of any type; outside a kernel also an array of numbers.
Scalar = Any
Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]

# The role of an anchor. The CUDA twin relies on IGNORED and POSITIVE being smaller than every key of a rank.
IGNORED, POSITIVE, NEGATIVE, BAD = 0, 1, 2, 255

# The places of `Rows.codes`: the label of a negative, the label of an ignored anchor, and the highest legal label.
BACKGROUND, IGNORED_LABEL, HIGHEST = range(3)


class Rows(NamedTuple):
    """Checked, C-contiguous, read-only rows of b samples with n anchors in all."""

    loss: NDArray[Any]  # (n,) float32 or float64, sample after sample
    rank: NDArray[Any]  # (n,), the dtype of loss; (0,): the loss itself
    labels: NDArray[Any]  # (n,) the bits of the labels as unsigned integers
    codes: NDArray[Any]  # (3,), the dtype of labels: BACKGROUND, IGNORED_LABEL, HIGHEST
    quotas: NDArray[np.int64]  # (b,) explicit quotas; (0,): the rule decides
    offsets: NDArray[np.int64]  # (b + 1,) sample i owns the anchors offsets[i] to offsets[i + 1]
    shortest: int  # anchors of the shortest sample
    longest: int  # anchors of the longest sample


class Rule(NamedTuple):
    """The numbers of a `Mining`: they decide how many negatives a sample keeps."""

    ratio: float
    round_up: bool
    extra: int
    min_negatives: int
    min_always: bool
    max_negatives: int
    omit_nan: bool

    @property
    def unbounded(self) -> "Rule":
        """The same rule without `min_negatives` and `max_negatives`."""
        return self._replace(min_negatives=0, max_negatives=np.iinfo(np.int64).max)


# The rows of the counts and of the sums in `Mined`.
NUM_POS, NUM_NEG, NUM_KEPT, NUM_NAN, NUM_BAD, DONE, NUM_COUNTS = range(7)
POSITIVE_SUM, NEGATIVE_SUM, THRESHOLD, NUM_SUMS = range(4)


class KeptLists(NamedTuple):
    """The kept negatives. Those of a sample lie side by side, in anchor order; the samples follow in any order."""

    total: NDArray[np.int64]  # (1,) how many are listed
    first: NDArray[np.int64]  # (b,) where those of a sample begin
    anchors: NDArray[np.int64]  # (n,) indices in the samples
    ranks: NDArray[Any]  # (n,), the dtype of loss


class Mined(NamedTuple):
    """What mining writes: numbers for each sample and, where masks are wanted, a flag for each anchor.

    The numbers share two arrays, because in a call of one sample each array costs as much as a hundred anchors.
    """

    # (6, b) NUM_POS, NUM_NEG, NUM_KEPT: positives, negatives, kept negatives. NUM_NAN: anchors with a NaN whose label
    # does not make them ignored. NUM_BAD: labels out of range. DONE: 1 as soon as the sample is written.
    counts: NDArray[np.int64]
    # (3, b) POSITIVE_SUM, NEGATIVE_SUM: losses of the positives and of the kept negatives, summed. THRESHOLD: the
    # rank of the easiest kept negative; NaN where nothing is kept.
    sums: NDArray[np.float64]
    pos_mask: NDArray[np.bool_]  # (n,); (0,): no masks are wanted
    hard_negative_mask: NDArray[np.bool_]  # (n,); (0,): no masks are wanted
    kept: KeptLists | None = None  # beside masks only; None: no lists are wanted


class Tally(NamedTuple):
    """What an analysis of R ratios writes in addition to `Mined`; each worker adds to its own part of a table."""

    num_kept: NDArray[np.int64]  # (b, R)
    negative_sum: NDArray[np.float64]  # (b, R) the losses of the kept negatives, summed
    threshold: NDArray[np.float64]  # (b, R) the loss of the easiest kept negative; NaN where none is kept
    tables: NDArray[np.signedinteger]  # (workers, SAMPLES, BINS) counts of losses by bin
    levels: NDArray[np.int64]  # (workers, L) counts of negatives by feature map
    extremes: NDArray[np.float64]  # (workers, 2) the least and the largest loss of the negatives that are no NaN
    anchors: NDArray[np.int64]  # (LISTS, n) anchors by their index in the sample
    losses: NDArray[Any]  # (LISTS, n) the losses of these anchors
    places: NDArray[np.int64]  # (workers, LISTS, 2) where each worker's part of each list begins and ends
    num_free: NDArray[np.int64]  # (b,) how many free negatives are listed
    free: NDArray[np.float64]  # (b, FREE_NUMBERS) what is said of their losses; NaN where none is listed


# What an analysis lists of every sample: its positives, its kept negatives, and the hardest of its free negatives,
# those that overlap no object.
POSITIVE_LIST, KEPT_LIST, FREE_LIST, LISTS = range(4)
MOST_FREE = 32

# Of the losses of the free negatives that are listed: the largest, NaN if one is NaN; the last of the `WORST_FREE`
# largest different ones, or the smallest where they are fewer; and the smallest.
LARGEST_FREE, WORST_CUT, LEAST_FREE, FREE_NUMBERS = range(4)
WORST_FREE = 5


# A loss is counted in the bin that the upper 16 bits of its float32 name; every NaN in NAN_BIN.
BINS, NAN_BIN = 1 << 16, 0x7FC0

# What each table counts: losses of negatives at even places, at odd places, of positives, of kept negatives, and of
# whole samples.
EVEN, ODD, POSITIVES, KEPT, SAMPLES, TABLES = range(6)


class SoftmaxRule(NamedTuple):
    """The numbers of a `Softmax`."""

    smoothing: float
    most: float  # the largest cost of a class, in nats
    excluded: int  # -1: compute losses. A class: compute -log of the largest probability of all other classes


class SigmoidRule(NamedTuple):
    """The numbers of a `Sigmoid` or a `Focal`."""

    positive: float
    negative: float
    gamma: float
    excluded: int  # as in `SoftmaxRule`


class LogitRows(NamedTuple):
    """C-contiguous, read-only rows of logits, with their labels or scores and the weights of the classes."""

    logits: NDArray[Any]  # (b, A, C) float32 or float64
    labels: NDArray[np.int64]  # (b, A) a class, 0 to C - 1; C: no class; below 0: ignored
    scores: NDArray[Any]  # (b, A, C) targets, the dtype of logits; (0, 0, 0): the labels are the targets
    weights: NDArray[Any]  # (C,) weights of the classes, the dtype of logits


class Computed(NamedTuple):
    """What the kernels write that compute losses or gradients from logits."""

    values: NDArray[Any]  # (b, A) losses or (b, A, C) gradients, the dtype of logits
    # (b,) 0 until the sample is written, then 1 plus the number of tiles that took the careful path. Losses write the
    # negative of it where a label is none of the C classes: the caller decides whether that is an error.
    done: NDArray[np.int64]


class Divisor(NamedTuple):
    """How the divisor of a loss is counted, for the whole batch or for each sample."""

    constant: float  # the divisor itself; below 0: count it
    is_own: int  # 1: divide each sample by its own count, then take the mean
    with_kept: int  # 1: count kept negatives as well as positives
    least: int  # the smallest count of a sample
    instead: float  # the divisor where the count is 0


# How an object is forced onto an anchor, in the order of `choices.FORCE`, and what an anchor of no object is.
BIPARTITE, ARGMAX, ARGMAX_ALL, OWN_BEST, NO_FORCE = range(5)
UNMATCHED, LEFT_OUT = -1, -2


class BoxRows(NamedTuple):
    """Checked, C-contiguous, read-only boxes of b samples, and the anchors to match them with: x1, y1, x2, y2."""

    boxes: NDArray[Any]  # (n, 4) float32 or float64, sample after sample
    classes: NDArray[np.int64]  # (n,)
    crowd: NDArray[np.bool_]  # (n,) regions of many objects: they match nothing; (0,): there are none
    offsets: NDArray[np.int64]  # (b + 1,) sample i owns the boxes offsets[i] to offsets[i + 1]
    anchors: NDArray[Any]  # (1, A, 4), shared by all samples, or (b, A, 4); the dtype of boxes
    valid: NDArray[np.bool_]  # (1, A), shared by all samples, or (b, A); (0, 0): all anchors count


class MatchRule(NamedTuple):
    """The numbers of a `Matching`."""

    pos_iou: float
    neg_low: float  # an unmatched anchor is background from this overlap on
    neg_high: float  # and below this one
    force: int
    first: bool  # of several objects that are forced onto one anchor, the first has it
    force_iou: float
    ignore_ioa: float
    crowd_first: bool
    background: int
    ignore_index: int


class Matched(NamedTuple):
    """What matching writes."""

    labels: NDArray[np.int64]  # (b, A)
    matched: NDArray[np.int64]  # (b, A) the number of the object in its sample, UNMATCHED or LEFT_OUT
    overlaps: NDArray[np.float32]  # (b, A) the largest IoU with any object
    num_anchors: NDArray[np.int64]  # (n,) of every object
    best_iou: NDArray[np.float64]  # (n,) the largest IoU of every object with an anchor that counts
    done: NDArray[np.int64]  # (b,) 1 as soon as the sample is written
