"""How many threads a call may use (docs/threads.md)."""

import importlib
import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from ssd_mining.checks import refuse

_FORKED_NO_EXEC = 0x40  # PF_FORKNOEXEC of Linux


def num_workers(num_threads: int | None) -> int:
    """Return how many threads a call may use: at most Numba's own number, and 1 where more would not help."""
    if num_threads == 1 or not may_have_help():
        return 1
    numba: Any = importlib.import_module("numba")  # mypy sees half of its names
    try:
        numba.threading_layer()
        most: int = numba.get_num_threads()
    except ValueError:  # Numba has no threads yet, so nobody has set their number
        most = numba.config.NUMBA_NUM_THREADS
    return most if num_threads is None else min(num_threads, most)


def may_have_help() -> bool:
    """Say whether a call of this thread may have others work for it; docs/threads.md says why not everywhere."""
    return (
        os.getpid() == _HOME
        and multiprocessing.parent_process() is None
        and threading.get_ident() == threading.main_thread().ident
    )


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
