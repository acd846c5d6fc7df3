"""`reference.confidence_loss` against every number that the seed notebook prints."""

from dataclasses import fields

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining import reference

CLASSES = [[2, 0, 0, 1, 0], [0, 2, 2, 2, 2], [2, 2, 1, 2, 0]]
GT_CL = np.eye(3)[CLASSES]
CONF = [
    [0.39282098, 0.4600574, 0.01153591, 0.14568441, 0.85366163],
    [0.33491521, 0.18863397, 0.18936157, 0.18933312, 0.09754541],
    [0.71655552, 0.89165631, 0.28296348, 0.45780019, 0.41719255],
]
T, F = True, False
PRINTED = {
    "total_num": (np.int64, [5, 5, 5]),
    "negatives_num": (np.int64, [1, 4, 3]),
    "positives_num": (np.int64, [4, 1, 2]),
    "positives_num_safe": (np.float32, [4, 1, 2]),
    "positives_mask": (np.bool_, [[F, T, T, T, T], [T, F, F, F, F], [F, F, T, F, T]]),
    "negatives_mask": (np.bool_, [[T, F, F, F, F], [F, T, T, T, T], [T, T, F, T, F]]),
    "positives_conf": (
        np.float32,
        [
            [0, 0.4600574, 0.01153591, 0.1456844, 0.85366166],
            [0.33491522, 0, 0, 0, 0],
            [0, 0, 0.28296348, 0, 0.41719255],
        ],
    ),
    "positives_sum": (np.float32, [1.4709394, 0.33491522, 0.70015603]),
    "negatives_conf": (
        np.float32,
        [
            [0.39282098, 0, 0, 0, 0],
            [0, 0.18863396, 0.18936157, 0.18933313, 0.09754541],
            [0.71655554, 0.89165634, 0, 0.45780018, 0],
        ],
    ),
    "negatives_top": (
        np.float32,
        [
            [0.39282098, 0, 0, 0, 0],
            [0.18936157, 0.18933313, 0.18863396, 0.09754541, 0],
            [0.89165634, 0.71655554, 0.45780018, 0, 0],
        ],
    ),
    "negatives_num_max": (np.int64, [1, 3, 3]),
    "negatives_num_max_t": (np.int64, [[1], [3], [3]]),
    "rng": (np.int32, [0, 1, 2, 3, 4]),
    "range_row": (np.int64, [[0, 1, 2, 3, 4]]),
    "negatives_max_mask": (np.bool_, [[T, F, F, F, F], [T, T, T, F, F], [T, T, T, F, F]]),
    "negatives_max": (
        np.float32,
        [
            [0.39282098, 0, 0, 0, 0],
            [0.18936157, 0.18933313, 0.18863396, 0, 0],
            [0.89165634, 0.71655554, 0.45780018, 0, 0],
        ],
    ),
    "negatives_max_sum": (np.float32, [0.39282098, 0.5673287, 2.0660121]),
    "confidence_loss": (np.float32, [1.8637604, 0.9022439, 2.766168]),
    "batch_confidence_loss": (np.float32, 1.8440574),
}


def test_the_table_names_every_tensor_of_the_notebook():
    assert [field.name for field in fields(reference.Notebook)] == list(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_the_reference_prints_what_the_notebook_printed(name):
    dtype, printed = PRINTED[name]
    got = getattr(reference.confidence_loss(GT_CL, CONF), name)
    expected = np.asarray(printed, dtype)
    assert got.dtype == dtype
    assert got.shape == expected.shape
    assert str(got) == str(expected)


def test_a_sample_without_positives_gets_the_safe_divisor():
    notebook = reference.confidence_loss(np.eye(2)[[[1, 1]]], [[1, 2]])
    assert notebook.positives_num_safe == np.float32(10e-15)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_every_backend_gives_the_notebook_s_losses(backend):
    out = sm.confidence_loss(np.float32(CONF), GT_CL, backend=backend)
    assert f"{out.loss:.7f}" == "1.8440574"
    # The notebook sums in float32, we in float64: the printed numbers agree to a float32 step of 1.
    np.testing.assert_allclose(out.confidence_loss, [1.8637604, 0.9022439, 2.766168], rtol=0, atol=1.2e-7)
    np.testing.assert_allclose(out.negative_sum, [0.39282098, 0.5673287, 2.0660121], rtol=0, atol=1.2e-7)
    assert out.num_kept.tolist() == [1, 3, 3]
    divided = sm.confidence_loss(np.float32(CONF), GT_CL, normalize="sample_positives", backend=backend)
    assert f"{divided.loss:.7f}" == "0.9170893"


def test_an_all_zero_row_is_a_positive_in_the_notebook_and_here():
    gt_cl = np.array([[[0.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    conf = [[1.0, 2.0, 3.0]]
    assert reference.confidence_loss(gt_cl, conf).positives_num == [1]
    with pytest.warns(sm.HazardWarning, match="all-zero rows of labels make 1 of the 3 anchors positives"):
        assert sm.confidence_loss(conf, gt_cl).num_pos == [1]
    assert sm.confidence_loss(conf, gt_cl, all_zero="ignore").num_pos == [0]


def test_a_negative_loss_below_zero_is_the_one_difference_from_the_notebook():
    gt_cl, conf = np.eye(2)[[[0, 1, 1]]], np.float32([[1.0, -2.0, -3.0]])
    assert reference.confidence_loss(gt_cl, conf).negatives_max_sum == [-2.0]  # the zeroed positive took a place
    assert sm.confidence_loss(conf, gt_cl).negative_sum == [-5.0]
