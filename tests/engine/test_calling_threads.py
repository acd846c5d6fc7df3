"""Called from any thread, whatever runs in the others: no abort, no wait, the right bits.

The scenarios run in one child, in the order in which they stand here.
"""

import _thread
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.inputs.batch import BLOCK_ELEMENTS
from ssd_mining.kernels import cpu
from ssd_mining.kernels.records import DONE
from tests.support.batches import MANY
from tests.support.children import (
    NUM_THREADS,
    Child,
    Watch,
    batch,
    bits,
    run_child,
    run_scenarios,
)

pytestmark = pytest.mark.process

resource = pytest.importorskip("resource", reason="the limits of POSIX systems")
CALLS = 2_000 if MANY else 400
MAIN_THREAD = threading.main_thread().ident
STARVING_STACK = 4 * 2**30
SMALL = batch(6)
TALL = tuple(np.broadcast_to(row, (120_000, 8732)) for row in batch(1, 8732))  # 8 GB, of which 44 kB exist


def go_parallel() -> None:
    """Let even the smallest call have help where it may."""
    from ssd_mining.engine import run

    run.ANCHORS_EACH = 1


def expect(watch: Watch, num_workers: int) -> None:
    """Call from this thread, and check the result and how many threads it asked for."""
    watch.forget()
    assert bits(*SMALL) == bits(*SMALL, num_threads=1)
    assert watch.workers == {1, num_workers}, watch.workers


def start_thread(work: Callable[..., None], args: tuple) -> None:
    threading.Thread(target=work, args=args).start()


@contextmanager
def other_threads(*works: Callable[[], None], start=start_thread):
    """Repeat each of `works` in a thread of its own until the block ends; an error there is an error here."""
    stop, ended, errors = threading.Event(), threading.Semaphore(0), []

    def repeat(work, began):
        try:
            while not stop.is_set():
                work()
                began.set()
        except BaseException as error:
            errors.append(error)
            raise
        finally:
            ended.release()

    begins = [threading.Event() for _ in works]
    for work, began in zip(works, begins, strict=True):
        start(repeat, (work, began))
    try:
        assert all(began.wait(60) for began in begins)
        yield
    finally:
        stop.set()
        for _ in works:
            ended.acquire()
    assert not errors, errors


def count_tasks() -> int:
    """Count the threads of this process, whoever started them."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def users_kernel() -> Callable[[], None]:
    """Compile somebody else's parallel kernel; return a call of it that checks itself."""
    import numba

    @numba.njit(parallel=True, nogil=True)
    def add_one(values):
        for i in numba.prange(values.size):
            values[i] += 1.0

    def call():
        values = np.zeros(50_000)
        add_one(values)
        assert values.min() == values.max() == 1

    call()
    return call


def a_thread_lives_before_the_first_launch():
    watch = Watch()
    with other_threads(lambda: time.sleep(0.01)):
        expect(watch, NUM_THREADS)


def eight_threads_share_their_inputs():
    from ssd_mining.engine import run

    expected = sm.confidence_loss(*SMALL, background=0, num_threads=1).confidence_loss.tobytes()

    def call():
        got = sm.confidence_loss(*SMALL, background=0).confidence_loss.tobytes()
        assert got == expected

    def call_many_times():
        for _ in range(CALLS):
            call()

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(call_many_times) for _ in range(8)]
        while not all(future.done() for future in calls):
            run.ANCHORS_EACH = 250_001 - run.ANCHORS_EACH  # 1 every other time
            call()
    go_parallel()
    assert [future.result() for future in calls] == [None] * 8


def sixty_four_threads_call_at_once():
    expected, gate = bits(*SMALL), threading.Barrier(64)

    def call(_):
        gate.wait()
        return bits(*SMALL)

    with ThreadPoolExecutor(64) as pool:
        assert set(pool.map(call, range(64))) == {expected}


def a_pool_runs_ours_while_another_thread_runs_the_users_parallel_kernel():
    expected, kernel = bits(*SMALL), users_kernel()
    watch = Watch()

    def call(_):
        watch.forget()
        return bits(*SMALL), watch.workers

    with other_threads(kernel), ThreadPoolExecutor(2) as pool:
        for got, workers in pool.map(call, range(200)):
            assert (got, workers) == (expected, {1})
        for _ in range(200):
            expect(watch, NUM_THREADS)


def a_thread_that_threading_does_not_know_runs_the_users_parallel_kernel():
    watch = Watch()
    kernel, known = users_kernel(), threading.active_count()
    with other_threads(kernel, start=_thread.start_new_thread):
        assert threading.active_count() == known
        for _ in range(200):
            expect(watch, NUM_THREADS)


def the_users_parallel_kernel_calls_ours_from_its_own_threads():
    import numba

    expected, watch, calls = bits(*SMALL), Watch(), []

    def call():
        watch.forget()
        calls.append((bits(*SMALL) == expected, threading.get_ident() == MAIN_THREAD, watch.workers))
        return 1.0

    @numba.njit(parallel=True)
    def call_often(values):
        for i in numba.prange(values.size):
            with numba.objmode(value="float64"):
                value = call()
            values[i] = value

    values = np.zeros(100)
    call_often(values)
    assert values.all()
    assert len(calls) == 100
    for right, in_main_thread, workers in calls:
        assert right
        assert in_main_thread or workers == {1}


