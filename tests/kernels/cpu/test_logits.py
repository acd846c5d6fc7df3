"""What only the CPU twin has of the losses from logits: layouts, blocks, threads, tiles, and its careful path."""

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.classification import Focal, Sigmoid, Softmax
from ssd_mining.engine import lazy_losses, threads
from ssd_mining.kernels import cpu
from ssd_mining.kernels.records import Computed, LogitRows
from tests.support.batches import REAL_FILES, examples, load_real, printed
from tests.support.benchmarks import AVX2_ONLY
from tests.support.layouts import LAYOUTS
from tests.support.lazy import lazy
from tests.support.logits import RELATIVE, expected, function, logits, targets

RNG = np.random.default_rng(12)
LOGITS = RNG.normal(0, 3, (3, 70, 7)).astype(np.float32)  # a tile and a tail
CLASSES = RNG.integers(0, 7, LOGITS.shape[:2])
SOFT = RNG.random(LOGITS.shape).astype(np.float32) / 8
SOFT[..., 0] += 1 - SOFT.sum(axis=2)
SPECS = [Softmax(), Softmax(class_weights=range(7), label_smoothing=0.1, prob_floor=0.01), Sigmoid(), Focal()]


def computed(x, y, spec=SPECS[0], **keywords):
    """Return the losses of logits, and how many tiles of each sample took the careful path after the quick one."""
    whole = lazy(x, y, spec, **keywords)
    losses = Computed(np.zeros(y.shape, whole.dtype), np.zeros(len(y), np.int64))
    cpu.losses(whole.logits.rows(slice(0, len(y)), slice(None)), spec.rule, losses, 1)
    return losses.values, np.abs(losses.done) - 1


@pytest.mark.parametrize("spec", SPECS, ids=repr)
@pytest.mark.parametrize("kind", ["background", "foreground_max"])
@pytest.mark.parametrize("background", [0, 3, -1])
def test_the_ranks_equal_the_reference(spec, kind, background):
    got, judged = (
        lazy(LOGITS, CLASSES, spec, backend=backend).ranks(kind, background) for backend in ("cpu", "reference")
    )
    assert (got.shape, got.dtype) == ((3, 70), np.float32)
    np.testing.assert_allclose(got[:], judged[:], rtol=1e-6)
    if kind == "foreground_max" and isinstance(spec, Softmax):
        p = np.exp(LOGITS - LOGITS.max(axis=2, keepdims=True)).astype(np.float64)
        p /= p.sum(axis=2, keepdims=True)
        np.testing.assert_allclose(got[:], np.log(np.delete(p, background, axis=2).max(axis=2)), rtol=1e-5)


@pytest.mark.full_size
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_every_layout_gives_the_same_bits(layout, spec):
    change = LAYOUTS[layout]
    name, keywords = function(spec)
    if layout == "a list":
        change = lambda a: a.tolist() if a.dtype.kind == "i" else a  # noqa: E731 - a list of floats is float64
    for y in (CLASSES, SOFT):
        whole = getattr(sm, name)(LOGITS, y, **keywords)
        before = LOGITS.copy(), y.copy()
        np.testing.assert_array_equal(getattr(sm, name)(change(LOGITS), change(y), **keywords), whole)
        np.testing.assert_array_equal(LOGITS, before[0])
        np.testing.assert_array_equal(y, before[1])


@pytest.mark.parametrize("dtype", ["i1", "u1", ">i2", "u4", "i8", "u8"])
def test_integer_labels_of_every_width_give_the_same(dtype):
    got = sm.softmax_cross_entropy(LOGITS, CLASSES.astype(dtype))
    np.testing.assert_array_equal(got, sm.softmax_cross_entropy(LOGITS, CLASSES))
    one_hot = np.eye(7, dtype=dtype)[CLASSES]
    np.testing.assert_allclose(sm.softmax_cross_entropy(LOGITS, one_hot), got, rtol=6e-7)


