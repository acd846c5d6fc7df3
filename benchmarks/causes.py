"""``python -m benchmarks.causes ARRAYS.npz``: which score of an image finds which fault of its labels.

One fault at a time is planted into the labelled boxes of one image, its anchors are matched again, and the scores of
the image are compared with those of all others, untouched. Printed per score: AUROC, the chance that a faulty image
scores higher than an untouched one; in brackets the share of faulty images that come within the first 5 %; last, the
rank correlation of the untouched scores with the number of positives, for a score that counts objects finds nothing.

ARRAYS.npz holds ``logits`` (B, A, C) with background in column 0; ``anchors`` (A, 4) and ``boxes`` (N, 4), corners in
the same units; ``classes`` (N,), ``box_offsets`` (B + 1,); and, if it has them, predicted offsets ``loc_pred``
(B, A, 4).
"""

import argparse
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import ssd_mining as sm
from ssd_mining.report.loss_page import rank_correlation

NEAR = 0.1  # from this overlap with a labelled box on, an anchor is no false alarm
FIRST = 0.05  # the share of the images that somebody looks at
SHIFT = 0.3  # of the size of a box
SHARPNESS = 4  # per nat: how little the other objects count beside the worst

Array = np.ndarray
Scores = dict[str, float]


class Image(NamedTuple):
    """An image: what a detector says of it, and how it is labelled."""

    logits: Array  # (A, C)
    loc_pred: Array | None  # (A, 4)
    boxes: Array  # (n, 4)
    classes: Array  # (n,)


class Study(NamedTuple):
    """What is the same for all images."""

    anchors: Array  # (A, 4)
    rule: str
    is_sigmoid: bool


def scored(image: Image, study: Study) -> tuple[int, Scores]:
    """Return the number of positives of an image, and all its scores."""
    res = sm.match_anchors([image.boxes], [image.classes], study.anchors, rule=study.rule)
    logits, labels, matched = image.logits[None], res.labels, res.matched[0]
    cross_entropy = sm.sigmoid_cross_entropy if study.is_sigmoid else sm.softmax_cross_entropy
    losses = cross_entropy(logits, labels, background=0)
    mined = sm.mine_hard_negatives(losses, labels, background=0)
    loss, is_positive = losses[0].astype(np.float64), matched >= 0
    num_pos, total = int(mined.num_pos[0]), float((mined.positive_sum + mined.negative_sum)[0])
    divisor = max(1, num_pos)
    alone = foreground(image.logits, is_sigmoid=study.is_sigmoid)[(res.overlaps[0] < NEAR) & ~is_positive]
    has_anchors = res.num_anchors_of > 0
    sums = np.bincount(matched[is_positive], loss[is_positive], len(image.boxes))
    means = sums[has_anchors] / res.num_anchors_of[has_anchors]
    found = {
        "total": total,
        "total / positives": total / divisor,
        "positive loss / positives": float(mined.positive_sum[0]) / divisor,
        "worst object": float(means.max(initial=0)),
        "unrecognised object": float(np.log(np.exp(SHARPNESS * means).mean()) / SHARPNESS) if means.size else 0.0,
        "false alarm": float(alone.max(initial=0)),
    }
    if image.loc_pred is not None:
        target = sm.encode_boxes([image.boxes], study.anchors, res.matched)
        distance = sm.smooth_l1(image.loc_pred[None], target)[0]
        found["localization / positives"] = float(distance[is_positive].sum()) / divisor
    return num_pos, found


def foreground(logits: Array, *, is_sigmoid: bool) -> Array:
    """Return the largest probability of a class that is not background, (A,)."""
    x = logits.astype(np.float64)
    if is_sigmoid:
        return np.asarray(1 / (1 + np.exp(-x[:, 1:].max(axis=1))))
    x -= x.max(axis=1, keepdims=True)
    return np.asarray(np.exp(x[:, 1:].max(axis=1)) / np.exp(x).sum(axis=1))


