"""The number of threads changes nothing, and the parallel driver runs only where it is safe."""

import _thread
import multiprocessing
import os
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.engine import run
from ssd_mining.engine import threads as _backends
from ssd_mining.kernels import cpu
from tests.support.batches import LOSSES, losses

COMPARE = """
import hashlib, numpy as np, ssd_mining as sm
from ssd_mining.engine import run
from ssd_mining.kernels import cpu
from tests.support.batches import LOSSES, losses
run.PARALLEL_ANCHORS = 0
ran = []
monitored = cpu.mine
def mine(rows, rule, mined, num_workers):
    ran.append(num_workers)
    return monitored(rows, rule, mined, num_workers)
cpu.mine = mine
for seed in range(200):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 9)), int(rng.integers(1, 400)))
    conf_loss = losses(LOSSES[seed % len(LOSSES)], shape, rng)
    pos_mask = rng.random(shape) < 0.1
    got = []
    for num_threads in (1, 2, 4):
        res = sm.mine_hard_negatives(conf_loss, pos_mask, num_threads=num_threads)
        columns = [column.tobytes() for column in res.to_dict().values()]
        got.append(b"".join([*columns, res.hard_negative_mask.tobytes(), res.indices()[1].tobytes()]))
    assert got[0] == got[1] == got[2], seed
assert set(ran) == {1, 2, 4}, set(ran)
print("same bits")
"""


def test_one_two_and_four_threads_give_the_same_bits():
    environment = {**os.environ, "NUMBA_NUM_THREADS": "4", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPARE], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout == "same bits\n", done.stderr


@pytest.fixture
def safe(monkeypatch):
    """Make this a place where the parallel driver may run, whatever runs the tests."""
    monkeypatch.setattr(_backends, "_HOME", os.getpid())
    monkeypatch.setattr(_backends, "layer_bears_threads", lambda: True)
    assert _backends.parallel_is_safe()
    return monkeypatch


def test_a_forked_child_stays_serial(safe):
    safe.setattr(_backends, "_HOME", os.getppid())
    assert not _backends.parallel_is_safe()
    assert _backends.num_workers(None) == 1


def test_a_worker_of_multiprocessing_stays_serial(safe):
    safe.setattr(multiprocessing, "parent_process", lambda: object())
    assert not _backends.parallel_is_safe()


def test_a_thread_beside_the_main_thread_stays_serial(safe):
    safe.setattr(_backends, "is_alone", lambda: True)
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(_backends.parallel_is_safe).result()


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("bears", [True, False])
def test_other_threads_need_a_layer_that_bears_them(alone, bears, safe):
    safe.setattr(_backends, "is_alone", lambda: alone)
    safe.setattr(_backends, "layer_bears_threads", lambda: bears)
    assert _backends.parallel_is_safe() == (alone or bears)


@pytest.mark.parametrize("start", [_thread.start_new_thread, lambda work, _: threading.Thread(target=work).start()])
def test_a_thread_of_any_making_is_seen(start):
    idents, began, end = [], threading.Event(), threading.Event()

    def work():
        idents.append(threading.get_ident())
        began.set()
        end.wait()

    start(work, ())
    began.wait()
    try:
        assert not _backends.is_alone()
        assert set(idents) < set(sys._current_frames())
    finally:
        end.set()


@pytest.mark.parametrize(("known", "running", "expected"), [(1, 1, True), (2, 1, False), (1, 2, False)])
def test_foreign_threads_count_whether_they_are_known_or_running(known, running, expected, monkeypatch):
    monkeypatch.setattr(threading, "active_count", lambda: known)
    monkeypatch.setattr(sys, "_current_frames", lambda: dict.fromkeys(range(running)))
    assert _backends.is_alone() == expected


@pytest.mark.parametrize(("layer", "expected"), [("omp", True), ("tbb", True), ("workqueue", False)])
def test_the_layer_in_use_decides(layer, expected, monkeypatch):
    monkeypatch.setattr("numba.threading_layer", lambda: layer)
    assert _backends.layer_bears_threads() == expected


