"""Labels of boxes: they are matched with anchors when they are read."""

import argparse
import functools
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_mining import Matching, MatchResult, default_boxes, encode_boxes, match_anchors
from ssd_mining.checks import DataError
from ssd_mining.choices import GEOMETRIES, BoxFormat, nearest_of
from ssd_mining.cli.options import OptionError
from ssd_mining.files.annotations import Annotations, files_of, read_annotations
from ssd_mining.files.blocks import BLOCK_BYTES
from ssd_mining.files.names import read_ids
from ssd_mining.files.sources import ArraySource, array_name, open_array
from ssd_mining.inputs.boxes import to_corners
from ssd_mining.matching.rule import resolve_matching

MATCHING_BYTES = 64  # that matching takes per anchor: three arrays, and the labels once more


class NamedAnchors(NamedTuple):
    """Anchors as an option names them."""

    name: str
    boxes: NDArray[np.float32]  # (A, 4) in shares of the image, if its size is known
    box_format: BoxFormat
    files: frozenset[Path] = frozenset()  # that hold them; none: they are those of a known detector


class MatchedLabels(ArraySource):
    """The labels (N, A) of samples whose boxes are in a file. Those of some samples exist when they are read."""

    def __init__(
        self, boxes: str, objects: Annotations, anchors: NamedAnchors, matching: Matching, *, num_threads: int | None
    ) -> None:
        self.objects, self.anchors, self.matching, self.num_threads = objects, anchors, matching, num_threads
        values = (matching.background, matching.ignore_index, int(np.abs(objects.classes).max(initial=0)))
        super().__init__(
            f"{boxes} matched with {anchors.name} by {matching}",
            boxes,
            (objects.offsets.size - 1, anchors.boxes.shape[0]),
            np.result_type(np.int8, *(np.min_scalar_type(-abs(value) - 1) for value in values)),
        )

    def told(self, start: int, stop: int, *, located: bool) -> dict[str, Any]:
        """Return what `LossAnalysis.update` takes of the labels of some samples; `located`: target offsets too."""
        res = self.match(start, stop, num_threads=1)
        told = {"labels": res.labels, "matched": res.matched, "overlaps": res.overlaps, "anchors": self.corners}
        if not located:
            return told
        first, last = self.objects.offsets[start], self.objects.offsets[stop]
        boxes, offsets = (
            self.objects.boxes[first:last].astype(np.float32),
            self.objects.offsets[start : stop + 1] - first,
        )
        return told | {
            "loc_target": encode_boxes(boxes.astype(np.float32), self.corners, res.matched, box_offsets=offsets)
        }

    @functools.cached_property
    def corners(self) -> NDArray[np.float32]:
        """The corners of the anchors, (A, 4)."""
        return to_corners(self.anchors.boxes, self.anchors.box_format)

    def match(self, start: int, stop: int, num_threads: int | None = None) -> MatchResult:
        """Match some samples."""
        first, last = self.objects.offsets[start], self.objects.offsets[stop]
        return match_anchors(
            self.objects.boxes[first:last].astype(np.float32),
            self.objects.classes[first:last],
            self.anchors.boxes,
            rule=self.matching,
            anchor_format=self.anchors.box_format,
            box_offsets=self.objects.offsets[start : stop + 1] - first,
            crowd=self.objects.crowd[first:last],
            num_threads=num_threads or self.num_threads,
        )

    def files(self) -> set[Path]:
        """Return the files that hold the boxes and the anchors."""
        return files_of(self._path) | self.anchors.files

    def probe(self) -> bytes:
        """Return what stands for the labels: the rule, and a digest of all boxes and anchors."""
        digest = hashlib.sha256(repr((self.matching, self.anchors.box_format)).encode())
        for array in (*self.objects[:4], self.anchors.boxes):
            digest.update(array.tobytes())
        return digest.digest()

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        labels = np.empty((stop - start, self.shape[1]), self.dtype)
        step = max(1, BLOCK_BYTES // max(1, self.shape[1] * MATCHING_BYTES))
        for first in range(start, stop, step):  # not all at once: matching takes more memory than its labels
            last = min(first + step, stop)
            labels[first - start : last - start] = self.match(first, last).labels
        return labels


def labels_of_boxes(args: argparse.Namespace) -> MatchedLabels:
    """Return what the boxes and the anchors give in place of LABELS; then `background` is known too."""
    if args.labels is not None or args.boxes is None or args.anchors is None:
        given = [f"--{name}" for name in ("boxes", "anchors") if getattr(args, name) is not None]
        got = f"{' and '.join(given)} {'beside' if args.labels is not None else 'without'} "
        got += "LABELS" if args.labels is not None else "the other"
        raise OptionError(f"--{'boxes' if args.boxes is None else 'anchors'}: expected LABELS, or both, got {got}")
    labels = matched_labels(args)
    args.background, args.ignore_index = labels.matching.background, labels.matching.ignore_index
    return labels


def matched_labels(args: argparse.Namespace) -> MatchedLabels:
    """Read the boxes and the anchors, and return the labels that they give."""
    names = ("pos_iou", "neg_iou", "force", "background", "ignore_index")
    given: Any = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if len(given.get("neg_iou", ())) == 1:
        given["neg_iou"] = given["neg_iou"][0]
    matching = resolve_matching(args.rule, given)
    image = None if args.image_size is None else _sides(args.image_size)
    anchors = read_anchors(args.anchors, args.anchor_format, image)
    objects = read_annotations(args.boxes, None if args.ids is None else read_ids(args.ids))
    if image is not None and args.boxes.endswith(".npz"):
        objects = objects._replace(boxes=objects.boxes / image)
    return MatchedLabels(args.boxes, objects, anchors, matching, num_threads=args.num_threads)


def read_anchors(name: str, box_format: BoxFormat | None, image: NDArray[np.int64] | None) -> NamedAnchors:
    """Return the anchors of a known detector, or of a file, (A, 4); in pixels of an `image`, or in shares of it."""
    if name in GEOMETRIES:
        if box_format is not None:
            raise OptionError(f"--anchor-format: expected none beside {name}, got {box_format}")
        if name == "retinanet":
            if image is None:
                raise OptionError("--image-size: expected the size of the images of a RetinaNet, got none")
            width, height = image[:2].tolist()
            pixels = default_boxes(name, image_size=(height, width), dtype=np.float64)
            return NamedAnchors(name, (pixels / image).astype(np.float32), "xyxy")
        return NamedAnchors(name, default_boxes(name), "xyxy")
    if array_name(name) is None and not Path(name).exists():
        expected = f"anchors in a file, (A, 4), or one of {', '.join(GEOMETRIES)}"
        raise DataError(f"{name}: expected {expected}, got neither{nearest_of(name, GEOMETRIES)}")
    with open_array(name) as source:
        if source.ndim != 2 or source.shape[1] != 4 or source.dtype.kind not in "iuf":
            got = f"dtype {source.dtype} of shape {source.shape}"
            raise DataError(f"{name}: expected anchors, numbers (A, 4), or one of {', '.join(GEOMETRIES)}, got {got}")
        boxes, files = source[:], frozenset(source.files())
    if image is not None:
        boxes = boxes / image
    return NamedAnchors(name, boxes.astype(np.float32), box_format or "xyxy", files)


def _sides(image_size: tuple[int, ...]) -> NDArray[np.int64]:
    """Return width, height, width, height of an image, of one number or of height and width."""
    if len(image_size) > 2 or min(image_size) < 1:
        got = ",".join(map(str, image_size))
        raise OptionError(f"--image-size: expected a height and a width of at least 1, got {got}")
    return np.array([image_size[-1], image_size[0]] * 2)
