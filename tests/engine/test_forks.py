"""Called from forked, spawned and served children of a process that used it: the right bits, no hang, no noise.

The batches are large enough for helpers, which the parent has and no child may have. The scenarios run in one
child, in the order in which they stand here.
"""

import atexit
import multiprocessing
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from tests.support.children import (
    NUM_THREADS,
    Child,
    Watch,
    batch,
    bits,
    forked,
    run_child,
    run_scenarios,
    status_of,
)

pytestmark = pytest.mark.process

LARGE = batch(116, 8732)


def answer(_: object = None) -> tuple[str, set[int]]:
    """Mine in this process; return the digest of the result, and with how many workers it was made."""
    watch = Watch()
    return bits(*LARGE), watch.workers


def serial_answer() -> tuple[str, set[int]]:
    """Mine here on one thread, as every child must."""
    return bits(*LARGE, num_threads=1), {1}


def send_answer(pipe) -> None:
    pipe.send(answer())


def a_warm_parent_has_help_and_compiles_nothing():
    from ssd_mining import warmup
    from ssd_mining.kernels.cpu import jit as _jit

    warmup(loss_dtypes=["float32"], label_dtypes=["uint8"])
    before = _jit.counts()
    expected, _ = serial_answer()
    assert answer() == (expected, {NUM_THREADS})
    assert _jit.counts() == before


def children_of_every_start_method_find_the_same():
    expected, children = serial_answer(), []
    for method, daemon in (("fork", False), ("fork", True), ("forkserver", True), ("spawn", False)):
        context = multiprocessing.get_context(method)
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=send_answer, args=(sender,), daemon=daemon)
        process.start()
        children.append((process, receiver))
    for process, receiver in children:
        assert receiver.poll(60), process
        assert receiver.recv() == expected
        process.join(60)
        assert process.exitcode == 0


def pools_find_the_same():
    expected, context = serial_answer(), multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        assert pool.map_async(answer, range(4)).get(60) == [expected] * 4
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        assert list(executor.map(answer, range(4), timeout=60)) == [expected] * 4


def thirty_children_are_forked_while_eight_threads_are_inside():
    expected, stop = serial_answer(), threading.Event()

    def call_until_told():
        while not stop.is_set():
            assert bits(*LARGE) == expected[0]

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(call_until_told) for _ in range(8)]
        try:
            for _ in range(30):
                assert status_of(forked(lambda: answer() == expected)) == 0
        finally:
            stop.set()
    assert [call.result() for call in calls] == [None] * 8


def a_child_is_forked_by_a_thread_while_the_main_thread_is_inside():
    expected = serial_answer()

    def fork_ten():
        return [status_of(forked(lambda: answer() == expected)) for _ in range(10)]

    with ThreadPoolExecutor(1) as pool:
        statuses = pool.submit(fork_ten)
        while not statuses.done():
            assert bits(*LARGE) == expected[0]
    assert statuses.result() == [0] * 10


def grandchildren_that_ignore_the_signal_of_numba_find_the_same():
    # Numba's OpenMP layer raises SIGTERM in a child and hangs in a grandchild; who ignores it got unwritten outputs.
    expected = serial_answer()

    def both_generations():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return answer() == expected and status_of(forked(lambda: answer() == expected)) == 0

    assert status_of(forked(both_generations)) == 0


def a_child_is_forked_while_another_thread_compiles():
    import numba

    expected, stop = serial_answer(), threading.Event()

    def compile_until_told():
        while not stop.is_set():
            numba.njit(lambda x: x + 1)(1)

    with ThreadPoolExecutor(1) as pool:
        compiling = pool.submit(compile_until_told)
        try:
            for _ in range(10):
                time.sleep(0.02)
                assert status_of(forked(lambda: answer() == expected)) == 0
        finally:
            stop.set()
    compiling.result()


def a_call_at_exit():
    """Print a second time when the interpreter exits, if that call is right too."""
    expected = answer()
    atexit.register(lambda: answer() == expected and run_scenarios([at_exit]))


def at_exit():
    """Hold."""


SCENARIOS = (
    a_warm_parent_has_help_and_compiles_nothing,
    children_of_every_start_method_find_the_same,
    pools_find_the_same,
    thirty_children_are_forked_while_eight_threads_are_inside,
    a_child_is_forked_by_a_thread_while_the_main_thread_is_inside,
    grandchildren_that_ignore_the_signal_of_numba_find_the_same,
    a_child_is_forked_while_another_thread_compiles,
    a_call_at_exit,
)


def a_forked_child_is_the_first_to_import_the_package():
    import numba
    import numpy as np

    @numba.njit(parallel=True)
    def add_one(values):
        for i in numba.prange(values.size):
            values[i] += 1.0

    add_one(np.zeros(10))
    assert "ssd_mining.engine.run" not in sys.modules
    assert status_of(forked(lambda: answer() == serial_answer())) == 0


def workers_of_a_torch_loader_find_the_same():
    import torch

    (torch.ones(256, 256) @ torch.ones(256, 256)).sum()
    expected, _ = serial_answer()
    assert answer() == (expected, {NUM_THREADS})
    loader = torch.utils.data.DataLoader(Answers(), batch_size=None, num_workers=2, timeout=60)
    assert list(loader) == [f"{expected} {{1}}"] * 4


class Answers:
    """A data set whose every item is the answer of the worker that fetched it, as text, which torch leaves alone."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> str:
        digest, workers = answer()
        return f"{digest} {workers}"


@pytest.fixture(scope="module")
def child() -> Child:
    return run_child("tests.engine.test_forks")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_call_is_right_where(child, scenario):
    assert scenario.__name__ in child.held, child.stderr


def test_the_processes_end_well_and_say_nothing(child):
    assert (child.returncode, child.held[-1:], child.stderr) == (0, ["at_exit"], "")


@pytest.mark.parametrize(
    "scenario",
    [
        a_forked_child_is_the_first_to_import_the_package,
        pytest.param(workers_of_a_torch_loader_find_the_same, marks=pytest.mark.framework("torch")),
    ],
)
def test_a_call_is_right_in_a_process_of_its_own_where(scenario):
    child = run_child("tests.engine.test_forks", scenario.__name__)
    assert (child.returncode, child.held, child.stderr) == (0, [scenario.__name__], "")


if __name__ == "__main__":
    run_scenarios([globals()[name] for name in sys.argv[1:]] or SCENARIOS)
