"""The anchors of known detectors, against the numbers of their authors; offsets, against the reference."""

import math

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.choices import GEOMETRIES, MATCHING_RULES
from ssd_mining.reference import matching as reference

SIZES = {
    "ssd300": 8732,
    "ssd300_coco": 8732,
    "ssd512": 24564,
    "ssd512_coco": 24564,
    "torchvision_ssd300": 8732,
    "ssdlite320": 3234,
}


def caffe_priors(image, cells, step, min_size, max_size, ratios):
    """weiliu89/caffe, src/caffe/layers/prior_box_layer.cpp, flip true, clip false, offset 0.5: corners, float32."""
    real, boxes = np.float32, []
    ratios = [r for ratio in ratios for r in (ratio, 1 / ratio)]
    for h in range(cells):
        for w in range(cells):
            center_x, center_y = real((w + 0.5) * step), real((h + 0.5) * step)
            sides = [(min_size, min_size), (math.sqrt(min_size * max_size),) * 2]
            sides += [(min_size * math.sqrt(ratio), min_size / math.sqrt(ratio)) for ratio in ratios]
            for width, height in sides:
                left_top = [(center_x - width / 2) / image, (center_y - height / 2) / image]
                boxes.append([*left_top, (center_x + width / 2) / image, (center_y + height / 2) / image])
    return np.array(boxes, np.float32)


@pytest.mark.parametrize(
    ("geometry", "image", "levels"),
    [
        (
            "ssd300",
            300,
            [
                (38, 8, 30, 60, (2,)),
                (19, 16, 60, 111, (2, 3)),
                (10, 32, 111, 162, (2, 3)),
                (5, 64, 162, 213, (2, 3)),
                (3, 100, 213, 264, (2,)),
                (1, 300, 264, 315, (2,)),
            ],
        ),
        (
            "ssd512",
            512,
            [
                (64, 8, 35.84, 76.8, (2,)),
                (32, 16, 76.8, 153.6, (2, 3)),
                (16, 32, 153.6, 230.4, (2, 3)),
                (8, 64, 230.4, 307.2, (2, 3)),
                (4, 128, 307.2, 384.0, (2, 3)),
                (2, 256, 384.0, 460.8, (2,)),
                (1, 512, 460.8, 537.6, (2,)),
            ],
        ),
    ],
)
def test_the_priors_of_the_authors(geometry, image, levels):
    expected = np.concatenate([caffe_priors(image, *level) for level in levels])
    got = sm.default_boxes(geometry)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(sm.default_boxes(geometry, image_size=image), expected * image, atol=1e-3)


@pytest.mark.parametrize("geometry", SIZES)
def test_every_geometry_has_its_number_of_anchors(geometry):
    assert sm.default_boxes(geometry).shape == (SIZES[geometry], 4)
    assert sorted([*SIZES, "retinanet"]) == sorted(GEOMETRIES)
    assert tuple(sm.matching_rules) == MATCHING_RULES


def test_torchvision_s_boxes_are_clipped_to_the_image_in_their_sides():
    ours, caffe = (sm.default_boxes(name, box_format="cxcywh") for name in ("torchvision_ssd300", "ssd300_coco"))
    np.testing.assert_array_equal(ours, np.minimum(caffe, [9, 9, 1, 1]).astype(np.float32))
    np.testing.assert_allclose(caffe[-1, 2:], [0.87 / math.sqrt(2), 0.87 * math.sqrt(2)], rtol=1e-6)
    lite = sm.default_boxes("ssdlite320", box_format="cxcywh")
    # From the log of torchvision's ssdlite320_mobilenet_v3_large: 0.2, sqrt(0.2 * 0.35), 0.2 * sqrt(2), 0.2 * sqrt(3).
    np.testing.assert_allclose(lite[:6, 2], [0.2, 0.264575, 0.282843, 0.141421, 0.346410, 0.115470], atol=1e-6)
    np.testing.assert_allclose(lite[-1], [0.5, 0.5, 0.548483, 1.0], atol=1e-6)
    np.testing.assert_allclose(lite[7, :2], [0.075, 0.025], atol=1e-7)


