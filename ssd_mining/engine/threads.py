"""How many threads a call may use, and whether it is safe to enter Numba's thread pool (docs/threads.md)."""

import functools
import importlib
import multiprocessing
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from ssd_mining.checks import refuse

_FORKED_NO_EXEC = 0x40  # PF_FORKNOEXEC of Linux


def num_workers(num_threads: int | None) -> int:
    """Return how many threads a call may use: at most Numba's own number, and 1 where more could do harm."""
    if num_threads == 1 or not parallel_is_safe():
        return 1
    numba: Any = importlib.import_module("numba")  # mypy sees half of its names
    if not threads_can_start(numba.config.NUMBA_NUM_THREADS):
        return 1
    try:
        most: int = numba.get_num_threads()  # the first time, this makes Numba choose its threading layer
    except ValueError:  # the threading layer that the user wants is not installed
        return 1
    return most if num_threads is None else min(num_threads, most)


def parallel_is_safe() -> bool:
    """Say whether it is safe to enter Numba's thread pool; docs/threads.md has what happens where it is not.

    Only the main thread enters it. So two of our calls never meet there, and no lock is needed, which a fork could
    copy while it is held.
    """
    return (
        os.getpid() == _HOME
        and multiprocessing.parent_process() is None
        and threading.get_ident() == threading.main_thread().ident
        and (is_alone() or layer_bears_threads())
    )


def is_alone() -> bool:
    """Say whether this is the only thread that can run Python during the call.

    `threading` counts the threads that it knows, `sys` those that are inside Python now. Only this thread could start
    another one, and it will be in the kernel.
    """
    # The frames include this one: kept in a variable, they would be a cycle that keeps the caller's arrays alive.
    return threading.active_count() == 1 and len(sys._current_frames()) == 1  # noqa: SLF001 - nothing public counts them


def layer_bears_threads() -> bool:
    """Say whether Numba's pool allows two threads at once. With workqueue, the process would abort."""
    numba: Any = importlib.import_module("numba")
    try:
        return numba.threading_layer() in ("omp", "tbb")
    except ValueError:  # Numba chooses at the first launch: predict its choice without launching
        choice = str(numba.config.THREADING_LAYER).lower()
    if choice != "default":
        return choice in ("omp", "tbb", "threadsafe", "safe")
    order = numba.config.THREADING_LAYER_PRIORITY
    if order.index("omp") > order.index("workqueue"):
        return False
    try:
        importlib.import_module("numba.np.ufunc.omppool")  # loads OpenMP without starting a thread
    except ImportError:
        return False
    return True


@functools.cache
def threads_can_start(count: int) -> bool:
    """Say whether `count` threads can be started, by starting and ending them once.

    If Numba's first launch cannot start one of its threads, OpenMP ends the process and workqueue hangs.
    """
    gate, team = threading.Event(), []
    try:
        for _ in range(2 * count):  # twice, because ours may still be ending when Numba starts its own
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
    """Say whether this process was forked from another that may have used threads; only Linux knows."""
    try:
        status = Path("/proc/self/stat").read_text()
    except OSError:
        return False
    return int(status.rpartition(")")[2].split()[6]) & _FORKED_NO_EXEC != 0


def check_threads(num_threads: Any) -> int | None:
    """Return a `num_threads` that is None or a whole number of at least 1."""
    if num_threads is None:
        return None
    expected = "a whole number of at least 1 or None"
    if isinstance(num_threads, bool) or not isinstance(num_threads, int | np.integer):
        refuse("num_threads", expected, f"{num_threads!r}", TypeError)
    if num_threads < 1:
        refuse("num_threads", expected, f"{num_threads}")
    return int(num_threads)


# The only process that may use threads: this one, unless it was forked before it imported this module.
_HOME = None if was_forked() else os.getpid()
