"""From a backend's name to its module, and from checked inputs to mined outputs, on threads where that is safe."""

import functools
import importlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ssd_mining.engine.multi_pass import settle
from ssd_mining.inputs.arrays import is_on_device
from ssd_mining.inputs.batch import Batch, raise_bad_values
from ssd_mining.kernels.records import Computed, LogitRows, Mined, Rows, Rule, SigmoidRule, SoftmaxRule
from ssd_mining.mining_rule import Mining, Rng

Backend = Literal["cpu", "cuda", "reference"]
Factors = NDArray[np.float64]

# Below this many anchors a parallel launch costs more than the second thread saves (docs/performance.md).
PARALLEL_ANCHORS = 300_000
PARALLEL_LOGITS = 500_000

_MODULES = {
    "cpu": "ssd_mining.kernels.cpu.mining",
    "cuda": "ssd_mining.kernels.cuda.mining",
    "reference": "ssd_mining.reference",
}
_LOGITS = {
    "cpu": "ssd_mining.kernels.cpu.softmax",
    "cuda": "ssd_mining.kernels.cuda.losses",
    "reference": "ssd_mining.reference.losses",
}
_ANALYSES = {"cpu": "ssd_mining.kernels.cpu.analysis", "reference": "ssd_mining.reference.analysis"}
_FORKED_NO_EXEC = 0x40  # PF_FORKNOEXEC of Linux


class Twin(Protocol):
    """What every backend module offers."""

    def mine(self, rows: Rows, rule: Rule, mined: Mined, num_workers: int) -> None:
        """Mine every sample of `rows` into `mined`."""


class LogitsTwin(Protocol):
    """What every backend module of the losses from logits offers."""

    def softmax_losses(self, rows: LogitRows, rule: SoftmaxRule, losses: Computed, num_workers: int) -> None:
        """Write the losses of every sample of `rows`."""

    def sigmoid_losses(self, rows: LogitRows, rule: SigmoidRule, losses: Computed, num_workers: int) -> None:
        """Write the losses of every sample of `rows`."""

    def softmax_gradients(
        self, rows: LogitRows, rule: SoftmaxRule, factors: Factors, gradients: Computed, num_workers: int
    ) -> None:
        """Write ``factor * d loss / d logits`` of every anchor whose factor is not 0."""

    def sigmoid_gradients(
        self, rows: LogitRows, rule: SigmoidRule, factors: Factors, gradients: Computed, num_workers: int
    ) -> None:
        """Write ``factor * d loss / d logits`` of every anchor whose factor is not 0."""


def load(backend: Backend | None) -> Twin:
    """Return the module of a backend; None picks by where the arrays live, which for NumPy is the CPU."""
    return cast("Twin", _module(_named(backend, _MODULES)))


def load_logits(backend: Backend | None) -> LogitsTwin:
    """Return the module of a backend for the losses from logits."""
    return cast("LogitsTwin", _module(_named(backend, _LOGITS)))


def on_device(array: Any, backend: Backend | None, module: str = "mining") -> Any:
    """Return the module that works on device arrays, of losses or of logits, or None if a call is not for it."""
    if type(array) is np.ndarray or backend not in (None, "cuda") or not is_on_device(array):
        return None
    return _module(f"ssd_mining.device.{module}")


def load_analysis(backend: Backend | None) -> Any:
    """Return the module of a backend for the passes of an analysis."""
    return _module(_named(backend, _ANALYSES))


def _named(backend: Backend | None, modules: dict[str, str]) -> str:
    name = "cpu" if backend is None else backend
    if name == "cuda" and name not in modules:
        msg = "backend: 'cuda' does not do analyses in this version; use 'cpu' or leave it out"
        raise NotImplementedError(msg)
    if not isinstance(name, str) or name not in modules:
        msg = f"backend: expected 'cpu', 'cuda', 'reference' or None, got {backend!r}"
        raise ValueError(msg)
    if name == "cuda":
        _module("ssd_mining.kernels.cuda.runtime").check()
    return modules[name]


_module = functools.cache(importlib.import_module)


def run(batch: Batch, *, masks: bool, backend: Backend | None, num_threads: int | None) -> Mined:
    """Mine a checked batch; nothing is returned of one that has bad values."""
    mined = empty_mined(batch.num_samples, batch.conf_loss.size if masks else 0)
    for _ in walk(batch, mined, backend=backend, num_threads=num_threads):
        pass
    return mined


def walk(
    batch: Batch, mined: Mined, *, backend: Backend | None, num_threads: int | None
) -> Iterator[tuple[slice, Rows, Mined]]:
    """Mine a checked batch into `mined` block by block; yield the samples, rows and results of each."""

    def mine(rows: Rows, part: Mined) -> None:
        mine_rows(rows, batch.mining, part, batch.rng, backend=backend, num_threads=num_threads)

    load(backend)
    check_threads(num_threads)
    return walk_with(mine, batch, mined)


def walk_with(mine: Callable[[Rows, Mined], None], batch: Batch, mined: Mined) -> Iterator[tuple[slice, Rows, Mined]]:
    """Walk as `walk` does, with a way to mine the rows of a block of its own."""
    for block in batch.blocks:
        # A batch of one block is the common one, and for a single sample every view counts.
        whole = block.stop - block.start == batch.num_samples
        part = mined if whole else _part(mined, block, batch.anchors(block))
        rows = batch.rows(block)
        mine(rows, part)
        done = part.done
        if np.count_nonzero(done) < done.size:
            msg = f"sample {block.start + int(np.argmin(done))} was not mined: a worker thread was lost"
            raise RuntimeError(msg)
        raise_bad_values(batch, block, part)
        if not whole:
            mined.counts[:, block], mined.sums[:, block] = part.counts, part.sums
        yield block, rows, part


