"""The labels of real images, which a matching as in Caffe gave before this package had one."""

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.batches import REAL_FILES, load_real

# In these rows of coco91_int8, an object has several best anchors whose overlaps differ by rounding alone.
TIED = {"coco91_int8.npz": [13, 19, 26]}


def matched(real, boxes, anchors, box_format):
    objects = {"box_offsets": real["gt_offsets"], "box_format": box_format, "anchor_format": "cxcywh"}
    return sm.match_anchors(boxes, real["gt_classes"], anchors, rule="caffe", **objects)


@pytest.mark.full_size
@pytest.mark.parametrize("name", REAL_FILES)
def test_the_boxes_give_the_labels_and_the_targets(name):
    real = load_real(name)
    res = matched(real, real["gt_boxes"], real["priors"], "xyxy")
    wrong = np.flatnonzero((res.labels != real["labels"]).any(axis=1))
    assert wrong.tolist() == TIED.get(name, [])
    target = sm.encode_boxes(
        real["gt_boxes"], real["priors"], res.matched, box_offsets=real["gt_offsets"], anchor_format="cxcywh"
    )
    same = (res.labels == real["labels"]) & (res.labels > 0)
    np.testing.assert_allclose(target[same], real["loc_targets"][same], atol=2e-4)
    again = sm.decode_boxes(target, real["priors"], anchor_format="cxcywh")
    objects = np.repeat(np.arange(len(real["gt_offsets"]) - 1), np.diff(real["gt_offsets"]))
    for sample, anchor in np.argwhere(res.matched >= 0):
        box = real["gt_boxes"][objects == sample][res.matched[sample, anchor]]
        np.testing.assert_allclose(again[sample, anchor], box, atol=1e-6)


@pytest.mark.full_size
def test_boxes_of_full_precision_give_every_label():
    real = load_real("coco91_int8.npz")
    sample = np.repeat(np.arange(32), np.diff(real["gt_offsets"]))
    image = np.tile(real["image_wh"][sample], 2).astype(np.float64)
    pixels = np.round(real["gt_boxes"] * image, 2)  # the annotations have two decimals
    size = np.round(pixels[:, 2:] - pixels[:, :2], 2)
    boxes = np.concatenate([pixels[:, :2], size], axis=1) / image
    scales = [0.2 + (0.95 - 0.2) * k / 5 for k in range(6)] + [1.0]
    maps = []
    for k, cells in enumerate((19, 10, 5, 3, 2, 1)):
        ratios = (2, 1 / 2) if k == 0 else (1, 2, 1 / 2, 3, 1 / 3)
        sides = [(scales[k] * np.sqrt(ratio), scales[k] / np.sqrt(ratio)) for ratio in ratios]
        sides = [(0.1, 0.1), *sides] if k == 0 else [*sides, (np.sqrt(scales[k] * scales[k + 1]),) * 2]
        maps.append(sm.anchor_grid(cells, sides, box_format="cxcywh", dtype=np.float64))
    anchors = np.concatenate(maps)
    np.testing.assert_allclose(anchors, real["priors"], atol=1e-4)
    np.testing.assert_array_equal(matched(real, boxes, anchors, "xywh").labels, real["labels"])
