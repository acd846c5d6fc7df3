"""The number of threads changes nothing, and a call has help only where it may."""

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.engine import run, threads
from ssd_mining.kernels import cpu
from tests.support.batches import LOSSES, losses

COMPARE = """
import hashlib, numpy as np, ssd_mining as sm
from ssd_mining.engine import run
from ssd_mining.kernels import cpu
from tests.support.batches import LOSSES, losses
run.ANCHORS_EACH = 1
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
def main(monkeypatch):
    """Make this a process that may have help, whatever runs the tests."""
    monkeypatch.setattr(threads, "_HOME", os.getpid())
    assert threads.may_have_help()
    return monkeypatch


def test_a_forked_child_works_alone(main):
    main.setattr(threads, "_HOME", os.getppid())
    assert not threads.may_have_help()
    assert threads.num_workers(None) == 1


def test_a_worker_of_multiprocessing_works_alone(main):
    main.setattr(multiprocessing, "parent_process", lambda: object())
    assert not threads.may_have_help()


@pytest.mark.usefixtures("main")
def test_a_thread_beside_the_main_thread_works_alone():
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(threads.may_have_help).result()


def test_num_threads_bounds_the_threads_that_numba_has(main):
    main.setattr("numba.threading_layer", lambda: "omp")
    main.setattr("numba.get_num_threads", lambda: 4)
    assert [threads.num_workers(n) for n in (None, 1, 3, 4, 99)] == [4, 1, 3, 4, 4]


def test_the_pool_of_numba_is_not_started_to_ask_for_its_size(main):
    def threading_layer():
        message = "Threading layer is not initialized."
        raise ValueError(message)

    main.setattr("numba.threading_layer", threading_layer)
    main.setattr("numba.get_num_threads", None)
    main.setattr("numba.config.NUMBA_NUM_THREADS", 5)
    assert [threads.num_workers(n) for n in (None, 1, 3, 99)] == [5, 1, 3, 5]


def test_a_system_that_does_not_tell_of_forks_is_taken_as_not_forked(monkeypatch):
    def read_text(_):
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_text", read_text)
    assert not threads.was_forked()


def test_the_reference_starts_no_threads(monkeypatch):
    monkeypatch.setattr(run, "ANCHORS_EACH", 1)
    monkeypatch.setattr(threads, "num_workers", None)
    sm.confidence_loss([[1.0]], [[0]], background=0, backend="reference")


def test_a_call_does_not_wait_for_another_that_is_in_the_kernel(monkeypatch):
    monkeypatch.setattr(run, "ANCHORS_EACH", 1)
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