def test_the_anchors_of_torchvision_s_retinanet():
    got = sm.default_boxes("retinanet", image_size=800)
    assert got.shape == (120_087, 4)
    # Its cell anchors of the finest level, which it rounds: sizes 32, 40, 50; ratios 1/2, 1, 2 (height / width).
    assert got[:9].tolist() == [
        [-23, -11, 23, 11], [-28, -14, 28, 14], [-35, -18, 35, 18],
        [-16, -16, 16, 16], [-20, -20, 20, 20], [-25, -25, 25, 25],
        [-11, -23, 11, 23], [-14, -28, 14, 28], [-18, -35, 18, 35],
    ]  # fmt: skip
    assert got[9:10].tolist() == [[-15, -11, 31, 11]]  # one stride to the right
    # The coarsest: 7 cells of 114 pixels, size 812, which becomes 574 by 1148.
    assert got[-1].tolist() == [684 - 287, 684 - 574, 684 + 287, 684 + 574]
    wide = sm.default_boxes("retinanet", image_size=(480, 640), box_format="cxcywh")
    assert wide[: 80 * 9, 1].max() == 0  # rows first
    assert wide[80 * 9, 1] == 8
    with pytest.raises(
        sm.InputError, match="image_size: expected height and width in pixels, for a RetinaNet, got No"
    ):
        sm.default_boxes("retinanet")


def test_a_grid_by_hand():
    got = sm.anchor_grid((1, 2), [[4, 2], [2, 2]], step=(10, 8), offset=1, box_format="xywh", dtype=np.float64)
    assert got.tolist() == [[6, 9, 4, 2], [7, 9, 2, 2], [14, 9, 4, 2], [15, 9, 2, 2]]
    assert sm.anchor_grid(1, [[1, 1]]).tolist() == [[0, 0, 1, 1]]


def test_offsets_by_hand_and_by_the_reference():
    # The centre moves by a tenth of the width and a fifth of the height; the size doubles.
    anchor, box = [[0, 0, 10, 10]], [[[-4, -3, 16, 17]]]
    got = sm.encode_boxes(box, anchor, [[0]])
    np.testing.assert_allclose(got, [[[1, 2, math.log(2) / 0.2, math.log(2) / 0.2]]], rtol=1e-12)
    rng = np.random.default_rng(0)
    boxes, anchors = (np.cumsum(rng.uniform(0.1, 1, (2, 7, 2, 2)), axis=2).reshape(2, 7, 4) for _ in range(2))
    variances = (0.1, 0.3, 0.2, 0.5)
    matched = np.array([[0, 3, -1, 6, -2, 1, 1], [6, 5, 4, 3, 2, 1, 0]])
    for own in (anchors, anchors[0]):
        got = sm.encode_boxes(boxes, own, matched, variances=variances)
        for sample, anchor in np.ndindex(2, 7):
            number = matched[sample, anchor]
            mine = (own[sample] if own.ndim == 3 else own)[anchor]
            expected = reference.encode(boxes[sample, number], mine, variances) if number >= 0 else [0] * 4
            np.testing.assert_allclose(got[sample, anchor], expected, rtol=1e-12)
        back = sm.decode_boxes(got, own, variances=variances)
        for sample, anchor in np.argwhere(matched >= 0):
            np.testing.assert_allclose(back[sample, anchor], boxes[sample, matched[sample, anchor]], rtol=1e-12)


def test_decoding_gives_any_format_and_grows_no_further_than_it_may():
    offsets, anchors = np.float32([[[1, -1, 50, 2]]]), np.float32([[0, 0, 10, 20]])
    box = sm.decode_boxes(offsets, anchors, max_growth=1000 / 16, box_format="cxcywh")
    np.testing.assert_allclose(box, [[[6, 8, 625, 20 * math.exp(0.4)]]], rtol=1e-6)
    assert box.dtype == np.float32
    corner = sm.decode_boxes(offsets, anchors, max_growth=1000 / 16, box_format="xywh")
    np.testing.assert_allclose(corner[..., 2:], box[..., 2:], rtol=1e-6)
    np.testing.assert_allclose(corner[..., :2], box[..., :2] - box[..., 2:] / 2, rtol=1e-6)
    assert np.isinf(sm.decode_boxes([[[0, 0, 5000, 0]]], anchors)).sum() == 2
    np.testing.assert_allclose(
        sm.decode_boxes([[[0, 0, 0, 0]]], [[5, 10, 10, 20]], anchor_format="cxcywh"), [[[0, 0, 10, 20]]]
    )


def test_recipes_name_rules_that_there_are():
    named = {name: recipe.matching for name, recipe in sm.recipes.items() if recipe.matching is not None}
    assert set(named.values()) <= set(sm.matching_rules)
    assert all(named[name] == name for name in MATCHING_RULES if name in sm.recipes)
    assert sm.recipes["seed"].matching is None