def only_the_main_thread_starts_a_team():
    watch = Watch()
    expect(watch, NUM_THREADS)
    before = count_tasks()
    gate = threading.Barrier(9)

    def call():
        watch.forget()
        assert bits(*SMALL)
        assert watch.workers == {1}
        gate.wait()
        gate.wait()

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(call) for _ in range(8)]
        gate.wait()
        during = count_tasks()
        gate.wait()
    assert [future.result() for future in calls] == [None] * 8
    assert during == before + 8


def inputs_change_during_the_call():
    conf_loss, labels = batch(8, 2_000)
    rng = np.random.default_rng(1)
    others = [
        (rng.normal(size=conf_loss.shape).astype(np.float32), rng.random(labels.shape) < p) for p in (0, 0.5, 1)
    ]

    def change():
        for loss, positive in others:
            conf_loss[:], labels[:] = loss, positive

    warnings.simplefilter("ignore", sm.HazardWarning)  # for a moment, all anchors are positives
    with other_threads(change, change):
        for _ in range(500):
            res = sm.mine_hard_negatives(conf_loss, labels, background=0)
            for mask in (res.hard_negative_mask, res.pos_mask):
                assert mask.dtype == np.bool_
                assert mask.view(np.uint8).max() <= 1
            assert min(res.num_pos.min(), res.num_neg.min(), res.num_kept.min()) >= 0
            assert (res.num_kept <= res.num_neg).all()
            assert (res.num_pos + res.num_neg <= conf_loss.shape[1]).all()


def an_interrupt_arrives_soon_and_nothing_is_written_after_it():
    # The call ends with the block in which the interrupt comes, and a block is a small part of the batch.
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    mine = cpu.mine
    for num_threads in (1, None, 1, None):
        sizes = []

        def interrupted(rows, rule, mined, num_workers, sizes=sizes):
            sizes.append(rows.loss.size)
            if len(sizes) == 3:
                signal.setitimer(signal.ITIMER_REAL, 1e-4)
            mine(rows, rule, mined, num_workers)

        cpu.mine = interrupted
        try:
            sm.confidence_loss(*TALL, background=0, num_threads=num_threads)
        except KeyboardInterrupt as interrupt:
            trace = interrupt.__traceback__
        finally:
            cpu.mine = mine
        assert 3 <= len(sizes) < 10, len(sizes)
        assert max(sizes) <= BLOCK_ELEMENTS < TALL[0].size / 100
        while "mined" not in trace.tb_frame.f_locals:
            trace = trace.tb_next
        mined = trace.tb_frame.f_locals["mined"]
        *columns, kept = mined
        before = [column.copy() for column in columns]
        time.sleep(0.05)
        assert all(np.array_equal(now, then, equal_nan=True) for now, then in zip(columns, before, strict=True))
        assert kept is None
        done = mined.counts[DONE]
        num_done = int(done.sum())
        assert 0 < num_done < done.size
        assert done[:num_done].all()


def limit_memory(megabytes: float) -> None:
    """Let this process have so much more address space and no more."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + int(megabytes * 2**20), limits[1]))


def memory_runs_out():
    conf_loss, labels = (array[:2_000] for array in TALL)  # two masks of 17 MB
    expected, unlimited = bits(conf_loss, labels), resource.getrlimit(resource.RLIMIT_AS)
    outcomes = set()
    for megabytes in (0, 1, 10, 20, 30, 40, 50, 60, 400):
        limit_memory(megabytes)
        try:
            outcomes.add(bits(conf_loss, labels))
        except MemoryError:
            outcomes.add("MemoryError")
        finally:
            resource.setrlimit(resource.RLIMIT_AS, unlimited)
    assert outcomes == {expected, "MemoryError"}


def no_thread_can_start():
    """Give threads stacks of 4 GB, which only takes effect in a new program, and then not enough memory for one."""
    stack, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if stack != STARVING_STACK:
        resource.setrlimit(resource.RLIMIT_STACK, (STARVING_STACK, hard))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line
    expected = bits(*SMALL, num_threads=1)
    limit_memory(2048)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        threading.Thread(target=print).start()
    assert bits(*SMALL) == expected


SCENARIOS = (
    a_thread_lives_before_the_first_launch,
    eight_threads_share_their_inputs,
    sixty_four_threads_call_at_once,
    a_pool_runs_ours_while_another_thread_runs_the_users_parallel_kernel,
    a_thread_that_threading_does_not_know_runs_the_users_parallel_kernel,
    the_users_parallel_kernel_calls_ours_from_its_own_threads,
    only_the_main_thread_starts_a_team,
    inputs_change_during_the_call,
    an_interrupt_arrives_soon_and_nothing_is_written_after_it,
    memory_runs_out,
)


@pytest.fixture(scope="module")
def child() -> Child:
    return run_child("tests.engine.test_calling_threads")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
@pytest.mark.generated  # so many calls
def test_a_call_is_safe_where(child, scenario):
    assert scenario.__name__ in child.held, child.stderr


def test_the_process_ends_well_and_says_nothing(child):
    assert (child.returncode, child.stderr) == (0, "")


def test_a_call_is_right_where_no_thread_can_start():
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    if hard != resource.RLIM_INFINITY and hard < STARVING_STACK:
        pytest.skip(f"the system limits stacks to {hard} bytes, so this test cannot ask for larger ones")
    child = run_child("tests.engine.test_calling_threads", no_thread_can_start.__name__, limit=60)
    assert (child.returncode, child.held, child.stderr) == (0, [no_thread_can_start.__name__], "")


if __name__ == "__main__":
    go_parallel()
    run_scenarios([globals()[name] for name in sys.argv[1:]] or SCENARIOS)
