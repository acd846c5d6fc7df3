"""Numba's simulator, made quick: the threads of a block take turns, from barrier to barrier.

By itself it lets them all run at once, and asks each of them over and over whether it waits, which is where most of
its time goes. In turns, what a missing barrier spoils is spoiled in every run. Whoever is first in one block is last
in the next one, and after each barrier, so that neither the first nor the last thread is always ready in time.
"""

import threading

import numba
import numpy as np
import pytest

if numba.config.ENABLE_CUDASIM:
    from numba.cuda.simulator import kernel

    class Turn(kernel.BlockThread):
        """A thread of a block that runs while it is its turn, and then hands over to the next one."""

        def __init__(self, turns, *given):
            super().__init__(*given)
            self.turns, self.lock, self.is_done = turns, threading.Lock(), False
            self.lock.acquire()

        def take(self):
            if self.ident is None:
                self.start()
            else:
                self.lock.release()

        def run(self):
            super().run()
            self.is_done = True
            self.turns.pass_on(self.exception)

        def syncthreads(self):
            self.turns.pass_on()
            self.lock.acquire()
            if self.turns.error:
                msg = "another thread of the block has failed"
                raise RuntimeError(msg)


class Turns:
    """Whose turn it is in a block."""

    def __init__(self, block, grid_point, arguments):
        def target():
            block._f(*arguments)

        points = np.ndindex(*block._block_dim)
        threads = [Turn(self, target, block, grid_point, point, block._debug) for point in points]
        self.live = threads[:: -1 if sum(grid_point) % 2 else 1]
        self.waiting = iter(self.live)
        self.error, self.end = None, threading.Event()

    def pass_on(self, error=None):
        """Let the next thread run to its next barrier, or its end; after an error, all to their ends."""
        self.error = self.error or error
        following = next(self.waiting, None)
        if following is None:
            self.live = [thread for thread in reversed(self.live) if not thread.is_done]
            self.waiting = iter(self.live)
            following = next(self.waiting, None)
        if following is None:
            self.end.set()
        else:
            following.take()


def run(block, grid_point, *arguments):
    """Run a block, its threads in turns."""
    turns = Turns(block, grid_point, arguments)
    turns.pass_on()
    turns.end.wait()
    if turns.error:
        raise turns.error[0].with_traceback(turns.error[1])


@pytest.fixture(autouse=True)
def turns(monkeypatch):
    """Let the simulator's threads take turns."""
    if numba.config.ENABLE_CUDASIM:
        monkeypatch.setattr(kernel.BlockManager, "run", run)
