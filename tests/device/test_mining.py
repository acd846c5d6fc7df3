"""Device arrays are mined where they are, of any library, form and layout, or refused in the words of the host."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.kernels.cuda import runtime
from tests.support.device import Interface, Packed, Tensor, needs_simulator, to_host

pytestmark = [pytest.mark.cuda, needs_simulator]


def assert_same(got, expected):
    for name in ("hard_negative_mask", "pos_mask", "num_pos", "num_neg", "num_kept", "threshold"):
        np.testing.assert_array_equal(to_host(getattr(got, name)), getattr(expected, name), err_msg=name)
    for name in ("positive_sum", "negative_sum"):
        np.testing.assert_allclose(to_host(getattr(got, name)), getattr(expected, name), rtol=1e-12, err_msg=name)
    for ours, theirs in zip(got.indices(), expected.indices(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def of_numba(array):
    return runtime.cuda.to_device(array)


def drawn(seed=0, shape=(3, 70)):
    rng = np.random.default_rng(seed)
    conf_loss, classes = rng.gamma(0.3, 1.0, shape).astype(np.float32), (rng.random(shape) < 0.1).astype(np.int64)
    return SimpleNamespace(conf_loss=conf_loss, classes=classes, valid=rng.random(shape) < 0.8)


def on_device(wrap, conf_loss, labels, **keywords):
    moved = {name: wrap(value) if np.ndim(value) == 2 else value for name, value in keywords.items()}
    return sm.mine_hard_negatives(wrap(conf_loss), wrap(labels), **moved)


FORMS = {
    "classes": lambda d: (d.classes, {"background": 0}),
    "bytes": lambda d: (d.classes.astype(np.uint8), {"background": 0}),
    "ignored classes": lambda d: (np.where(d.valid, d.classes, -1), {"background": 0, "ignore_index": -1}),
    "valid classes": lambda d: (np.where(d.valid, d.classes, -9), {"background": 0, "valid": d.valid}),
    "a mask": lambda d: (d.classes == 1, {}),
    "a valid mask": lambda d: (d.classes == 1, {"valid": d.valid}),
    "one-hot": lambda d: (np.eye(2, dtype=np.float32)[d.classes], {"background": 0}),
    "one-hot integers": lambda d: (np.eye(3, dtype=np.int8)[d.classes], {"background": -3, "valid": d.valid}),
    "empty rows": lambda d: (np.eye(3)[d.classes] * d.valid[..., None], {"background": 0, "all_zero": "ignore"}),
    "the highest class": lambda d: ((127 * d.classes).astype(np.int8), {"background": 0}),
    "a fraction": lambda d: (d.classes, {"background": 0, "neg_pos_ratio": 1.3, "extra_negatives": 1}),
    "a fraction, rounded up": lambda d: (d.classes, {"background": 0, "neg_pos_ratio": 1.3, "rounding": "ceil"}),
    "ranks": lambda d: (d.classes, {"background": 0, "rank_by": -d.conf_loss}),
    "quotas": lambda d: (d.classes, {"background": 0, "num_negatives": [3, 0, 99]}),
    "a share": lambda d: (d.classes, {"background": 0, "min_negatives": 0.5}),
    "a batch": lambda d: (d.classes, {"background": 0, "scope": "batch", "extra_negatives": 2}),
    "a batch of one quota": lambda d: (d.classes, {"background": 0, "scope": "batch", "num_negatives": 11}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrap", [of_numba, Interface, Packed])
def test_device_arrays_are_mined_where_they_are(wrap, form):
    data = drawn()
    labels, keywords = FORMS[form](data)
    expected = sm.mine_hard_negatives(data.conf_loss, labels, backend="reference", **keywords)
    assert_same(on_device(wrap, data.conf_loss, labels, **keywords), expected)


def test_no_input_is_copied_and_the_results_are_device_arrays(monkeypatch):
    data, allocated = drawn(), []
    empty = runtime.empty
    monkeypatch.setattr(runtime, "empty", lambda *shape: allocated.append(shape[0]) or empty(*shape))
    res = sm.mine_hard_negatives(Interface(data.conf_loss), Interface(data.classes), background=0)
    assert allocated == [(6, 3), (3, 3), (3, 70), (3, 70)]
    assert hasattr(res.hard_negative_mask, "copy_to_host")
    assert hasattr(res.threshold, "copy_to_host")
    out = sm.confidence_loss(Interface(data.conf_loss), Interface(data.classes), background=0)
    expected = sm.confidence_loss(data.conf_loss, data.classes, background=0, backend="cpu")
    assert out.loss == pytest.approx(expected.loss, rel=1e-12)
    np.testing.assert_allclose(out.confidence_loss.copy_to_host(), expected.confidence_loss, rtol=1e-12)


def test_nothing_is_read_back_where_no_value_can_be_wrong(monkeypatch):
    data, read = drawn(), []
    download = runtime.Library.download
    monkeypatch.setattr(runtime.Library, "download", lambda *given: read.append(given) or download(*given))
    labels = data.classes.astype(np.uint8)
    on_device(Interface, data.conf_loss, labels, background=0, nan_policy="propagate")
    assert not read
    on_device(Interface, data.conf_loss, labels, background=0)
    assert read


@pytest.mark.parametrize("layout", ["fortran", "every other", "broadcast"])
def test_any_layout_of_device_arrays_is_packed(layout):
    data = drawn()
    lay = {
        "fortran": np.asfortranarray,
        "every other": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    }[layout]
    conf_loss, labels, scores = lay(data.conf_loss), lay(data.classes), lay(np.eye(2)[data.classes])
    expected = sm.mine_hard_negatives(conf_loss, labels, background=0, backend="reference")
    assert_same(on_device(Interface, conf_loss, labels, background=0), expected)
    assert_same(on_device(Interface, conf_loss, scores, background=0), expected)


def test_ragged_device_arrays_are_mined():
    data, offsets = drawn(), [0, 50, 50, 210]
    given = data.conf_loss.ravel(), data.classes.ravel()
    for keywords in ({}, {"scope": "batch"}):
        call = {"background": 0, "sample_offsets": offsets, **keywords}
        expected = sm.mine_hard_negatives(*given, backend="reference", **call)
        assert_same(sm.mine_hard_negatives(*map(Interface, given), **call), expected)


def test_empty_device_arrays_are_defined():
    for shape in ((0, 5), (2, 0)):
        res = sm.mine_hard_negatives(of_numba(np.zeros(shape, np.float32)), of_numba(np.zeros(shape, np.bool_)))
        assert to_host(res.num_kept).tolist() == [0] * shape[0]
        assert to_host(res.hard_negative_mask).shape == shape


@pytest.mark.parametrize("form", ["classes", "valid classes", "one-hot", "a batch"])
def test_torch_and_cupy_get_arrays_of_their_own_from_their_own_stream(library, form, monkeypatch):
    launched = []
    launch = runtime.Kernel.launch
    monkeypatch.setattr(
        runtime.Kernel,
        "launch",
        lambda kernel, *given, **others: launched.append(given[1]) or launch(kernel, *given, **others),
    )
    data = drawn()
    labels, keywords = FORMS[form](data)
    got = on_device(library, data.conf_loss, labels, **keywords)
    assert_same(got, sm.mine_hard_negatives(data.conf_loss, labels, backend="reference", **keywords))
    assert set(launched) == {(0, 77)}  # the device, and the handle of its stream
    for name in ("hard_negative_mask", "pos_mask", "num_kept", "threshold"):
        assert isinstance(getattr(got, name), library), name


def test_tensors_are_refused_by_name(library):
    if library is not Tensor:
        pytest.skip("CuPy has neither gradients nor bfloat16")
    tensor = Tensor(DATA.conf_loss)
    tensor.dtype = "torch.bfloat16"
    with pytest.raises(
        TypeError, match="conf_loss: expected float32 or float64 on a device, got bfloat16; pass it as"
    ):
        sm.confidence_loss(tensor, Tensor(DATA.classes), background=0)
    tensor = Tensor(DATA.conf_loss)
    tensor.requires_grad = True
    with pytest.raises(TypeError, match=r"conf_loss: expected a tensor without gradient, .* tensor.detach\(\)"):
        sm.confidence_loss(tensor, Tensor(DATA.classes), background=0)
    elsewhere = Tensor(DATA.classes)
    elsewhere.device = SimpleNamespace(index=1)
    with pytest.raises(
        ValueError, match=r"labels: expected an array on the device of conf_loss \(0\), got one on device 1"
    ):
        sm.confidence_loss(Tensor(DATA.conf_loss), elsewhere, background=0)


DATA = drawn()
BAD = {
    "a label below 0": (
        lambda d: (d.conf_loss, np.where(np.arange(70) == 9, -7, d.classes), {"background": 0}),
        (ValueError, "labels: expected class numbers of at least 0, got -7 at .sample 0, anchor 9."),
    ),
    "NaN": (
        lambda d: (np.where(np.arange(70) == 9, np.nan, d.conf_loss).astype("f4"), d.classes, {"background": 0}),
        (ValueError, "conf_loss: expected no NaN .*, got NaN at .sample 0, anchor 9."),
    ),
    "scores that are none": (
        lambda d: (d.conf_loss, np.eye(2)[d.classes] * 3, {}),
        (ValueError, "labels: expected one-hot or soft scores, .* at .sample 0, anchor 0."),
    ),
    "a score below 0": (
        lambda d: (d.conf_loss, np.stack([d.classes + 1.0, -1.0 * d.classes], axis=2), {}),
        (ValueError, "labels: expected one-hot or soft scores, .* got . 2., -1.. at .sample 0, anchor"),
    ),
    "an empty row": (
        lambda d: (d.conf_loss, np.zeros((3, 70, 2)), {"all_zero": "raise"}),
        (ValueError, "labels: expected one-hot or soft scores, .* at .sample 0, anchor 0."),
    ),
    "float16": (
        lambda d: (d.conf_loss.astype(np.float16), d.classes, {"background": 0}),
        (TypeError, "conf_loss: expected float32 or float64 on a device, got dtype float16"),
    ),
    "float16 scores": (
        lambda d: (d.conf_loss, np.eye(2, dtype=np.float16)[d.classes], {}),
        (TypeError, "labels: expected float32 or float64 scores on a device, got dtype float16"),
    ),
    "ranks of another type": (
        lambda d: (d.conf_loss, d.classes, {"background": 0, "rank_by": d.conf_loss.astype(np.float64)}),
        (TypeError, "rank_by: expected float32 on a device, as conf_loss, got dtype float64"),
    ),
    "no background": (lambda d: (d.conf_loss, d.classes, {}), (ValueError, "background: expected the background")),
    "another shape": (
        lambda d: (d.conf_loss, d.classes[:, :9], {"background": 0}),
        (ValueError, "labels: expected the shape of conf_loss"),
    ),
    "negative strides": (
        lambda d: (d.conf_loss[:, ::-1], d.classes, {"background": 0}),
        (ValueError, "conf_loss: expected an array without negative strides on a device"),
    ),
    "ties": (
        lambda d: (d.conf_loss, d.classes, {"background": 0, "tie_policy": "all"}),
        (NotImplementedError, "tie_policy: backend 'cuda' does not support tie_policy='all' with device arrays"),
    ),
    "a scope": (
        lambda d: (d.conf_loss, d.classes, {"background": 0, "scope": "smallest_sample_quota"}),
        (NotImplementedError, "scope: backend 'cuda' does not support scope='smallest_sample_quota'"),
    ),
    "overlaps": (
        lambda d: (d.conf_loss, d.classes, {"background": 0, "overlaps": d.conf_loss}),
        (NotImplementedError, "overlaps: backend 'cuda' does not support it with device arrays; pass NumPy"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_device_arrays_get_the_errors_of_host_arrays(case):
    make, (error, message) = BAD[case]
    conf_loss, labels, keywords = make(DATA)
    with pytest.raises(error, match=message):
        on_device(Interface, conf_loss, labels, **keywords)


def test_arrays_of_host_and_device_are_not_mixed():
    with pytest.raises(TypeError, match="labels: expected a device array, as conf_loss is one, got ndarray"):
        sm.confidence_loss(Interface(DATA.conf_loss), DATA.classes, background=0)
    with pytest.raises(TypeError, match="num_negatives: expected whole numbers on the host, got a device array"):
        on_device(Interface, DATA.conf_loss, DATA.classes, background=0, num_negatives=Interface(np.arange(3)))


def test_a_device_result_cannot_relabel():
    res = on_device(Interface, DATA.conf_loss, DATA.classes, background=0)
    with pytest.raises(NotImplementedError, match="relabel: not for device arrays"):
        res.relabel(DATA.classes)


@pytest.mark.parametrize("most", [200, 255, 256, -1])
@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "uint64"])
def test_wide_labels_of_the_host_cross_as_bytes_where_they_fit(dtype, most, monkeypatch):
    if most < 0 and dtype == "uint64":
        pytest.skip("no such label")
    uploaded, upload = [], runtime.Library.upload
    monkeypatch.setattr("ssd_mining.kernels.cuda.mining.LARGE", 1)
    monkeypatch.setattr("ssd_mining.kernels.cuda.mining.STEP", 7)
    monkeypatch.setattr(
        runtime.Library, "upload", lambda own, array, *how: uploaded.append(array.dtype) or upload(own, array, *how)
    )
    labels = DATA.classes.astype(dtype)
    labels[0, 8] = most
    for words in ({}, {"ignore_index": 1}, {"ignore_index": 3000}):
        words |= {"background": 0}
        if most < 0:
            with pytest.raises(ValueError, match=r"labels: expected class numbers of at least 0.* got -1"):
                sm.mine_hard_negatives(DATA.conf_loss, labels, backend="cuda", **words)
            continue
        uploaded.clear()
        got = sm.mine_hard_negatives(DATA.conf_loss, labels, backend="cuda", **words)
        assert_same(got, sm.mine_hard_negatives(DATA.conf_loss, labels, backend="reference", **words))
        fits = most < 256 and words.get("ignore_index") != 3000
        assert (np.uint8 in uploaded) == fits, (uploaded, words)


def test_tensors_that_do_not_fit_are_named_by_their_bytes(library, monkeypatch):
    if library is not Tensor:
        pytest.skip("CuPy's own error is a MemoryError")

    class OutOfMemoryError(RuntimeError):
        pass

    def empty(*_, **__):
        raise OutOfMemoryError

    torch = sys.modules["torch"]
    monkeypatch.setattr(torch.cuda, "OutOfMemoryError", OutOfMemoryError, raising=False)
    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(
        MemoryError, match=r"^backend: 'cuda' needs 144 bytes of the memory of the GPU, which are not"
    ):
        sm.confidence_loss(Tensor(DATA.conf_loss), Tensor(DATA.classes), background=0)
