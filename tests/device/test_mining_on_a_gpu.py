"""The CUDA twin on a GPU, at full size: ``pytest -m gpu``."""

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.batches import REAL_FILES, load_real, losses

KINDS = ["gamma", "ties", "zeros", "negative", "special", "equal", "ascending", "descending"]
pytestmark = pytest.mark.gpu


def assert_same(got, expected):
    for name in ("hard_negative_mask", "pos_mask", "num_pos", "num_neg", "num_kept", "threshold"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)
    for name in ("positive_sum", "negative_sum"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-6, err_msg=name)
    for ours, theirs in zip(got.indices(), expected.indices(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def both(conf_loss, labels, **keywords):
    first, again = (sm.mine_hard_negatives(conf_loss, labels, backend="cuda", **keywords) for _ in range(2))
    for name in ("positive_sum", "negative_sum"):  # bit by bit the same in every run
        np.testing.assert_array_equal(getattr(first, name).view(np.int64), getattr(again, name).view(np.int64))
    assert_same(first, sm.mine_hard_negatives(conf_loss, labels, backend="cpu", **keywords))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_anchors", [1, 63, 1000, 8732, 24564, 32768, 40000])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_kind_are_those_of_the_cpu(kind, num_anchors, dtype):
    rng = np.random.default_rng(num_anchors)
    conf_loss, pos_mask = losses(kind, (16, num_anchors), rng).astype(dtype), rng.random((16, num_anchors)) < 0.01
    pos_mask[0] = False
    both(conf_loss, pos_mask)
    both(conf_loss, pos_mask, num_negatives=rng.integers(0, num_anchors, 16))


@pytest.mark.parametrize("kind", ["gamma", "ties", "equal"])
def test_a_row_of_a_million_anchors_is_that_of_the_cpu(kind):
    rng = np.random.default_rng(0)
    both(losses(kind, (1, 1_000_000), rng), rng.random((1, 1_000_000)) < 0.01)


@pytest.mark.parametrize("labels", ["int64", "int32", "int16", "uint8", "uint64"])
def test_labels_of_every_width_and_every_rule_are_those_of_the_cpu(labels):
    rng = np.random.default_rng(1)
    conf_loss, classes = losses("ties", (33, 8732), rng), np.where(rng.random((33, 8732)) < 0.02, 3, 0).astype(labels)
    valid, rank_by = rng.random((33, 8732)) < 0.9, losses("gamma", (33, 8732), rng)
    both(conf_loss, classes, background=0)
    both(conf_loss, classes, background=0, valid=valid, rank_by=rank_by)
    for rules in ({"scope": "batch"}, {"tie_policy": "all"}, {"skip_hardest": 5}, {"min_negatives": 0.01}):
        both(conf_loss, classes, background=0, **rules)


@pytest.mark.parametrize("nan_policy", ["omit", "propagate"])
def test_nan_is_treated_as_on_the_cpu(nan_policy):
    rng = np.random.default_rng(2)
    conf_loss = losses("special", (8, 8732), rng)
    conf_loss[rng.random(conf_loss.shape) < 0.1] = np.nan
    both(conf_loss, rng.random(conf_loss.shape) < 0.01, nan_policy=nan_policy)


@pytest.mark.parametrize("name", REAL_FILES)
def test_the_real_files_in_full(name):
    real = load_real(name)
    both(real["losses"], real["labels"], background=0)
    out = sm.confidence_loss(real["losses"], real["labels"], background=0, backend="cuda")
    assert f"{out.loss:.6f}" == REAL_FILES[name]


FORMS = {
    "classes": lambda y: (y, {"background": 0}),
    "bytes": lambda y: (y.astype(np.uint8), {"background": 0}),
    "a mask": lambda y: (y != 0, {}),
    "one-hot": lambda y: (np.eye(4, dtype=np.float32)[y], {"background": 0}),
    "valid": lambda y: (y, {"background": 0, "valid": np.arange(y.size).reshape(y.shape) % 7 > 0}),
    "a batch": lambda y: (y, {"background": 0, "scope": "batch"}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("library", ["torch", "cupy", "numba"])
def test_device_arrays_of_every_library_are_mined_on_their_stream(library, form):
    if library == "torch":
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("this torch has no CUDA")
        here, back = lambda a: torch.from_numpy(a).cuda(), lambda a: a.cpu().numpy()
        queue = torch.cuda.stream(torch.cuda.Stream())
    elif library == "cupy":
        cupy = pytest.importorskip("cupy")
        here, back, queue = cupy.asarray, cupy.asnumpy, cupy.cuda.Stream(non_blocking=True)
    else:
        from contextlib import nullcontext

        from numba import cuda

        here, back, queue = cuda.to_device, lambda a: a.copy_to_host(), nullcontext()
    rng = np.random.default_rng(3)
    conf_loss, classes = losses("ties", (32, 8732), rng), np.where(rng.random((32, 8732)) < 0.01, 3, 0)
    labels, keywords = FORMS[form](classes)
    expected = sm.mine_hard_negatives(conf_loss, labels, backend="cpu", **keywords)
    with queue:
        moved = {name: here(value) if np.ndim(value) == 2 else value for name, value in keywords.items()}
        got = sm.mine_hard_negatives(here(conf_loss), here(labels), **moved)
        kind = type(here(conf_loss))
        for name in ("hard_negative_mask", "num_kept", "threshold"):
            assert isinstance(getattr(got, name), kind), name
            np.testing.assert_array_equal(back(getattr(got, name)), getattr(expected, name), err_msg=name)
        for ours, theirs in zip(got.indices(), expected.indices(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        out = sm.confidence_loss(here(conf_loss), here(labels), **moved)
    assert out.loss == pytest.approx(sm.confidence_loss(conf_loss, labels, backend="cpu", **keywords).loss, rel=1e-6)


def test_a_captured_graph_mines_again():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    conf_loss, labels = torch.rand(32, 8732, device="cuda"), (torch.rand(32, 8732, device="cuda") < 0.01)
    call = {"nan_policy": "propagate"}  # nothing is read back
    sm.hard_negative_mask(conf_loss, labels, **call)  # compiled before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mask = sm.hard_negative_mask(conf_loss, labels, **call)
    conf_loss.copy_(torch.rand(32, 8732, device="cuda"))
    graph.replay()
    expected = sm.hard_negative_mask(conf_loss.cpu().numpy(), labels.cpu().numpy())
    np.testing.assert_array_equal(mask.cpu().numpy(), expected)
