"""Scenarios that run in a process of their own, where a crash or a hang fails one test instead of ending them all.

A test module is the script of its own children, ``python -m tests.engine.test_x``: it runs functions named like
sentences, and prints the name of each that holds.
"""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support.batches import ROOT

NUM_THREADS = 4

# Since Python 3.12 whoever forks beside threads is warned; these forks are the tests' own.
FORK_WARNING = "ignore:This process:DeprecationWarning"


@dataclass(frozen=True)
class Child:
    """How a process ended, and what it said."""

    returncode: int
    held: list[str]  # the names of the scenarios that hold
    stderr: str


def run_child(module: str, *arguments: str, limit: float = 120) -> Child:
    """Run a test module as a script, where warnings are errors; end it, and whatever it started, after `limit` s."""
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(NUM_THREADS)}
    command = [sys.executable, "-W", "error", "-W", FORK_WARNING, "-m", module, *arguments]
    with subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            err += f"no end after {limit} s"
    return Child(process.returncode, out.splitlines(), err)


def run_scenarios(scenarios: Sequence[Callable[[], None]]) -> None:
    """Run scenarios and print the name of each that holds; the first that does not ends the process."""
    for scenario in scenarios:
        scenario()
        print(scenario.__name__, flush=True)


def batch(num_samples: int, num_anchors: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Draw losses full of ties, and labels of which 5 % are positive; background is 0."""
    rng = np.random.default_rng(0)
    conf_loss = (rng.gamma(0.3, 1.0, (num_samples, num_anchors)) * 64).round().astype(np.float32) / 64
    return conf_loss, (rng.random(conf_loss.shape) < 0.05).astype(np.uint8)


def bits(conf_loss: np.ndarray, labels: np.ndarray, **keywords: Any) -> str:
    """Mine, and return a digest of every array of the result."""
    import ssd_mining as sm

    res = sm.mine_hard_negatives(conf_loss, labels, background=0, **keywords)
    columns = [*res.to_dict().values(), res.hard_negative_mask, res.pos_mask]
    return hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()


class Watch:
    """Sees with how many workers this thread called the CPU kernel."""

    def __init__(self) -> None:
        from ssd_mining.kernels import cpu

        self._seen = threading.local()
        self._mine = cpu.mine
        cpu.mine = self._watched

    def _watched(self, rows: Any, rule: Any, mined: Any, num_workers: int) -> None:
        self._seen.workers = self.workers | {num_workers}
        self._mine(rows, rule, mined, num_workers)

    @property
    def workers(self) -> set[int]:
        """The numbers of workers that were asked for since `forget`."""
        return getattr(self._seen, "workers", set())

    def forget(self) -> None:
        """Start anew."""
        self._seen.workers = set()


def forked(work: Callable[[], bool]) -> int:
    """Fork a child that ends with status 0 if `work` returns True there."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return pid


def status_of(pid: int, limit: float = 60) -> int | str:
    """Wait for a child and return its status; kill it where it hangs, and say so."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return f"hung for {limit} s"
