"""``python -m benchmarks.matching``: matching on one thread, beside NumPy's way and, where it is there, torchvision's.

Results are checked before anything is timed. A run is a pass over images with boxes of their own, one call each,
as a data set is matched; all ways run in turns. Only ratios and memory are worth quoting from a busy machine.
"""

import functools
import importlib
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

import ssd_mining as sm
from benchmarks.measure import interleaved

ROUNDS = 15
CASES = ((8, "ssd300", 256), (60, "ssd300", 16), (30, "retinanet", 4))  # objects, anchors, images
RULE = "torchvision"

Row = dict[str, Any]


def objects(count: int, seed: int = 0) -> np.ndarray:
    """Draw boxes (count, 4) of the sizes and shapes of objects in photographs, as shares of the image."""
    rng = np.random.default_rng(seed)
    centres = rng.random((count, 2))
    sides = np.exp(rng.uniform(np.log(0.06), np.log(0.8), (count, 1))) * np.exp2(rng.uniform(-0.5, 0.5, (count, 2)))
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1).clip(0, 1).astype(np.float32)


def numpy_way(boxes: np.ndarray, classes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Label the anchors by one matrix of overlaps, as nearly everybody writes it."""
    low, high = np.maximum(boxes[:, None, :2], anchors[:, :2]), np.minimum(boxes[:, None, 2:], anchors[:, 2:])
    sides = np.clip(high - low, 0, None)
    common = sides[..., 0] * sides[..., 1]
    areas = [(each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1]) for each in (boxes, anchors)]
    iou = common / (areas[0][:, None] + areas[1] - common)
    labels = np.where(iou.max(axis=0) >= 0.5, classes[iou.argmax(axis=0)], 0)
    labels[iou.argmax(axis=1)] = classes
    return labels


def torchvision_way() -> Callable[[np.ndarray, np.ndarray, np.ndarray], Any] | None:
    """Return torchvision's overlaps, matcher and labels, as its SSD has them; None where it is not installed."""
    try:
        torch: Any = importlib.import_module("torch")
        ops: Any = importlib.import_module("torchvision.ops")
        utils: Any = importlib.import_module("torchvision.models.detection._utils")
    except ImportError:
        return None
    torch.set_num_threads(1)
    matcher = utils.SSDMatcher(0.5)

    def way(boxes: np.ndarray, classes: np.ndarray, anchors: np.ndarray) -> Any:
        matched = matcher(ops.box_iou(torch.from_numpy(boxes), torch.from_numpy(anchors)))
        is_foreground = matched >= 0
        labels = torch.zeros(len(anchors), dtype=torch.int64)
        labels[is_foreground] = torch.from_numpy(classes)[matched[is_foreground]]
        return labels, matched

    return way


def one_by_one(way: Callable[[np.ndarray], Any], images: list[np.ndarray]) -> None:
    """Match one image after the other. Each result is dropped, as where a loader hands it on."""
    for boxes in images:
        way(boxes)


def measured(count: int, geometry: str, num_images: int, rounds: int) -> Row:
    """Time one case."""
    side = 800 if geometry == "retinanet" else 1
    anchors = sm.default_boxes(geometry, image_size=side if side > 1 else None)
    images = [objects(count, seed) * np.float32(side) for seed in range(num_images)]
    classes = np.arange(1, count + 1)

    def ours(boxes: np.ndarray) -> sm.MatchResult:
        return sm.match_anchors([boxes], [classes], anchors, rule=RULE, num_threads=1)

    ways: dict[str, Callable[[np.ndarray], Any]] = {
        "ours": ours,
        "numpy": lambda boxes: numpy_way(boxes, classes, anchors),
    }
    theirs = torchvision_way()
    if theirs is not None:
        ways["torchvision"] = lambda boxes: theirs(boxes, classes, anchors)
    for boxes in images:
        res = ours(boxes)
        np.testing.assert_array_equal(res.labels[0], ways["numpy"](boxes))
        if theirs is not None:
            labels, matched = ways["torchvision"](boxes)
            np.testing.assert_array_equal(res.matched[0], matched.numpy())
            np.testing.assert_array_equal(res.labels[0], labels.numpy())
    tracemalloc.start()
    ours(images[0])
    mebibytes = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    passes = {name: functools.partial(one_by_one, way, images) for name, way in ways.items()}
    seconds = interleaved(passes, rounds=rounds)
    ratios = {f"{name} / ours": seconds[name] / seconds["ours"] for name in ways if name != "ours"}
    milliseconds = seconds["ours"] / num_images * 1e3
    return {"objects": count, "anchors": len(anchors), "ms": milliseconds, **ratios, "MiB": mebibytes}


def main() -> None:
    """Print a line for each case."""
    for case in CASES:
        row = measured(*case, ROUNDS)
        print("  ".join(f"{name} {value:,.3g}" for name, value in row.items()))


if __name__ == "__main__":
    main()
