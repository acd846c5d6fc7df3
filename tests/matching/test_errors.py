"""Every error of matching, of offsets and of anchors: the argument, what was expected, what came."""

import re

import numpy as np
import pytest

import ssd_mining as sm

BOX, ANCHORS = [[[0, 0, 1, 1]]], [[0, 0, 1, 1], [1, 0, 2, 1]]
NAN, INF = float("nan"), float("inf")


def match(boxes=BOX, classes=((1,),), anchors=ANCHORS, **keywords):
    return sm.match_anchors(boxes, classes, anchors, **keywords)


VALUES = [
    ({"boxes": np.ones((2, 4))},
     "boxes: expected an array for each sample, or one of all boxes with box_offsets, got shape (2, 4); [boxes] is"),
    ({"boxes": [[0, 0, 1, 1]]}, "boxes: expected an (n, 4) array for sample 0, got shape (4,); [boxes] is one sample"),
    ({"boxes": [[[0, 0, 1]]]}, "boxes: expected an (n, 4) array for sample 0, got shape (1, 3)"),
    ({"boxes": [[[0, 0, 1, NAN]]]}, "boxes: expected finite coordinates, got [ 0.,  0.,  1., nan] for box 0"),
    ({"boxes": [[[0, 0, 1, INF]]]}, "boxes: expected finite coordinates, got [ 0.,  0.,  1., inf] for box 0"),
    ({"boxes": [[[0, 0, 1, 1], [5, 5, 2, 2]]], "classes": [[1, 1]]},
     'boxes: expected boxes with x1 <= x2 and y1 <= y2, got [5, 5, 2, 2] for box 1 of sample 0; box_format="cxcywh"'),
    ({"boxes": [[[0, 0, -1, 1]]], "box_format": "xywh"},
     "boxes: expected boxes with w and h of at least 0, got [ 0,  0, -1,  1] for box 0 of sample 0"),
    ({"boxes": np.float32([[[0, 0, 1e30, 1e30]]]), "anchors": np.float32(ANCHORS)},
     "boxes: expected boxes with a finite area"),
    ({"box_format": "corners"}, "box_format: expected 'xyxy' or 'cxcywh' or 'xywh', got 'corners'"),
    ({"anchor_format": "x"}, "anchor_format: expected 'xyxy' or 'cxcywh' or 'xywh', got 'x'"),
    ({"classes": [[0]]},
     "classes: expected classes other than background (0), got 0 for box 0 of sample 0; add 1 to the classes, or pass"),
    ({"classes": [[-1]]}, "classes: expected classes other than ignore_index (-1), got -1 for box 0 of sample 0"),
    ({"classes": [[1, 2]]}, "classes: expected one for each of the 1 boxes of sample 0, got 2"),
    ({"classes": [[1], [2]]}, "classes: expected those of 1 samples, as boxes, got those of 2"),
    ({"classes": [[[1]]]}, "classes: expected an (n,) array for sample 0, got shape (1, 1)"),
    ({"classes": np.array([1])},
     "classes: expected an array for each sample, or one of all boxes with box_offsets, got shape (1,); [classes] is"),
    ({"classes": [np.uint64([2**63])]}, f"classes: expected numbers that int64 can hold, got {2**63}"),
    ({"crowd": [[True, False]]}, "crowd: expected one for each of the 1 boxes of sample 0, got 2"),
    ({"anchors": [0, 0, 1, 1]}, "anchors: expected an (A, 4) or a (B, A, 4) array, got shape (4,)"),
    ({"anchors": [[0, 0, 1]]}, "anchors: expected an (A, 4) or a (B, A, 4) array, got shape (1, 3)"),
    ({"anchors": [ANCHORS, ANCHORS]}, "anchors: expected the anchors of 1 samples, as boxes, got shape (2, 2, 4)"),
    ({"anchors": [[0, 0, 1, 1], [0, NAN, 1, 1]]},
     "anchors: expected finite coordinates, got [ 0., nan,  1.,  1.] for anchor 1"),
    ({"anchors": [[[0, 0, 1, 1], [0.5, 0.5, 0.1, 0.1]]]},
     'anchors: expected boxes with x1 <= x2 and y1 <= y2, got [0.5, 0.5, 0.1, 0.1] for anchor 1 of sample 0; anchor_f'),
    ({"valid": [True]}, "valid: expected a (2,) or a (1, 2) array, got shape (1,)"),
    ({"boxes": BOX[0], "box_offsets": [0, 2]},
     "box_offsets: expected numbers that never fall, from 0 to the 1 boxes, got [0, 2]"),
    ({"boxes": BOX[0], "box_offsets": [[0, 1]]}, "box_offsets: expected a (B + 1,) array, got shape (1, 2)"),
    ({"boxes": BOX[0], "box_offsets": [0, 1], "classes": [1, 2]}, "classes: expected one for each of 1 boxes, got 2"),
    ({"boxes": BOX, "box_offsets": [0, 1]}, "boxes: expected an (n, 4) array beside box_offsets, got shape (1, 1, 4)"),
    ({"rule": "ssd"}, "rule: expected 'caffe' or 'torchvision'"),
    ({"backend": "gpu"}, "backend: expected 'cpu', 'cuda', 'reference' or None, got 'gpu'"),
    ({"num_threads": 0}, "num_threads: expected a whole number of at least 1 or None, got 0"),
    ({"pos_iou": 0}, "pos_iou: expected a number above 0 and at most 1, got 0"),
    ({"pos_iou": 1.5}, "pos_iou: expected a number above 0 and at most 1, got 1.5"),
    ({"neg_iou": 0.6}, "neg_iou: expected a number from 0 to pos_iou (0.5), got 0.6"),
    ({"neg_iou": 0}, "neg_iou: expected a number above 0, or two of which the second is larger, got 0"),
    ({"neg_iou": (0.4, 0.3)}, "neg_iou: expected a number above 0, or two of which the second is larger, got (0"),
    ({"neg_iou": (0.1, 0.2, 0.3)}, "neg_iou: expected a number, or two, got (0.1, 0.2, 0.3)"),
    ({"force": "all"}, "force: expected 'bipartite' or 'argmax' or 'argmax_all' or 'own_best' or 'none', got 'all'"),
    ({"contested": "x"}, "contested: expected 'last' or 'first', got 'x'"),
    ({"force_iou": 2}, "force_iou: expected a number from 0 to 1, got 2"),
    ({"ignore_ioa": -1}, "ignore_ioa: expected a number from 0 to 1, got -1"),
    ({"background": -1}, "background: expected a whole number of at least 0, got -1"),
    ({"background": 3, "ignore_index": 3}, "ignore_index: expected a label other than background, got 3 for both"),
]  # fmt: skip
TYPES = [
    ({"boxes": [[["a"] * 4]]}, "boxes: expected float16, float32, float64 or integer values, got dtype <U1"),
    ({"classes": [[1.5]]}, "classes: expected whole numbers, got dtype float64"),
    ({"crowd": [[1]]}, "crowd: expected bools, True for a region of many objects, got dtype int64"),
    ({"valid": [1, 0]}, "valid: expected a bool array, True where the anchor counts, got dtype int64"),
    ({"anchors": [["a"] * 4]}, "anchors: expected float16, float32, float64 or integer values, got dtype <U1"),
    ({"boxes": BOX[0], "box_offsets": [0.0, 1.0]}, "box_offsets: expected whole numbers, got dtype float64"),
    ({"rule": 5}, "rule: expected a Matching, the name of one, or None, got int"),
    ({"crowd_first": 1}, "crowd_first: expected True or False, got 1"),
    ({"pos": 0.5}, "pos: no such keyword; the fields of Matching are background, contested"),
]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("keywords", "message"), VALUES, ids=[message[:40] for _, message in VALUES])
def test_a_wrong_value_is_named(keywords, message, backend):
    with pytest.raises(ValueError, match=re.escape(message)):
        match(**{"backend": backend, **keywords})


