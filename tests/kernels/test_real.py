"""The outputs of real detectors, against the results that were computed beside them."""

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.batches import REAL_FILES, load_real


@pytest.mark.full_size
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("background", ["first", "last"])
@pytest.mark.parametrize("name", REAL_FILES)
def test_the_real_files_give_their_expected_results(name, background, backend):
    real = load_real(name, background)
    num_classes = real["logits"].shape[2]
    if background == "first":
        call = {"labels": real["labels"], "background": 0}
    else:
        call = {"labels": np.eye(num_classes, dtype=np.float32)[real["labels"]]}  # the notebook's gt_cl
    res = sm.mine_hard_negatives(real["losses"], **call, backend=backend)
    np.testing.assert_array_equal(res.num_pos, real["exp_P"])
    np.testing.assert_array_equal(res.num_neg, real["exp_N"])
    np.testing.assert_array_equal(res.num_kept, real["exp_k"])
    np.testing.assert_array_equal(res.hard_negative_mask, real["kept_neg"])
    kept = res.num_kept > 0
    assert kept.sum() < kept.size  # each file has a sample without positives
    np.testing.assert_array_equal(res.threshold[kept], real["exp_kth"][kept])
    np.testing.assert_allclose(res.positive_sum, real["exp_pos_sum"], rtol=3e-7, atol=0)
    np.testing.assert_allclose(res.negative_sum, real["exp_neg_sum"], rtol=3e-7, atol=0)
    out = sm.confidence_loss(real["losses"], **call, backend=backend)
    np.testing.assert_allclose(out.confidence_loss, real["exp_total"], rtol=3e-7, atol=0)
    assert f"{out.loss:.6f}" == REAL_FILES[name]
