"""Threads: how many a call may use here, where Numba's thread pool may be entered, and where not (docs/threads.md)."""

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
    expected = "a whole number of at least 1 or None"
    if isinstance(num_threads, bool) or not isinstance(num_threads, int | np.integer):
        refuse("num_threads", expected, f"{num_threads!r}", TypeError)
    if num_threads < 1:
        refuse("num_threads", expected, f"{num_threads}")


# The one process that may go parallel: this one, unless it is a forked child that met this module only here.
_HOME = None if was_forked() else os.getpid()
