"""What only the CUDA twin has: rows that fill a block or need many, turns of its threads, and faults planted in it."""

import numpy as np
import pytest

from ssd_mining.kernels.cuda import long_rows, mining, runtime, short_rows, sums
from tests.support.batches import losses
from tests.support.device import needs_simulator
from tests.support.parity import batch_of, check, hostile

pytestmark = [pytest.mark.cuda, needs_simulator]


@pytest.mark.parametrize(
    ("kind", "dtype"), [("gamma", np.float32), ("ties", np.float32), ("special", np.float64), ("equal", np.float32)]
)
def test_long_rows_are_right(kind, dtype, monkeypatch):
    monkeypatch.setattr(short_rows, "MAX_KEYS", {key: {4: 1, 8: 1} for key in short_rows.MAX_KEYS})
    num_anchors = long_rows.CHUNK + 7
    conf_loss = losses(kind, (3, num_anchors), np.random.default_rng(3)).astype(dtype)
    check(batch_of(conf_loss, [1, num_anchors // 3, num_anchors]), "cuda")


@pytest.mark.parametrize("threads", short_rows.MAX_KEYS)
@pytest.mark.parametrize(("dtype", "beyond"), [(np.float32, 0), (np.float64, 0), (np.float64, 1)])
def test_rows_about_as_long_as_a_block_holds_are_right(beyond, dtype, threads):
    num_anchors = short_rows.most_anchors(np.dtype(dtype), threads) + beyond
    conf_loss = losses("ties", (1, num_anchors), np.random.default_rng(4)).astype(dtype)
    check(batch_of(conf_loss, num_anchors // 3), "cuda")


@pytest.mark.parametrize("num_workers", [1, 4])
def test_labels_of_which_a_byte_is_enough_are_narrowed_by_all_threads(num_workers):
    codes, labels = np.array([0, 255, 20], np.uint64), np.arange(3 * mining.STEP + 5, dtype=np.uint64) % 256
    small, theirs = mining.narrowed(labels, codes, num_workers)
    assert small.dtype == theirs.dtype == np.uint8
    np.testing.assert_array_equal(small, labels)
    assert theirs.tolist() == [0, 255, 255]
    labels[-1] = 256
    assert mining.narrowed(labels, codes, num_workers)[0] is labels


def barely(function):
    """Return a fault: the function, its last result one too large."""

    def wrong(*given):
        result = function(*given)
        return (*result[:-1], result[-1] + 1) if isinstance(result, tuple) else result + 1

    return wrong


def boundary(digit, above, size):
    return digit + 1, above, size


def no_barrier(first, second, of_warps, threads):
    warp, _ = sums.place()
    first, second = sums.sum_of_warp(first), sums.sum_of_warp(second)
    of_warps[0, warp], of_warps[1, warp] = first, second
    there = range(threads // runtime.WARP)
    return sum(of_warps[0, each] for each in there), sum(of_warps[1, each] for each in there)


FAULTS = {
    "a tie too many": ("last_tie", barely),
    "a count too many": ("keep", barely),
    "the boundary of a digit": ("find", lambda find: lambda *given: boundary(*find(*given))),
    "bins that are not cleared": ("clear", lambda _: lambda *_: short_rows.cuda.syncthreads()),
    "a segment too narrow": ("bin_of", lambda _: lambda digit: 2 + digit + (digit >> 6)),
    "a missing barrier": ("totals", lambda _: no_barrier),
}


def test_threads_that_run_at_once_are_right_too(monkeypatch):
    monkeypatch.undo()  # as the simulator comes
    check(hostile("ties", 40, np.float32), "cuda")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault, monkeypatch):
    name, plant = FAULTS[fault]
    batch = hostile("ties", 60, np.float32)
    check(batch, "cuda")
    monkeypatch.setattr(short_rows, name, plant(getattr(short_rows, name)))
    with pytest.raises((AssertionError, IndexError)):
        check(batch, "cuda")