def test_ignored_anchors_cost_nothing_and_the_others_what_they_did():
    valid, weights = RNG.random(CLASSES.shape) < 0.8, np.arange(7) / 4
    plain = sm.softmax_cross_entropy(LOGITS, CLASSES)
    got = sm.softmax_cross_entropy(LOGITS, CLASSES, class_weights=weights, valid=valid, ignore_index=3)
    kept = valid & (CLASSES != 3)
    np.testing.assert_array_equal(got, np.where(kept, plain * weights[CLASSES].astype(np.float32), 0))


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_classes_may_stand_on_the_second_axis(spec):
    name, keywords = function(spec)
    for y in (CLASSES, SOFT):
        second = np.moveaxis(y, -1, 1) if y.ndim == 3 else y
        got = getattr(sm, name)(np.moveaxis(LOGITS, -1, 1).copy(), second, class_axis=1, **keywords)
        np.testing.assert_array_equal(got, getattr(sm, name)(LOGITS, y, **keywords))


@pytest.mark.full_size
@pytest.mark.parametrize("spec", SPECS, ids=repr)
@pytest.mark.parametrize("elements", [1, 490, 491, 980, 10**9])
def test_blocks_and_slices_of_any_size_give_the_same_bits(spec, elements, monkeypatch):
    factors = np.where(CLASSES % 3 == 0, 0.5, 0.0)
    whole = lazy(LOGITS, CLASSES, spec)
    losses, gradients = whole[:], whole.gradients(factors)
    monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", elements)
    np.testing.assert_array_equal(whole[:], losses)
    np.testing.assert_array_equal(whole[1:3], losses[1:3])
    np.testing.assert_array_equal(whole.gradients(factors), gradients)
    part = lazy(LOGITS[1:], CLASSES[1:], spec)
    np.testing.assert_array_equal(part.gradients(factors[1:]), gradients[1:])
    assert whole[3:].shape == (0, 70)


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_two_workers_give_the_bits_of_one(spec, monkeypatch):
    factors = np.where(CLASSES % 3 == 0, 0.5, 0.0)
    one = lazy(LOGITS, CLASSES, spec, num_threads=1)
    losses, gradients = one[:], one.gradients(factors)
    launched = []
    monkeypatch.setattr(lazy_losses, "LOGITS_EACH", 1)
    monkeypatch.setattr(threads, "num_workers", lambda _: launched.append(1) or 2)
    np.testing.assert_array_equal(one[:], losses)
    np.testing.assert_array_equal(one.gradients(factors), gradients)
    assert len(launched) == 2


def test_threads_are_used_for_large_blocks_only(monkeypatch):
    asked = []
    monkeypatch.setattr(threads, "num_workers", lambda count: asked.append(count) or 1)
    sm.softmax_cross_entropy(LOGITS, CLASSES, num_threads=2)
    assert asked == []
    monkeypatch.setattr(lazy_losses, "LOGITS_EACH", LOGITS.size // 2)
    sm.softmax_cross_entropy(LOGITS, CLASSES, num_threads=2)
    sm.softmax_cross_entropy(LOGITS[:1, :2], CLASSES[:1, :2], num_threads=2, backend="reference")
    assert asked == [2]


def test_a_lost_worker_is_an_error(monkeypatch):
    def lose_all_but_the_first(_rows, _rule, losses, _num_workers):
        losses.done[0] = 1

    monkeypatch.setattr(cpu, "losses", lose_all_but_the_first)
    with pytest.raises(RuntimeError, match="sample 1 was not computed: a worker thread was lost"):
        sm.softmax_cross_entropy(LOGITS, CLASSES)


@pytest.mark.full_size
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("background", ["first", "last"])
@pytest.mark.parametrize("name", REAL_FILES)
def test_the_losses_of_the_real_files_come_out_of_their_logits(name, background, dtype):
    real = load_real(name, background)
    x, y = real["logits"].astype(np.float64), real["labels"]
    top = x.max(axis=2)
    own = np.take_along_axis(x, y[..., None], axis=2)[..., 0]
    shifted = x - own[..., None]
    np.put_along_axis(shifted, y[..., None], -np.inf, axis=2)
    with np.errstate(over="ignore"):
        exact = np.log1p(np.exp(shifted).sum(axis=2))
    assert np.isfinite(exact).all()
    assert top.shape == exact.shape
    got, again = computed(real["logits"].astype(dtype), y)
    assert not again.any()
    if dtype == np.float32:
        # 5e-7, and where float32 itself is coarser than that, the nearest float32 or the one beside it.
        assert (np.abs(got - exact) <= np.maximum(5e-7, np.spacing(exact.astype(np.float32)))).all()
    np.testing.assert_allclose(got, exact, rtol=RELATIVE[dtype])
    np.testing.assert_allclose(got, real["losses"], rtol=3e-7, atol=1e-7)


@pytest.mark.full_size
def test_a_batch_of_the_usual_size_has_the_promised_accuracy():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, (4, 8732, 21)).astype(np.float32)
    x[..., 0] += 6
    y = np.where(rng.random(x.shape[:2]) < 0.02, rng.integers(0, 21, x.shape[:2]), 0)
    exact = sm.softmax_cross_entropy(x.astype(np.float64), y, num_threads=1)
    got, again = computed(x, y)
    assert not again.any()
    np.testing.assert_allclose(got, exact, rtol=3e-7)
    assert (np.abs(got - exact) <= np.maximum(5e-7, np.spacing(exact.astype(np.float32)))).all()