@pytest.mark.parametrize(("keywords", "message"), TYPES, ids=[message[:40] for _, message in TYPES])
def test_a_wrong_type_is_named(keywords, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        match(**keywords)


class OnDevice:
    __cuda_array_interface__ = {"shape": (1, 4), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012


def test_arrays_on_a_gpu_are_refused_by_name():
    here = np.zeros((1, 2), int)
    for call in (
        lambda there: match(boxes=[there]),
        lambda there: match(anchors=there),
        lambda there: sm.encode_boxes(BOX, there, here),
        lambda there: sm.decode_boxes(there, ANCHORS),
    ):
        with pytest.raises(NotImplementedError, match="lies on a GPU, where boxes are not matched or encoded yet"):
            call(OnDevice())
    with pytest.raises(NotImplementedError, match='match_anchors: not written for backend="cuda"'):
        match(backend="cuda")


OFFSETS = [
    (lambda: sm.encode_boxes(BOX, ANCHORS, [[0]]), "matched: expected a (1, 2) array, as boxes and anchors, got shape"),
    (lambda: sm.encode_boxes(BOX, ANCHORS, [[1, 0]]),
     "matched: expected the number of one of 1 boxes, got 1 at (sample 0, anchor 0)"),
    (lambda: sm.encode_boxes(BOX, ANCHORS, [[0, 0]], variances=(1, 1)),
     "variances: expected four numbers, of x, y, width and height, got shape (2,)"),
    (lambda: sm.encode_boxes(BOX, ANCHORS, [[0, 0]], variances=(1, 1, 0, 1)),
     "variances: expected a number above 0, finite, got 0"),
    (lambda: sm.encode_boxes([[[0, 0, 0, 1]]], ANCHORS, [[-1, 0]]),
     "boxes: expected matched boxes with a width and a height above 0, got [0.0, 0.0, 0.0, 1.0] at (sa"),
    (lambda: sm.encode_boxes(BOX, [[0, 0, 1, 0]], [[0]]), "anchors: expected matched boxes with a width and a height"),
    (lambda: sm.encode_boxes(BOX, [[0, 0, NAN, 1]], [[0]]), "anchors: expected finite coordinates"),
    (lambda: sm.encode_boxes([[[0, 0, NAN, 1]]], ANCHORS, [[0, 0]]), "boxes: expected finite coordinates"),
    (lambda: sm.decode_boxes([[0, 0, 0, 0]], ANCHORS), "offsets: expected a (B, A, 4) array, got shape (1, 4)"),
    (lambda: sm.decode_boxes(np.zeros((1, 3, 4)), ANCHORS), "anchors: expected 3 anchors, as offsets, got 2"),
    (lambda: sm.decode_boxes(np.zeros((1, 1, 4)), [[1, 0, 0, 1]]), "anchors: expected boxes with x1 <= x2"),
    (lambda: sm.decode_boxes(np.zeros((1, 2, 4)), ANCHORS, max_growth=0.5),
     "max_growth: expected a finite number of at least 1, got 0.5"),
    (lambda: sm.anchor_grid(0, [[1, 1]]), "cells: expected a whole number of at least 1, got 0"),
    (lambda: sm.anchor_grid(2, [1, 1]), "sizes: expected a (K, 2) array of widths and heights, got shape (2,)"),
    (lambda: sm.anchor_grid(2, [[1, -1]]), "sizes: expected finite widths and heights of at least 0, got -1"),
    (lambda: sm.anchor_grid(2, [[1, 1]], step=0), "step: expected a number above 0, finite, got 0"),
    (lambda: sm.default_boxes("ssd"), "geometry: expected 'ssd300' or"),
    (lambda: sm.default_boxes(image_size=0), "image_size: expected a whole number of at least 1, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), OFFSETS, ids=[message[:40] for _, message in OFFSETS])
def test_wrong_offsets_and_anchors_are_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sm.encode_boxes(BOX, ANCHORS, [[0.0, 1.0]]), "matched: expected whole numbers, got dtype float64"),
        (lambda: sm.anchor_grid((1, 2, 3), [[1, 1]]), "cells: expected one number, or two, got (1, 2, 3)"),
        (lambda: sm.anchor_grid(2, [[1, 1]], dtype=int), "dtype: expected float16, float32 or float64, got int64"),
    ],
)
def test_wrong_types_of_offsets_and_anchors_are_named(call, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        call()


def test_the_number_of_a_box_is_told_in_its_sample():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 0, 1, 1]])
    with pytest.raises(sm.InputError, match=re.escape("got [2, 0, 1, 1] for box 1 of sample 2")):
        sm.match_anchors(boxes, [1, 1, 1], ANCHORS, box_offsets=[0, 1, 1, 3])