def mine_rows(
    rows: Rows, mining: Mining, mined: Mined, rng: Rng | None, *, backend: Backend | None, num_threads: int | None
) -> None:
    """Mine the rows of one block as a spec says, in one pass or in several."""
    twin = load(backend)
    workers = workers_for(rows.loss.size, PARALLEL_ANCHORS, backend, num_threads)
    if mining.is_plain:
        twin.mine(rows, mining.rule, mined, workers)
        return
    plain_pass = functools.partial(_mined, twin, num_workers=workers)
    settled_rows, settled_rule, num_neg = settle(rows, mining, plain_pass, rng)
    twin.mine(settled_rows, settled_rule, mined, workers)
    mined.num_neg[:] = num_neg


def _mined(twin: Twin, rows: Rows, rule: Rule, *, masks: bool, num_workers: int) -> Mined:
    mined = empty_mined(rows.offsets.size - 1, rows.loss.size if masks else 0)
    twin.mine(rows, rule, mined, num_workers)
    return mined


def empty_mined(num_samples: int, num_masked: int) -> Mined:
    """Allocate what a kernel writes about some samples, and the masks of some anchors."""
    counts, sums = np.zeros((6, num_samples), np.int64), np.empty((3, num_samples), np.float64)
    return Mined(counts, sums, np.empty(num_masked, np.bool_), np.empty(num_masked, np.bool_))


def _part(mined: Mined, block: slice, anchors: slice) -> Mined:
    """Return fresh counts and sums for a block, contiguous as a kernel wants them, and its part of the masks."""
    own = empty_mined(block.stop - block.start, 0)
    return own._replace(pos_mask=mined.pos_mask[anchors], hard_negative_mask=mined.hard_negative_mask[anchors])


def workers_for(size: int, least: int, backend: Backend | None, num_threads: int | None) -> int:
    """Say how many threads a pass over so many elements may use: 1 below `least`, and off the CPU."""
    return num_workers(num_threads) if size >= least and backend in (None, "cpu") else 1


def num_workers(num_threads: int | None) -> int:
    """Say how many threads a call may use here: Numba's own count at most, and 1 wherever more could hurt."""
    if num_threads == 1 or not parallel_is_safe():
        return 1
    numba: Any = importlib.import_module("numba")  # mypy sees half of its names
    if not threads_can_start(numba.config.NUMBA_NUM_THREADS):
        return 1
    try:
        most: int = numba.get_num_threads()  # if no parallel kernel has run yet, Numba chooses its layer here
    except ValueError:  # the layer that the user asked for is not installed
        return 1
    return most if num_threads is None else min(num_threads, most)


def most_threads(num_threads: int | None) -> int:
    """Say how many threads the user wants: Numba's own count at most."""
    numba: Any = importlib.import_module("numba")
    most: int = numba.config.NUMBA_NUM_THREADS
    return most if num_threads is None else min(num_threads, most)


def parallel_is_safe() -> bool:
    """Say whether Numba's thread pool may be entered here; `docs/threads.md` tells what happened where it may not.

    Only the main thread ever enters it, so two calls of ours never meet there, and no lock is needed that a fork
    could copy while it is held.
    """
    return (
        os.getpid() == _HOME
        and multiprocessing.parent_process() is None
        and threading.get_ident() == threading.main_thread().ident
        and (is_alone() or layer_bears_threads())
    )


def is_alone() -> bool:
    """Say whether no other thread can run Python during a call of this one.

    `threading` counts the threads that it started and the foreign ones that asked it for their name, `sys` whatever
    is inside Python now. A further thread could be started by this one only, which will be in the kernel.
    """
    # Not kept in a name: it holds this very frame, a cycle that would keep the caller's arrays alive.
    return threading.active_count() == 1 and len(sys._current_frames()) == 1  # noqa: SLF001 - nothing public knows


def layer_bears_threads() -> bool:
    """Say whether two threads may be in Numba's pool at once, whosever kernels they run: workqueue would abort."""
    numba: Any = importlib.import_module("numba")
    try:
        return numba.threading_layer() in ("omp", "tbb")
    except ValueError:  # Numba chooses when somebody first launches; foretell its choice without launching
        choice = str(numba.config.THREADING_LAYER).lower()
    if choice != "default":
        return choice in ("omp", "tbb", "threadsafe", "safe")
    order = numba.config.THREADING_LAYER_PRIORITY
    if order.index("omp") > order.index("workqueue"):
        return False
    try:
        importlib.import_module("numba.np.ufunc.omppool")  # loads OpenMP, and starts nothing
    except ImportError:
        return False
    return True


@functools.cache
def threads_can_start(count: int) -> bool:
    """Say whether `count` threads can be started here, by starting and ending them once.

    Where the first launch cannot start one of its threads, OpenMP ends the process and workqueue waits for ever.
    """
    gate, team = threading.Event(), []
    try:
        for _ in range(2 * count):  # twice, because these may still be ending when Numba's start
            thread = threading.Thread(target=gate.wait, daemon=True)
            thread.start()
            team.append(thread)
    except (RuntimeError, MemoryError):
        return False
    finally:
        gate.set()
        for thread in team:
            thread.join()
    return True


def was_forked() -> bool:
    """Say whether this process is a copy of another that may have used threads; Linux alone tells."""
    try:
        status = Path("/proc/self/stat").read_text()
    except OSError:
        return False
    return int(status.rpartition(")")[2].split()[6]) & _FORKED_NO_EXEC != 0


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


# The one process that may go parallel: this one, unless it is a forked child that met this module only here.
_HOME = None if was_forked() else os.getpid()