@pytest.mark.parametrize("spec", [*SPECS, Focal(alpha=None, gamma=0.5), Softmax(label_smoothing=1)], ids=repr)
@pytest.mark.parametrize("y", [CLASSES, SOFT], ids=["classes", "soft"])
def test_the_gradients_are_the_slopes_of_the_losses(spec, y):
    x, y, step = LOGITS[:1].astype(np.float64), y[:1], 1e-5
    got = lazy(x, y, spec).gradients(np.ones(x.shape[:2]))
    for c in range(x.shape[2]):
        moved = np.zeros(x.shape[2])
        moved[c] = step
        up, down = (lazy(x + sign * moved, y, spec)[:] for sign in (1, -1))
        slope = (up - down) / (2 * step)
        smooth = np.ones(slope.shape, np.bool_)
        if getattr(spec, "prob_floor", 0) > 0:  # at the floor the loss has a corner
            smooth = np.abs(up + down - 2 * lazy(x, y, spec)[:]) < 1e-8
            assert smooth.mean() > 0.9
        np.testing.assert_allclose(got[..., c][smooth], slope[smooth], rtol=1e-6, atol=1e-8)


@pytest.mark.framework("torch")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_agrees(dtype):
    import torch

    tensor = torch.tensor(LOGITS.astype(dtype), requires_grad=True)
    flat, classes, soft = tensor.reshape(-1, 7), torch.from_numpy(CLASSES).reshape(-1), torch.from_numpy(SOFT)
    weight = torch.arange(7, dtype=tensor.dtype)
    cases = [
        (Softmax(), CLASSES, {}, classes),
        (Softmax(class_weights=range(7)), CLASSES, {"weight": weight}, classes),
        (Softmax(label_smoothing=0.1), CLASSES, {"label_smoothing": 0.1}, classes),
        (
            Softmax(class_weights=range(7), label_smoothing=0.2),
            CLASSES,
            {"weight": weight, "label_smoothing": 0.2},
            classes,
        ),
        (
            Softmax(class_weights=range(7), label_smoothing=0.2),
            SOFT,
            {"weight": weight, "label_smoothing": 0.2},
            soft.reshape(-1, 7).to(tensor.dtype),
        ),
    ]
    for spec, y, keywords, target in cases:
        loss = torch.nn.functional.cross_entropy(flat, target, reduction="none", **keywords).reshape(CLASSES.shape)
        check_against_torch(spec, y, tensor, loss)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(CLASSES), 7).to(tensor.dtype)
    for y, target in ((CLASSES, one_hot), (SOFT, soft.to(tensor.dtype))):
        binary = torch.nn.functional.binary_cross_entropy_with_logits(tensor, target, reduction="none")
        check_against_torch(Sigmoid(), y, tensor, binary.sum(dim=2))
        p = tensor.sigmoid()
        p_t, alpha_t = p * target + (1 - p) * (1 - target), 0.25 * target + 0.75 * (1 - target)
        check_against_torch(Focal(), y, tensor, (alpha_t * (1 - p_t) ** 2 * binary).sum(dim=2))


