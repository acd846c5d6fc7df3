"""Seeded synthetic losses with the geometry of SSD300: data to try the package on where no detector is at hand.

No detector saw any of it. Objects are random boxes, matched to the real default boxes of SSD300 as SSD matches them.
Logits rise near objects, and near look-alikes, regions that look like an object and hold none: there the hard
negatives come from.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_mining import anchor_grid, match_anchors
from ssd_mining.matching.anchors import SSD_LEVELS

NUM_CLASSES = 21  # background is class 0; 20 classes of objects, as in PASCAL VOC

README = """\
SYNTHETIC DATA, as drawn by `ssd-mining demo --samples {samples} --seed {seed}`. No detector saw any of it.

losses.npy         ({samples}, 8732) float32  softmax cross-entropy of every anchor, in nats
labels.npy         ({samples}, 8732) uint8    class of every anchor: 0 is background, 1 to 20 are objects
default_boxes.npy  (8732, 4) float64   the anchors: the default boxes of SSD300, as cx, cy, w, h in [0, 1]

Random objects are matched to the anchors as SSD does it. Logits rise near objects, and near look-alikes, which hold
none. To mine it, type here, with the environment of ssd_mining active,

    ssd-mining mine losses.npy labels.npy --background 0
"""

_EMPTY_SHARE = 0.12  # of the samples hold no object
_MAX_OBJECTS = 8
_MAX_LOOK_ALIKES = 5
_SMALLEST, _LARGEST = 0.06, 0.8  # side of a region, as a share of the image, drawn log-uniformly
_STRENGTHS = (6.0, 18.0)  # what a region adds to the logit of its class at an overlap of 1, drawn uniformly
_BACKGROUND_LOGIT = 8.0


class Sample(NamedTuple):
    """One synthetic sample: A = 8732 anchors, n objects, m look-alikes; boxes are (cx, cy, w, h) in [0, 1]."""

    conf_loss: NDArray[np.float32]  # (A,) in nats
    labels: NDArray[np.uint8]  # (A,) class of the matched object; 0 is background
    boxes: NDArray[np.float64]  # (n, 4) of the objects
    classes: NDArray[np.int64]  # (n,) of the objects, 1 to 20
    look_alikes: NDArray[np.float64]  # (m, 4)


def default_boxes() -> NDArray[np.float64]:
    """Return the default boxes of SSD300, (8732, 4): ``cx, cy, w, h`` as shares of the image, unclipped.

    They are sorted by feature map from fine to coarse, then by row, column and shape.

    References
    ----------
    Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, section 2.2, for the centres ``(i + 0.5) / cells``;
    the authors' ``examples/ssd/ssd_pascal.py`` (weiliu89/caffe, branch ssd) for the sides and aspect ratios.

    Examples
    --------
    >>> default_boxes().shape
    (8732, 4)
    >>> default_boxes()[0].round(3).tolist()
    [0.013, 0.013, 0.1, 0.1]
    """
    levels = SSD_LEVELS["ssd300"]
    return np.concatenate(
        [anchor_grid(level.cells, level.shapes, box_format="cxcywh", dtype=np.float64) for level in levels]
    )


def sample(seed: int, index: int) -> Sample:
    """Draw sample `index` of the data set `seed`; it depends on these two alone.

    About one sample in eight holds no object; the others hold 1 to 8. The losses are softmax cross-entropies over
    21 classes, computed in float64 and rounded once to float32. A negative number is a ValueError.

    Examples
    --------
    >>> drawn = sample(seed=0, index=5)
    >>> drawn.conf_loss.shape, drawn.conf_loss.dtype, drawn.labels.dtype
    ((8732,), dtype('float32'), dtype('uint8'))
    """
    if seed < 0 or index < 0:
        msg = f"seed and index: expected numbers of at least 0, got {seed} and {index}"
        raise ValueError(msg)
    # The child that SeedSequence(seed).spawn would hand out as number `index`, without spawning those before it.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    num_objects = 0 if rng.random() < _EMPTY_SHARE else int(rng.integers(1, _MAX_OBJECTS + 1))
    boxes, classes = _regions(rng, num_objects)
    look_alikes, false_classes = _regions(rng, int(rng.integers(_MAX_LOOK_ALIKES + 1)))
    anchors = default_boxes()
    overlaps = iou(boxes, anchors)
    # The reference takes 15 ms more than the kernel, which is compiled for seconds first: a demo is a few samples.
    matched = match_anchors(
        [boxes], [classes], anchors, box_format="cxcywh", anchor_format="cxcywh", backend="reference"
    )
    labels = matched.labels[0].astype(np.uint8)
    logits = rng.normal(size=(anchors.shape[0], NUM_CLASSES))  # (A, C)
    logits[:, 0] += _BACKGROUND_LOGIT
    for seen, overlap in zip((*classes, *false_classes), (*overlaps, *iou(look_alikes, anchors)), strict=True):
        logits[:, seen] += rng.uniform(*_STRENGTHS) * overlap
    return Sample(_cross_entropy(logits, labels).astype(np.float32), labels, boxes, classes, look_alikes)


def iou(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union, (n, m), of boxes (n, 4) with others (m, 4): ``cx, cy, w, h``."""
    one, two = boxes[:, np.newaxis], others[np.newaxis]
    low = np.maximum(one[..., :2] - one[..., 2:] / 2, two[..., :2] - two[..., 2:] / 2)
    high = np.minimum(one[..., :2] + one[..., 2:] / 2, two[..., :2] + two[..., 2:] / 2)
    common = np.maximum(high - low, 0).prod(axis=2)
    return common / (one[..., 2:].prod(axis=2) + two[..., 2:].prod(axis=2) - common)  # type: ignore[no-any-return]


def _regions(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draw boxes (count, 4) that lie inside the image, with log-uniform sides, and their classes (count,)."""
    sides = np.exp(rng.uniform(math.log(_SMALLEST), math.log(_LARGEST), size=(count, 1)))
    roots = np.exp2(rng.uniform(-0.5, 0.5, size=(count, 1)))  # aspect ratios from 1/2 to 2
    sizes = np.minimum(sides * np.hstack((roots, 1 / roots)), 1)
    centres = rng.uniform(sizes / 2, 1 - sizes / 2)
    return np.hstack((centres, sizes)), rng.integers(1, NUM_CLASSES, size=count)


def _cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return softmax cross-entropies (A,) in nats by log-sum-exp; the row's maximum keeps exp in range."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    targets = np.take_along_axis(shifted, labels[:, np.newaxis].astype(np.intp), axis=1)[:, 0]
    return np.log(np.exp(shifted).sum(axis=1)) - targets  # type: ignore[no-any-return]
