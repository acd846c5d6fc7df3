"""Match anchors with objects: `match_anchors`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.choices import BoxFormat
from ssd_mining.engine.result import Result
from ssd_mining.engine.run import Backend, call_of
from ssd_mining.inputs.arrays import FLOAT32, INT64
from ssd_mining.inputs.boxes import (
    box_rows,
    check_anchors,
    check_boxes,
    check_classes,
    check_crowd,
    check_valid_anchors,
    refuse_anchors,
    refuse_boxes,
    refuse_classes,
    refuse_on_device,
)
from ssd_mining.kernels.records import BoxRows, Matched
from ssd_mining.matching.rule import Matching, MatchingFields, resolve_matching
from ssd_mining.mining_rule import named_keywords

# Another thread needs so many pairs of an object and an anchor to save more than it costs to call it. A block
# of samples has at most BLOCK_PAIRS, so that Ctrl-C gets through.
PAIRS_EACH = 250_000
BLOCK_PAIRS = 100_000_000


@dataclass(frozen=True, eq=False, repr=False)
class MatchResult(Result):
    """What matching says about a batch of B samples with A anchors each, and N objects in all.

    Attributes
    ----------
    labels : ndarray of int64, (B, A)
        The class of the object of every anchor, the background, or `ignore_index`.
    matched : ndarray of int64, (B, A)
        The number of that object in its sample; -1 for background, -2 for ignored anchors.
    overlaps : ndarray of float32, (B, A)
        The largest intersection over union of every anchor with any object, 0 where there is none. ``overlaps=`` of
        mining takes it.
    box_offsets : ndarray of int64, (B + 1,)
        Sample ``b`` owns the objects ``box_offsets[b]`` to ``box_offsets[b + 1]`` of the arrays below.
    num_anchors_of : ndarray of int64, (N,)
        How many anchors every object has; 0 for a crowd.
    best_iou : ndarray of float64, (N,)
        The largest overlap of every object with an anchor that counts; 0 for a crowd.
    unmatched : ndarray of int64, (M,)
        The objects without an anchor, crowds left out, by their place in the arrays above.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> res = sm.match_anchors([[[0.1, 0.1, 0.3, 0.3]]], [[7]], [[0.1, 0.1, 0.3, 0.4], [0.5, 0.5, 0.9, 0.9]])
    >>> res.labels, res.num_anchors_of
    (array([[7, 0]]), array([1]))
    >>> list(res.to_dict())
    ['num_anchors_of', 'best_iou']
    """

    columns = ("num_anchors_of", "best_iou")

    labels: NDArray[np.int64]
    matched: NDArray[np.int64]
    overlaps: NDArray[np.float32]
    box_offsets: NDArray[np.int64]
    num_anchors_of: NDArray[np.int64]
    best_iou: NDArray[np.float64]
    unmatched: NDArray[np.int64]


@named_keywords(Matching)
def match_anchors(
    boxes: ArrayLike | Sequence[ArrayLike],
    classes: ArrayLike | Sequence[ArrayLike],
    anchors: ArrayLike,
    *,
    rule: Matching | str | None = None,
    box_format: BoxFormat = "xyxy",
    anchor_format: BoxFormat = "xyxy",
    box_offsets: ArrayLike | None = None,
    crowd: ArrayLike | Sequence[ArrayLike] | None = None,
    valid: ArrayLike | None = None,
    backend: Backend | None = None,
    num_threads: int | None = None,
    **keywords: Unpack[MatchingFields],
) -> MatchResult:
    """Say which anchor has which object: the labels that the other functions take.

    Parameters
    ----------
    boxes : sequence of (n, 4) array_like, or (N, 4) with ``box_offsets``
        The boxes of the objects of every sample, float16, float32, float64 or integer; a sample may have none.
    classes : sequence of (n,) array_like, or (N,), integer
        Their classes, which must differ from the background.
    anchors : array_like, (A, 4), or (B, A, 4)
        The anchors of all samples, or of each; in the units of the boxes, pixels or shares of the image.
    rule : Matching or str, optional
        The matching rule, or the name of one in `matching_rules`; ``Matching()`` unless given.
    box_format, anchor_format : {"xyxy", "cxcywh", "xywh"}
        What the four numbers are: two corners, centre and size, or the first corner and size.
    box_offsets : array_like of integers, (B + 1,), optional
        Sample ``b`` owns the boxes ``box_offsets[b]`` to ``box_offsets[b + 1]``.
    crowd : like classes, bool, optional
        True: the box is a region of many objects, or of none that should be learned. It matches nothing; anchors in
        it are ignored.
    valid : array_like of bool, (A,) or (B, A), optional
        False: the anchor is ignored, and no object is forced onto it.
    backend : {"cpu", "reference"}, optional
        The CPU unless given; ``"reference"`` is plain NumPy.
    num_threads : int, optional
        At most this many threads; Numba's own number unless given.
    **keywords
        Fields of `Matching`, which replace those of `rule`.

    Returns
    -------
    MatchResult
        Labels, objects and overlaps of the anchors; counts and overlaps of the objects.

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype, or a keyword is unknown.
    ValueError
        If a shape or a value is wrong: a coordinate that is not finite, a negative size, a class that is background.
    NotImplementedError
        If boxes or anchors lie on a GPU, or ``backend="cuda"``.

    Notes
    -----
    The intersection over union is computed in float32, or in float64 where boxes or anchors are float64 or integers of
    more than 16 bits, as ``common / (area of the anchor + area of the box - common)``; thresholds are rounded to that
    dtype. A box or an anchor without an area overlaps nothing. Without objects, all anchors that count are background.

    References
    ----------
    Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, section 2.2. docs/matching.md says which system has
    which rule.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> boxes, classes = [[[10, 10, 50, 50], [60, 10, 70, 20]], []], [[3, 5], []]
    >>> anchors = [[8, 8, 52, 52], [10, 10, 40, 40], [56, 8, 76, 28], [0, 60, 40, 99]]
    >>> res = sm.match_anchors(boxes, classes, anchors, rule="torchvision")
    >>> res.labels
    array([[3, 3, 5, 0],
           [0, 0, 0, 0]])
    >>> print(res.overlaps[0].round(3), res.unmatched)
    [0.826 0.562 0.25  0.   ] []
    """
    matching = resolve_matching(rule, keywords)
    refuse_on_device("match_anchors", boxes=boxes, classes=classes, anchors=anchors, crowd=crowd, valid=valid)
    if backend == "cuda":
        msg = 'match_anchors: not written for backend="cuda"; it matches NumPy arrays on the CPU'
        raise NotImplementedError(msg)
    call = call_of(backend, num_threads)
    objects = check_boxes(boxes, box_offsets, box_format)
    num_samples = objects.offsets.size - 1
    corners = check_anchors(anchors, anchor_format, num_samples)
    rows = box_rows(
        objects,
        check_classes(classes, objects),
        check_crowd(crowd, objects),
        corners,
        check_valid_anchors(valid, num_samples, corners.shape[1]),
    )
    matched = empty_matched(num_samples, corners.shape[1], rows.boxes.shape[0])
    for block in _blocks(rows):
        part, into = _rows_in(rows, block), _results_in(matched, rows.offsets, block)
        pairs = part.boxes.shape[0] * corners.shape[1]
        call.twin.match(part, matching.rule, into, call.workers(pairs // PAIRS_EACH))
        if np.count_nonzero(into.done) < into.done.size:
            refuse_boxes(objects)
            refuse_classes(rows.classes, objects, matching.background, matching.ignore_index)
            refuse_anchors(anchors, corners, anchor_format)
            msg = f"sample {block.start + int(np.argmin(into.done))} was not matched: a worker thread was lost"
            raise RuntimeError(msg)
    is_unmatched = matched.num_anchors == 0
    return MatchResult(
        labels=matched.labels,
        matched=matched.matched,
        overlaps=matched.overlaps,
        box_offsets=objects.offsets,
        num_anchors_of=matched.num_anchors,
        best_iou=matched.best_iou,
        unmatched=(is_unmatched & ~rows.crowd if rows.crowd.size else is_unmatched).nonzero()[0],
    )


def empty_matched(num_samples: int, num_anchors: int, num_boxes: int) -> Matched:
    """Allocate the record that a kernel writes."""
    shape = num_samples, num_anchors
    return Matched(
        labels=np.empty(shape, INT64),
        matched=np.empty(shape, INT64),
        overlaps=np.empty(shape, FLOAT32),
        num_anchors=np.empty(num_boxes, INT64),
        best_iou=np.empty(num_boxes),
        done=np.zeros(num_samples, INT64),
    )


def _blocks(rows: BoxRows) -> list[slice]:
    """Return slices of the samples, of at most `BLOCK_PAIRS` pairs of an object and an anchor, but one sample each."""
    num_samples, num_anchors = rows.offsets.size - 1, rows.anchors.shape[1]
    if (rows.offsets[-1] + num_samples) * num_anchors <= BLOCK_PAIRS:
        return [slice(0, num_samples)]
    blocks, start = [], 0
    # A sample without objects still has its anchors labelled.
    room = (rows.offsets + np.arange(num_samples + 1)) * num_anchors
    while start < num_samples:
        stop = max(start + 1, int(np.searchsorted(room, room[start] + BLOCK_PAIRS, "right")) - 1)
        blocks.append(slice(start, stop))
        start = stop
    return blocks


def _rows_in(rows: BoxRows, block: slice) -> BoxRows:
    """Return the rows of some samples."""
    if block.stop - block.start == rows.offsets.size - 1:
        return rows
    first, last = rows.offsets[block.start], rows.offsets[block.stop]
    offsets = rows.offsets[block.start : block.stop + 1] - first
    offsets.flags.writeable = False
    return BoxRows(
        rows.boxes[first:last],
        rows.classes[first:last],
        rows.crowd[first:last] if rows.crowd.size else rows.crowd,
        offsets,
        rows.anchors[block] if rows.anchors.shape[0] > 1 else rows.anchors,
        rows.valid[block] if rows.valid.shape[0] > 1 else rows.valid,
    )


def _results_in(matched: Matched, offsets: NDArray[Any], block: slice) -> Matched:
    """Return the record that the results of some samples are written to."""
    if block.stop - block.start == offsets.size - 1:
        return matched
    objects = slice(int(offsets[block.start]), int(offsets[block.stop]))
    return Matched(
        matched.labels[block],
        matched.matched[block],
        matched.overlaps[block],
        matched.num_anchors[objects],
        matched.best_iou[objects],
        matched.done[block],
    )