def faults(image: Image, rng: np.random.Generator, num_classes: int, side: float) -> Iterator[tuple[str, Image]]:
    """Yield the image with each fault that can be planted in it."""
    n = len(image.boxes)

    def keep(chosen: Array) -> Image:
        return image._replace(boxes=image.boxes[chosen], classes=image.classes[chosen])

    def swapped(chosen: Array) -> Image:  # each to another class than it has
        other = 1 + (image.classes - 1 + rng.integers(1, num_classes - 1, n)) % (num_classes - 1)
        return image._replace(classes=np.where(chosen, other, image.classes))

    if n:
        one = np.arange(n) == rng.integers(n)
        half = rng.permutation(n) >= -(-n // 2)
        yield "all boxes missing", keep(np.zeros(n, np.bool_))
        yield "half missing", keep(half)
        yield "one missing", keep(~one)
        yield "all classes swapped", swapped(np.ones(n, np.bool_))
        yield "one swapped", swapped(one)
        sizes = image.boxes[:, 2:] - image.boxes[:, :2]
        moved = sizes * SHIFT * rng.choice([-1, 1], (n, 2))
        yield "all shifted", image._replace(boxes=(image.boxes + np.tile(moved, 2)).astype(image.boxes.dtype))
    size = rng.uniform(0.1, 0.4, 2) * side
    corner = rng.uniform(0, side - size)
    box = np.concatenate([corner, corner + size])[None].astype(image.boxes.dtype)
    yield (
        "one spurious box",
        image._replace(
            boxes=np.concatenate([image.boxes, box]),
            classes=np.append(image.classes, rng.integers(1, num_classes)),
        ),
    )


def separation(faulty: Array, own: Array, untouched: Array) -> tuple[float, float]:
    """Return the AUROC of faulty images, and the share of them that come within the first 5 %.

    `faulty`, (m,), are the scores of the images `own`, (m,), with a fault. Each is compared with all others, (B,).
    """
    above = (untouched[None] > faulty[:, None]).astype(np.float64) + 0.5 * (untouched[None] == faulty[:, None])
    above[np.arange(len(own)), own] = 0
    num_above = above.sum(axis=1)
    first = max(1, round(FIRST * len(untouched)))
    return float(1 - num_above.mean() / (len(untouched) - 1)), float((num_above < first).mean())


def studied(images: list[Image], study: Study, plantings: int = 1) -> dict[str, dict[str, Any]]:
    """Return a row for each score: for each fault its AUROC and its share, and the rank correlation.

    Every fault is planted `plantings` times into every image, each time where the numbers fall.
    """
    rng = np.random.default_rng(0)
    num_classes, side = images[0].logits.shape[1], float(study.anchors.max())
    counts, untouched = zip(*[scored(image, study) for image in images], strict=True)
    planted: dict[str, list[tuple[int, Scores]]] = {}
    for i, image in [*enumerate(images)] * plantings:
        for fault, faulty in faults(image, rng, num_classes, side):
            planted.setdefault(fault, []).append((i, scored(faulty, study)[1]))
    rows: dict[str, dict[str, Any]] = {}
    for name in untouched[0]:
        before = np.array([found[name] for found in untouched])
        rows[name] = {
            fault: separation(np.array([found[name] for _, found in cases]), np.array([i for i, _ in cases]), before)
            for fault, cases in planted.items()
        }
        rows[name]["correlation with positives"] = rank_correlation(before, np.array(counts))
    return rows


def images_of(arrays: Any) -> list[Image]:
    """Return the images of a file of arrays."""
    offsets, located = arrays["box_offsets"], "loc_pred" in arrays
    logits, loc_pred = arrays["logits"], arrays["loc_pred"] if located else None
    boxes, classes = arrays["boxes"], arrays["classes"].astype(np.int64)
    return [
        Image(logits[i], None if loc_pred is None else loc_pred[i], boxes[first:last], classes[first:last])
        for i, (first, last) in enumerate(itertools.pairwise(offsets))
    ]


def shown(value: float | tuple[float, float]) -> str:
    """Return a cell of the table."""
    return f"{value[0]:.2f} ({value[1]:.0%})" if isinstance(value, tuple) else f"{value:.2f}"


def main(arguments: list[str] | None = None) -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(prog="benchmarks.causes", description=__doc__.partition("\n")[0])
    parser.add_argument("arrays", metavar="ARRAYS.npz")
    parser.add_argument("--sigmoid", action="store_true", help="the classes are independent; else softmax")
    parser.add_argument("--rule", default="caffe", help="the rule of matching (default: %(default)s)")
    plantings = {
        "type": int,
        "default": 1,
        "help": "how often a fault is planted into an image (default: %(default)s)",
    }
    parser.add_argument("--plantings", **plantings)
    given = parser.parse_args(arguments)
    with np.load(given.arrays) as arrays:
        study = Study(arrays["anchors"], given.rule, given.sigmoid)
        rows = studied(images_of(arrays), study, given.plantings)
    heads = ["score of an image", *next(iter(rows.values()))]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, row in rows.items():
        print(f"| {' | '.join([name, *map(shown, row.values())])} |")


if __name__ == "__main__":
    main()
