"""The CUDA twin in numba's simulator: rows of every kind against the reference, long rows, device arrays, faults."""

import itertools
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from hypothesis import given, settings

import ssd_mining as sm
from tests.support.batches import REAL_FILES, Batch, batches, load_real, losses
from tests.support.device import Interface, Packed, Tensor
from tests.support.parity import check as check_parity

pytestmark = [
    pytest.mark.skipif(not numba.config.ENABLE_CUDASIM, reason="the simulator is off: set NUMBA_ENABLE_CUDASIM=1"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's scalars warn where a GPU does not: inf - inf
]
if numba.config.ENABLE_CUDASIM:
    from numba import cuda

    from ssd_mining.kernels.cuda import long_rows, runtime, short_rows
    from ssd_mining.kernels.cuda import mining as twin

KINDS = ["gamma", "ties", "zeros", "negative", "special", "equal", "ascending", "descending"]


@pytest.fixture
def all_long(monkeypatch):
    """Make every row of more anchors than threads a long one."""
    monkeypatch.setattr(twin, "MAX_KEYS", {4: 1, 8: 1})


def batch_of(conf_loss, quotas, **keywords):
    quotas = np.asarray(quotas)
    nothing = np.zeros(conf_loss.shape, np.bool_)
    keywords["num_negatives"] = quotas
    return Batch(conf_loss, nothing, keywords, {}, nothing, ~nothing, conf_loss, quotas)


def hostile(kind, num_anchors, dtype):
    """Return rows of a kind with quotas of every sort."""
    quotas = sorted({0, 1, num_anchors // 3, num_anchors - 1, num_anchors})
    rng = np.random.default_rng(num_anchors)
    return batch_of(losses(kind, (len(quotas), num_anchors), rng).astype(dtype), quotas)


@settings(max_examples=30)
@given(batches(max_anchors=60))
def test_the_twin_equals_the_reference(batch):
    check_parity(batch, "cuda")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_anchors", [1, 33, 180])  # of 180, a thread has more keys than it makes at once
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_rows_are_right(kind, num_anchors, dtype):
    check_parity(hostile(kind, num_anchors, dtype), "cuda")


@pytest.mark.parametrize(
    ("kind", "dtype"), [("gamma", np.float32), ("ties", np.float32), ("special", np.float64), ("equal", np.float32)]
)
def test_long_rows_are_right(kind, dtype, all_long):  # noqa: ARG001 - for its effect
    num_anchors = long_rows.CHUNK + 7
    conf_loss = losses(kind, (3, num_anchors), np.random.default_rng(3)).astype(dtype)
    check_parity(batch_of(conf_loss, [1, num_anchors // 3, num_anchors]), "cuda")


@pytest.mark.parametrize(("dtype", "beyond"), [(np.float32, 0), (np.float64, 0), (np.float64, 1)])
def test_rows_about_as_long_as_a_block_holds_are_right(beyond, dtype):
    num_anchors = short_rows.MAX_KEYS[np.dtype(dtype).itemsize] * short_rows.THREADS + beyond
    conf_loss = losses("ties", (1, num_anchors), np.random.default_rng(4)).astype(dtype)
    check_parity(batch_of(conf_loss, [num_anchors // 3]), "cuda")


def test_nan_is_the_hardest_and_ties_with_nan(all_long):  # noqa: ARG001
    for num_anchors in (30, 90):
        conf_loss = np.random.default_rng(1).random((4, num_anchors)).astype(np.float32)
        conf_loss[:, ::3] = np.nan
        check_parity(batch_of(conf_loss, [0, 3, 10, 25], nan_policy="propagate"), "cuda")


@pytest.mark.parametrize("is_long", [False, True])
def test_neither_the_sign_of_zero_nor_the_bits_of_nan_decide(is_long, monkeypatch):
    if is_long:
        monkeypatch.setattr(twin, "MAX_KEYS", {4: 1, 8: 1})
    zeros = np.where(np.arange(80) % 2, -0.0, 0.0).astype(np.float32)[None].repeat(3, axis=0)
    check_parity(batch_of(zeros, [1, 40, 41]), "cuda")
    nan = np.array([0x7FC00000, 0xFFC00000, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32)
    conf_loss = np.ones((3, 80), np.float32)
    conf_loss[:, 8:72:4] = np.tile(nan, 4)
    check_parity(batch_of(conf_loss, [1, 7, 30], nan_policy="propagate"), "cuda")


def test_a_row_has_the_same_bits_whatever_stands_beside_it(all_long):  # noqa: ARG001
    rng = np.random.default_rng(2)
    most = short_rows.THREADS  # one more is a long row
    lengths = [3, most, most + 1, 2 * long_rows.CHUNK - 5, 0, most - 2]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    conf_loss, pos_mask = rng.gamma(0.3, 1.0, offsets[-1]), rng.random(offsets[-1]) < 0.1
    together = sm.confidence_loss(conf_loss, pos_mask, sample_offsets=offsets, backend="cuda")
    again = sm.confidence_loss(conf_loss, pos_mask, sample_offsets=offsets, backend="cuda")
    np.testing.assert_array_equal(together.per_sample, again.per_sample)
    for i, (start, stop) in enumerate(itertools.pairwise(offsets)):
        alone = sm.confidence_loss(conf_loss[None, start:stop], pos_mask[None, start:stop], backend="cuda")
        np.testing.assert_array_equal(alone.negative_sum, together.negative_sum[i : i + 1])
        np.testing.assert_array_equal(alone.positive_sum, together.positive_sum[i : i + 1])


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("name", REAL_FILES)
def test_the_real_files_at_reduced_size(name, is_long, monkeypatch):
    if is_long:
        monkeypatch.setattr(twin, "MAX_KEYS", {4: 1, 8: 1})
    real = load_real(name)
    # The anchors around each positive, where the losses are high and differ, and some of the rest.
    for sample in np.flatnonzero(real["exp_P"])[:1]:
        positives = np.flatnonzero(real["labels"][sample] > 0)[:40]
        near = np.unique(np.clip(positives[:, None] + np.arange(-3, 4), 0, real["labels"].shape[1] - 1))
        anchors = np.union1d(near, np.arange(0, real["labels"].shape[1], 97))[:500]
        conf_loss, labels = real["losses"][[sample]][:, anchors], real["labels"][[sample]][:, anchors]
        got = sm.mine_hard_negatives(conf_loss, labels, background=0, backend="cuda")
        expected = sm.mine_hard_negatives(conf_loss, labels, background=0, backend="cpu")
        assert expected.num_kept[0] > 0
        assert_same(got, expected)


def on_host(array):
    return array.copy_to_host() if hasattr(array, "copy_to_host") else array


def assert_same(got, expected):
    for name in ("hard_negative_mask", "pos_mask", "num_pos", "num_neg", "num_kept", "threshold"):
        np.testing.assert_array_equal(on_host(getattr(got, name)), getattr(expected, name), err_msg=name)
    for name in ("positive_sum", "negative_sum"):
        np.testing.assert_allclose(on_host(getattr(got, name)), getattr(expected, name), rtol=1e-6, err_msg=name)
    for ours, theirs in zip(got.indices(), expected.indices(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# --- device arrays


def of_numba(array):
    return cuda.to_device(array)


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
    assert out.loss == pytest.approx(expected.loss, rel=1e-6)
    np.testing.assert_allclose(out.per_sample.copy_to_host(), expected.per_sample, rtol=1e-6)


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
        assert on_host(res.num_kept).tolist() == [0] * shape[0]
        assert on_host(res.hard_negative_mask).shape == shape


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


# --- planted faults


def barely(function):
    """Return a fault: the function, its last result one too large."""

    def wrong(*given):
        result = function(*given)
        return (*result[:-1], result[-1] + 1) if isinstance(result, tuple) else result + 1

    return wrong


def boundary(digit, above, size):
    return digit + 1, above, size


def no_barrier(lanes, sums):
    thread = short_rows.cuda.threadIdx.x
    if thread < 2:
        sums[thread] = sum(lanes[thread, i] for i in range(short_rows.CHAINS))


FAULTS = {
    "a tie too many": ("last_tie", barely),
    "a count too many": ("keep", barely),
    "the boundary of a digit": ("find", lambda find: lambda *given: boundary(*find(*given))),
    "bins that are not cleared": ("clear", lambda _: lambda _: short_rows.cuda.syncthreads()),
    "a segment too narrow": ("bin_of", lambda _: lambda digit: 2 + digit + (digit >> 6)),
    "a missing barrier": ("totals", lambda _: no_barrier),
}


def test_threads_that_run_at_once_are_right_too(monkeypatch):
    monkeypatch.undo()  # as the simulator comes
    check_parity(hostile("ties", 40, np.float32), "cuda")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault, monkeypatch):
    name, plant = FAULTS[fault]
    batch = hostile("ties", 60, np.float32)
    check_parity(batch, "cuda")
    monkeypatch.setattr(short_rows, name, plant(getattr(short_rows, name)))
    with pytest.raises((AssertionError, IndexError)):
        check_parity(batch, "cuda")
