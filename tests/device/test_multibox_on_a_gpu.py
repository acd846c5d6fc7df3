"""Losses from logits, their gradients and the whole loss on a GPU, at full size: ``pytest -m gpu``."""

import dataclasses
import re

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.engine import lazy_losses
from ssd_mining.engine.run import call_of
from ssd_mining.inputs.logits import check_logits
from tests.support.batches import REAL_FILES, ROOT, load_real
from tests.support.multibox import CLASSIFICATIONS

pytestmark = pytest.mark.gpu


def draw(num_classes, dtype, num_samples=32, num_anchors=8732):
    rng = np.random.default_rng(num_classes)
    logits = rng.normal(0, 2, (num_samples, num_anchors, num_classes)).astype(dtype)
    logits[..., 0] += 6
    labels = np.where(rng.random(logits.shape[:2]) < 0.01, rng.integers(0, num_classes, logits.shape[:2]), 0)
    return logits, labels, rng.normal(0, 2, (2, num_samples, num_anchors, 4)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_classes", [2, 4, 21, 81, 91])
def test_losses_and_gradients_are_those_of_the_cpu(num_classes, dtype):
    logits, labels, _ = draw(num_classes, dtype)
    factors = np.where(labels > 0, 0.25, 0.0).ravel()
    anchors = np.flatnonzero(factors)
    for spec in (sm.Softmax(), sm.Softmax(label_smoothing=0.1), sm.Sigmoid(), sm.Focal()):
        checked, calls = check_logits(logits, labels, spec), (call_of("cuda", None), call_of("cpu", None))
        tolerance = 1e-6 if dtype == np.float32 else 1e-12
        losses = [lazy_losses.losses(checked, call) for call in calls]
        np.testing.assert_allclose(*losses, rtol=tolerance, atol=1e-36, err_msg=repr(spec))
        gradients = [lazy_losses.gradients(checked, anchors, factors[anchors], call) for call in calls]
        np.testing.assert_allclose(*gradients, rtol=tolerance, atol=1e-14, err_msg=repr(spec))


def test_float32_losses_have_the_promised_accuracy():
    logits, labels, _ = draw(21, np.float32)
    exact = sm.softmax_cross_entropy(logits.astype(np.float64), labels)
    np.testing.assert_allclose(sm.softmax_cross_entropy(logits, labels, backend="cuda"), exact, rtol=5e-7)


@pytest.mark.parametrize("name", REAL_FILES)
def test_the_real_files_in_full(name):
    real = load_real(name, "first")
    out = sm.multibox_loss(real["logits"], real["labels"], background=0, normalize="batch", backend="cuda")
    cpu = sm.multibox_loss(real["logits"], real["labels"], background=0, normalize="batch")
    assert out.loss == pytest.approx(cpu.loss, rel=1e-6)
    np.testing.assert_array_equal(out.num_kept, cpu.num_kept)


@pytest.fixture
def torch():
    """Return torch, where it has CUDA."""
    module = pytest.importorskip("torch", reason="torch is not installed")
    if not module.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    return module


@pytest.mark.parametrize("name", CLASSIFICATIONS)
@pytest.mark.parametrize("class_axis", [-1, 1])
def test_the_whole_loss_of_tensors_is_that_of_the_cpu(name, class_axis, torch):
    logits, labels, boxes = draw(4, np.float32)
    call = {
        "background": 0,
        "classification": CLASSIFICATIONS[name],
        "with_gradients": True,
        "class_axis": class_axis,
    }
    logits = np.ascontiguousarray(np.moveaxis(logits, -1, class_axis))
    expected = sm.multibox_loss(logits, labels, *boxes, **call)
    with torch.cuda.stream(torch.cuda.Stream()):
        out = sm.multibox_loss(*(torch.from_numpy(array).cuda() for array in (logits, labels, *boxes)), **call)
        for field in dataclasses.fields(expected):
            got = getattr(out, field.name)
            assert got.is_cuda, field.name
            theirs = getattr(expected, field.name)
            np.testing.assert_allclose(got.cpu().numpy(), theirs, rtol=1e-5, atol=1e-12, err_msg=field.name)


def test_a_captured_graph_computes_the_loss_again(torch):
    logits, labels, boxes = (torch.from_numpy(np.asarray(array)).cuda() for array in draw(21, np.float32))
    arrays = logits, labels.to(torch.uint8), *boxes
    call = {"background": 0, "nan_policy": "propagate", "with_gradients": True}  # nothing is read back
    sm.multibox_loss(*arrays, **call)  # compiled before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = sm.multibox_loss(*arrays, **call)
    logits.normal_()
    graph.replay()
    expected = sm.multibox_loss(*arrays, **call)
    for name in ("loss", "logits_gradient", "loc_gradient"):
        assert torch.equal(getattr(out, name), getattr(expected, name)), name


def test_the_page_about_training_runs_on_a_gpu(torch):
    names = {"__name__": "page"}
    for block in re.findall(r"```python torch\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.DOTALL):
        exec(compile(block, "docs/training.md", "exec"), names)  # noqa: S102 - our own page
    assert names["loss"].is_cuda
    assert names["logits"].grad.abs().sum() > 0
    assert torch.isfinite(names["loss"])