def check_against_torch(spec, y, tensor, loss):
    ours = lazy(tensor.detach(), y, spec)
    np.testing.assert_allclose(ours[:], loss.detach().numpy(), rtol=1e-5, atol=1e-5)
    factors = np.where(CLASSES % 2 == 0, 2.0, 0.0)
    tensor.grad = None
    (loss * loss.new_tensor(factors)).sum().backward(retain_graph=True)
    np.testing.assert_allclose(ours.gradients(factors), tensor.grad.numpy(), rtol=1e-5, atol=1e-5)


def test_the_tile_path_of_every_height_and_tail():
    for num_classes in range(1, 26):
        for num_anchors in (1, 63, 64, 129):
            x = logits("normal", (1, num_anchors, num_classes), RNG).astype(np.float32)
            y = targets("classes", x.shape, RNG)
            top = x.max(axis=2, keepdims=True)
            exact = np.log(np.exp(x.astype(np.float64) - top).sum(axis=2)) + top[..., 0]
            exact -= np.take_along_axis(x, y[..., None], axis=2)[..., 0]
            np.testing.assert_allclose(sm.softmax_cross_entropy(x, y), exact, rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_careful_path_is_taken_for_anchors_that_need_it_alone(dtype):
    rng = np.random.default_rng(4)
    x, y = rng.normal(0, 8, (1, 192, 9)).astype(dtype), rng.integers(0, 9, (1, 192))
    usual, again = computed(x, y)
    assert again == [0]
    for row in (
        [np.inf, *[0] * 8],
        [np.nan, *[0] * 8],
        [-np.inf] * 9,
        [0, 1e6, *[0] * 7],
        [2e3] * 9,
        [-2e3] * 9,
        [0, 56, *[0] * 7],
        [0, 57.9, *[0] * 7],
        [0, 58.1, *[0] * 7],
    ):
        other, labels = x.copy(), y.copy()
        other[0, [70, 191]], labels[0, [70, 191]] = row, 0
        got, again = computed(other, labels)
        assert again == [2], row
        np.testing.assert_array_equal(np.delete(got[0], [70, 191]), np.delete(usual[0], [70, 191]))
        judged = expected(np.array([[row]], np.float64), np.zeros((1, 1), int), SPECS[0])
        np.testing.assert_allclose(got[0, [70, 191]], judged[0, [0, 0]], rtol=RELATIVE[dtype])
        ignored, again = computed(other, np.where(np.isin(np.arange(192), [70, 191]), -1, labels), ignore_index=-1)
        assert again == [0], row
        assert not ignored[0, [70, 191]].any()
        np.testing.assert_array_equal(np.delete(ignored[0], [70, 191]), np.delete(usual[0], [70, 191]))
    for quick in ([0, 54, *[0] * 7], [0, *[-np.inf] * 8], [999] * 9, [-999, -1e5, *[-999] * 7]):
        other, labels = x.copy(), y.copy()
        other[0, 70], labels[0, 70] = quick, 0
        got, again = computed(other, labels)
        assert again == [0], quick
        judged = expected(np.array([[quick]], np.float64), np.zeros((1, 1), int), SPECS[0])
        np.testing.assert_allclose(got[0, 70], judged[0, 0], rtol=RELATIVE[dtype])


def test_the_quick_path_takes_class_labels_without_smoothing_alone():
    x = LOGITS.copy()
    x[..., 0] += np.where(np.arange(70) == 40, 80, 0)
    y = np.where(np.arange(70) == 40, 1, CLASSES)
    assert computed(x, y)[1].tolist() == [1] * 3
    assert computed(x, y, Softmax(class_weights=range(7), prob_floor=0.1))[1].tolist() == [1] * 3
    assert computed(x, y, Softmax(label_smoothing=0.1))[1].tolist() == [0] * 3


@pytest.mark.full_size
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("third", [-np.inf, -117.0, -113.0, 0.0])
def test_logits_around_the_limits_of_the_quick_path_keep_the_promise(third, dtype):
    sizes = np.arange(-130, 66, 0.75)
    own, other = (grid.reshape(1, -1) for grid in np.meshgrid(sizes, sizes))
    x, labels = np.stack([other, own, np.full_like(own, third)], axis=-1), np.ones(own.shape, int)
    exact = np.log1p(np.exp(other - own) + np.exp(third - own))
    whole, least = lazy(x.astype(dtype), labels, SPECS[0]), 1e-38 if dtype == np.float32 else 0
    np.testing.assert_allclose(whole[:], exact, rtol=RELATIVE[dtype], atol=least)
    slopes = np.exp(x - own[..., None] - exact[..., None])
    slopes[..., 1] = np.expm1(-exact)
    got = whole.gradients(np.ones(own.shape))
    np.testing.assert_allclose(got, slopes, rtol=1e-6 if dtype == np.float32 else 1e-11, atol=least)


LEFT = """
import numpy as np
from ssd_mining.kernels.cpu import softmax
import ssd_mining as sm
left = 0
def counted(rare):
    def counting(*arguments):
        global left
        left += 1
        rare(*arguments)
    return counting
softmax._try_own, softmax._differentiate = counted(softmax._try_own), counted(softmax._differentiate)
rng = np.random.default_rng(0)
for num_classes, spread, far in ((2, 3, 0), (21, 3, 0), (21, 8, 0), (21, 3, 30), (21, 3, -20), (21, 3, 70)):
    x = rng.normal(0, spread, (1, 128, num_classes)).astype(np.float32) + np.float32(far)
    y = rng.integers(0, num_classes, (1, 128))
    sm.multibox_loss(x, y, background=0, with_gradients="rows")
    print(left)
"""


@pytest.mark.process
def test_moderate_logits_are_left_to_no_tile_and_no_single_anchor():
    # A fallback that always runs is right, slow, and seen by no other test.
    *near, far = printed(LEFT, NUMBA_DISABLE_JIT="1", PYTHONWARNINGS="ignore")
    assert near == ["0"] * 5
    assert int(far) > 2  # two tiles, and their anchors


BITS = """
import numpy as np
import ssd_mining as sm
rng = np.random.default_rng(0)
for num_classes in (1, 2, 3, 15, 16, 17, 21, 32, 91):
    x = rng.normal(0, 3, (2, 150, num_classes)) + rng.choice([0, 60, -130], (2, 150, 1))
    print(sm.softmax_cross_entropy(x.astype(np.float32), rng.integers(0, num_classes, (2, 150))).tobytes().hex())
"""


@pytest.mark.process
@pytest.mark.slow
def test_a_processor_without_avx512_gives_the_same_bits():
    here, there = (printed(BITS, **processor, NUMBA_DISABLE_JIT="0") for processor in ({}, AVX2_ONLY))
    assert len(here) == 9
    assert here == there


@pytest.mark.generated
@pytest.mark.parametrize("num_classes", [2, 3, 21, 91])
@pytest.mark.parametrize("gap", [0, 25, 70, -20])
def test_tails_and_unlikely_labels_keep_the_promise_over_many_rows(num_classes, gap):
    rng = np.random.default_rng(num_classes)
    x = rng.normal(0, 2, (1, examples(40_000) // num_classes, num_classes)).astype(np.float32)
    x[..., 0] += gap
    x += rng.choice(np.array([0, -40, 300], np.float32), x.shape[:2])[..., None]
    difference = x[..., 1:].astype(np.float64) - x[..., :1]
    exact = np.log1p(np.exp(difference).sum(axis=2))
    np.testing.assert_allclose(sm.softmax_cross_entropy(x, np.zeros(x.shape[:2], int)), exact, rtol=3e-7)


def test_rows_that_a_twin_reads_are_not_the_callers_to_change():
    rows = lazy(LOGITS, CLASSES, Softmax()).logits.rows(slice(0, 3), slice(None))
    assert isinstance(rows, LogitRows)
    assert all(not array.flags.writeable for array in rows)
    assert np.shares_memory(rows.logits, LOGITS)
    assert Computed._fields == ("values", "done")
