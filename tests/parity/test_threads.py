"""The number of threads changes nothing, and the parallel driver runs only where it is safe."""

import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining import _backends
from tests.batches import LOSSES, losses

COMPARE = """
import hashlib, numpy as np, ssd_mining as sm
from ssd_mining import _backends
from ssd_mining.kernels import cpu
from tests.batches import LOSSES, losses
_backends.PARALLEL_ANCHORS = 0
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


def test_a_forked_child_and_a_second_thread_stay_serial(monkeypatch):
    assert _backends.parallel_is_safe()
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    assert not _backends.parallel_is_safe()
    monkeypatch.undo()
    monkeypatch.setattr(_backends, "_process", -1)
    assert not _backends.parallel_is_safe()
    assert _backends.num_workers(None) == 1


@pytest.mark.parametrize("layer", ["omp", "tbb", "workqueue", None])
def test_a_second_python_thread_needs_a_layer_that_bears_it(layer, monkeypatch):
    def threading_layer():
        if layer is None:
            message = "Threading layer is not initialized."
            raise ValueError(message)
        return layer

    monkeypatch.setattr("numba.np.ufunc.parallel.threading_layer", threading_layer)
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    assert _backends.parallel_is_safe() == (layer in ("omp", "tbb"))
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    assert _backends.parallel_is_safe()


def test_a_call_inside_another_does_not_wait_for_it(monkeypatch):
    monkeypatch.setattr(_backends, "PARALLEL_ANCHORS", 0)
    rng = np.random.default_rng(0)
    conf_loss, pos_mask = losses("gamma", (8, 100), rng), rng.random((8, 100)) < 0.1
    expected = sm.confidence_loss(conf_loss, pos_mask)
    with _backends._parallel_lock:
        got = sm.confidence_loss(conf_loss, pos_mask)
    np.testing.assert_array_equal(got.per_sample, expected.per_sample)


def test_a_lost_sample_raises(monkeypatch):
    monkeypatch.setattr("ssd_mining.kernels.cpu.mine", lambda *_: None)
    with pytest.raises(RuntimeError, match="sample 0 was not mined"):
        sm.confidence_loss([[1.0]], [[0]], background=0)


def test_every_kind_of_losses_is_drawn():
    assert set(LOSSES) >= {"gamma", "ties", "special"}
