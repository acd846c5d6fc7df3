"""Helpers come or do not come, are slow or fail: the caller returns when all is done, and nobody writes after that."""

import threading
import time

import numpy as np
import pytest

from ssd_mining.kernels.cpu import crew
from ssd_mining.kernels.cpu.crew import work_together
from ssd_mining.kernels.cpu.jit import drivers, helper


def test_all_workers_work_at_once_and_helpers_are_hired_once():
    for _ in range(3):
        gate, seen = threading.Barrier(4, timeout=60), []

        def work(worker, gate=gate, seen=seen):
            gate.wait()
            seen.append((worker, threading.get_ident()))

        work_together(4, work, lambda: False)
        assert sorted(worker for worker, _ in seen) == [0, 1, 2, 3]
        assert dict(seen)[0] == threading.get_ident()
        assert len({thread for _, thread in seen}) == 4
    assert len(crew._helpers) == len({thread.name for thread in crew._helpers}) < 10


def test_where_nobody_comes_the_caller_does_not_wait(monkeypatch):
    class Unheard:
        def put(self, offer):
            waiting.append(offer)

    waiting, seen = [], []
    monkeypatch.setattr(crew, "_offers", Unheard())
    monkeypatch.setattr(crew, "_hire", lambda number: number)
    work_together(3, seen.append, lambda: False)
    for offer in waiting:  # they come too late
        offer.accept()
    assert (seen, len(waiting)) == ([0], 2)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_where_no_thread_can_start_the_caller_works_alone(error, monkeypatch):
    def start(_):
        raise error

    seen = []
    monkeypatch.setattr(crew, "_helpers", [])
    monkeypatch.setattr(threading.Thread, "start", start)
    work_together(4, seen.append, lambda: False)
    assert seen == [0]


def test_a_helper_that_has_begun_is_waited_for_unless_all_is_done():
    for is_done in (False, True):
        begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

        def work(worker, begun=begun, may_end=may_end, ended=ended):
            if worker == 0:
                assert begun.wait(60)
                threading.Timer(0.05, may_end.set).start()
            else:
                begun.set()
                assert may_end.wait(60)
                ended.set()

        work_together(2, work, lambda is_done=is_done: is_done)
        assert ended.is_set() != is_done
        assert ended.wait(60)


@pytest.mark.parametrize("failing", [0, 1])
def test_what_a_worker_raises_the_caller_raises(failing):
    begun, finished = threading.Event(), []

    def work(worker):
        if worker == 0:
            assert begun.wait(60)
        begun.set()
        if worker == failing:
            raise MemoryError
        finished.append(worker)

    with pytest.raises(MemoryError):
        work_together(2, work, lambda: False)
    assert finished == [1 - failing]


def test_an_interruption_is_raised_when_the_helper_has_ended(monkeypatch):
    """A signal interrupts the wait twice."""

    class Lock:
        def __init__(self):
            self.lock, self.times = threading.Lock(), 0

        def acquire(self):
            self.times += 1
            if self.times in (2, 3):
                raise KeyboardInterrupt
            return self.lock.acquire()

        def release(self):
            self.lock.release()

    ended, begun = threading.Event(), threading.Event()

    def work(worker):
        if worker == 0:
            assert begun.wait(60)
        else:
            begun.set()
            time.sleep(0.05)
            ended.set()

    monkeypatch.setattr(crew, "_Lock", Lock)
    with pytest.raises(KeyboardInterrupt):
        work_together(2, work, lambda: False)
    assert ended.is_set()


@pytest.mark.parametrize("num_workers", [1, 2, 3, 8])
@pytest.mark.parametrize("num_samples", [1, 2, 100])
@pytest.mark.parametrize("by_piece", [False, True])
def test_every_sample_is_visited_once(num_workers, num_samples, by_piece):
    visits = np.zeros((num_workers, num_samples), np.int64)
    _VISIT[by_piece][num_workers > 1](num_samples, num_workers, visits)
    np.testing.assert_array_equal(visits.sum(axis=0), 1)
    if by_piece:  # whoever does it
        owner = np.repeat(np.arange(num_workers), np.diff(np.arange(num_workers + 1) * num_samples // num_workers))
        np.testing.assert_array_equal(visits.argmax(axis=0), owner)


@helper
def _visit(worker, sample, visits):
    visits[worker, sample] += 1


_VISIT = drivers(_visit), drivers(_visit, by_piece=True)
