"""From a backend's name to its module, and from checked inputs to mined outputs, on threads where that is safe."""

import importlib
import multiprocessing
import os
import threading
from typing import Any, Literal, Protocol, cast

import numpy as np

from ssd_mining._inputs import Batch, raise_bad_values
from ssd_mining._spec import Mined, Rows, Rule

Backend = Literal["cpu", "cuda", "reference"]

# Below this many anchors a parallel launch costs more than the second thread saves (benchmarks/test_threads.py).
PARALLEL_ANCHORS = 300_000

_MODULES = {"cpu": "ssd_mining.kernels.cpu", "reference": "ssd_mining.reference"}
_parallel_lock = threading.Lock()  # held by the one call of ours that runs the parallel driver
_process = os.getpid()


class Twin(Protocol):
    """What every backend module offers."""

    def mine(self, rows: Rows, rule: Rule, mined: Mined, num_workers: int) -> None:
        """Mine every sample of `rows` into `mined`."""


def load(backend: Backend | None) -> Twin:
    """Return the module of a backend; None picks by where the arrays live, which for NumPy is the CPU."""
    name = "cpu" if backend is None else backend
    if name == "cuda":
        msg = "backend: 'cuda' is not built into this version; use 'cpu' or leave it out"
        raise NotImplementedError(msg)
    if name not in _MODULES:
        msg = f"backend: expected 'cpu', 'cuda', 'reference' or None, got {backend!r}"
        raise ValueError(msg)
    return cast("Twin", importlib.import_module(_MODULES[name]))


def run(batch: Batch, *, masks: bool, backend: Backend | None, num_threads: int | None) -> Mined:
    """Mine a checked batch block by block; raise for bad values; nothing is returned of a batch that has any."""
    twin, rule = load(backend), batch.mining.rule
    check_threads(num_threads)
    mined = empty_mined(*batch.conf_loss.shape, masks=masks)
    for block in batch.blocks:
        part = mined.block(block)
        rows = batch.rows(block)
        if num_threads == 1 or rows.loss.size < PARALLEL_ANCHORS or not _parallel_lock.acquire(blocking=False):
            twin.mine(rows, rule, part, 1)
        else:
            try:
                twin.mine(rows, rule, part, num_workers(num_threads))
            finally:
                _parallel_lock.release()
        if not part.done.all():
            msg = f"sample {block.start + int(np.argmin(part.done))} was not mined: a worker thread was lost"
            raise RuntimeError(msg)
        raise_bad_values(batch, block, part)
    return mined


def empty_mined(num_samples: int, num_anchors: int, *, masks: bool) -> Mined:
    """Allocate what a kernel writes."""
    num_pos, num_neg, num_kept, num_nan, num_bad, done = np.zeros((6, num_samples), np.int64)
    sums = np.empty((3, num_samples), np.float64)
    shape = (num_samples, num_anchors) if masks else (0, 0)
    return Mined(
        *(num_pos, num_neg, num_kept, num_nan, num_bad, done),
        *(sums[0], sums[1], sums[2]),
        *(np.empty(shape, np.bool_), np.empty(shape, np.bool_)),
    )


def num_workers(num_threads: int | None) -> int:
    """Say how many threads a call may use here: Numba's own count at most, and 1 wherever more could hurt."""
    import numba

    if not parallel_is_safe():
        return 1
    most = numba.get_num_threads()
    return most if num_threads is None else min(num_threads, most)


def parallel_is_safe() -> bool:
    """Say whether Numba's thread pool can be entered from this thread of this process.

    OpenMP kills or hangs a forked child that enters a pool its parent used; the workqueue layer aborts the process
    when two Python threads enter it, whosever kernels they run.
    """
    from numba.np.ufunc.parallel import threading_layer

    if os.getpid() != _process or multiprocessing.parent_process() is not None:
        return False
    if threading.active_count() == 1:
        return True
    try:
        return threading_layer() in ("omp", "tbb")
    except ValueError:  # no parallel kernel has run yet, so the layer is not chosen
        return False


def check_threads(num_threads: Any) -> None:
    """Refuse a `num_threads` that is not None or a whole number of at least 1."""
    if num_threads is None:
        return
    if isinstance(num_threads, bool) or not isinstance(num_threads, int | np.integer):
        msg = f"num_threads: expected a whole number of at least 1 or None, got {num_threads!r}"
        raise TypeError(msg)
    if num_threads < 1:
        msg = f"num_threads: expected a whole number of at least 1 or None, got {num_threads}"
        raise ValueError(msg)