@pytest.mark.parametrize(
    ("choice", "order", "openmp", "expected"),
    [
        ("default", "tbb omp workqueue", True, True),
        ("DEFAULT", "omp workqueue tbb", True, True),
        ("default", "workqueue tbb omp", True, False),
        ("default", "tbb omp workqueue", False, False),
        ("threadsafe", "tbb omp workqueue", True, True),
        ("omp", "workqueue tbb omp", True, True),
        ("forksafe", "tbb omp workqueue", True, False),
        ("workqueue", "tbb omp workqueue", True, False),
    ],
)
def test_before_a_layer_is_in_use_the_one_to_come_decides(choice, order, openmp, expected, monkeypatch):
    def threading_layer():
        message = "Threading layer is not initialized."
        raise ValueError(message)

    monkeypatch.setattr("numba.threading_layer", threading_layer)
    monkeypatch.setattr("numba.config.THREADING_LAYER", choice)
    monkeypatch.setattr("numba.config.THREADING_LAYER_PRIORITY", order.split())
    monkeypatch.setitem(sys.modules, "numba.np.ufunc.omppool", types.ModuleType("omppool") if openmp else None)
    assert _backends.layer_bears_threads() == expected


@pytest.fixture
def forgetful():
    """Forget what earlier tests found out about starting threads, and what this one finds."""
    _backends.threads_can_start.cache_clear()
    yield
    _backends.threads_can_start.cache_clear()


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_threads_that_cannot_start_leave_a_call_serial(error, safe):
    started, start = [], threading.Thread.start

    def start_five(thread):
        if len(started) == 5:
            raise error
        started.append(thread)
        start(thread)

    safe.setattr(threading.Thread, "start", start_five)
    safe.setattr("numba.config.NUMBA_NUM_THREADS", 8)
    assert _backends.num_workers(None) == 1
    assert not _backends.threads_can_start(3)
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.usefixtures("forgetful")
def test_starting_threads_is_tried_once_and_leaves_none(monkeypatch):
    started, start = [], threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda thread: (started.append(thread), start(thread)))
    assert _backends.threads_can_start(3)
    assert _backends.threads_can_start(3)
    assert len(started) == 6
    assert not any(thread.is_alive() for thread in started)


def test_a_layer_that_is_not_installed_leaves_a_call_serial(safe):
    def get_num_threads():
        message = "No threading layer could be loaded."
        raise ValueError(message)

    safe.setattr("numba.get_num_threads", get_num_threads)
    assert _backends.num_workers(None) == 1


def test_num_threads_bounds_the_threads_that_numba_has(safe):
    safe.setattr("numba.get_num_threads", lambda: 4)
    assert [_backends.num_workers(n) for n in (None, 1, 3, 4, 99)] == [4, 1, 3, 4, 4]


def test_a_system_that_does_not_tell_of_forks_is_taken_as_not_forked(monkeypatch):
    def read_text(_):
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_text", read_text)
    assert not _backends.was_forked()


def test_the_reference_starts_no_threads(monkeypatch):
    monkeypatch.setattr(run, "PARALLEL_ANCHORS", 0)
    monkeypatch.setattr(_backends, "num_workers", None)
    sm.confidence_loss([[1.0]], [[0]], background=0, backend="reference")


def test_a_call_does_not_wait_for_another_that_is_in_the_kernel(monkeypatch):
    monkeypatch.setattr(run, "PARALLEL_ANCHORS", 0)
    rng = np.random.default_rng(0)
    conf_loss, pos_mask = losses("gamma", (8, 100), rng), rng.random((8, 100)) < 0.1
    expected = sm.confidence_loss(conf_loss, pos_mask).confidence_loss
    got, mine = [], cpu.mine

    def call():
        got.append(sm.confidence_loss(conf_loss, pos_mask).confidence_loss)

    def mine_after_another_call(*arguments):
        monkeypatch.setattr(cpu, "mine", mine)
        other = threading.Thread(target=call, daemon=True)
        other.start()
        other.join(60)
        assert got, "the other call waits for this one"
        mine(*arguments)

    monkeypatch.setattr(cpu, "mine", mine_after_another_call)
    call()
    np.testing.assert_array_equal(got, [expected, expected])


def test_a_lost_sample_raises(monkeypatch):
    monkeypatch.setattr("ssd_mining.kernels.cpu.mine", lambda *_: None)
    with pytest.raises(RuntimeError, match="sample 0 was not mined"):
        sm.confidence_loss([[1.0]], [[0]], background=0)


def test_every_kind_of_losses_is_drawn():
    assert set(LOSSES) >= {"gamma", "ties", "special"}
