"""The CUDA twin without a GPU: Numba's simulator, made to run our kernels, and quick.

`install` puts a stand-in for ``numba.cuda`` in its place before the package imports it: device arrays are memory of
the host and offer no more than Numba's own, addresses become flat arrays at a launch, and helpers may lie in other
modules than the kernels that call them.

Warps have few lanes. A warp runs from barrier to barrier by itself: only its own lanes wait for one another where they
exchange values, which is what numba's simulator lacks.

By itself the simulator lets all threads of a block run at once, and asks each of them over and over whether it waits,
which is where most of its time goes. Here they take turns, from barrier to barrier, so that what a missing barrier
spoils is spoiled in every run. Whoever is first in one block is last in the next one, and after each barrier, so that
neither the first nor the last thread is always ready in time.
"""

import contextlib
import ctypes
import sys
import threading
import time
from types import SimpleNamespace

import numba
import numpy as np
import pytest

if numba.config.ENABLE_CUDASIM:
    from numba import cuda as simulator
    from numba.cuda.simulator import kernel

WARP = 4  # as `ssd_mining.kernels.cuda.runtime` says of simulated threads


def install():
    """Let the package find the stand-in where it looks for ``numba.cuda``."""
    numba.cuda = StandIn()
    sys.modules["numba.cuda.np"] = sys.modules["numba.cuda.np.numpy_support"] = SimpleNamespace(carray=lambda x, _: x)
    from ssd_mining.kernels.cuda import runtime

    load.__wrapped__, runtime.load = runtime.load, load


def load(ours, _device):
    """Return what launches a kernel in the simulator, as `runtime.load` does for a device."""
    simulated = kernel.FakeCUDAKernel(ours.function, device=False)

    def launch(num_blocks, _stream, shared_bytes, arguments):
        simulated[num_blocks, ours.threads, 0, shared_bytes](*map(as_taken, arguments))

    return launch


def as_taken(value):
    """Return a value as a kernel finds it: where an address would lead, flat arrays."""
    from ssd_mining.kernels.cuda.runtime import DeviceArray

    if isinstance(value, DeviceArray):
        return memory(value.address, value.size, value.dtype)
    if hasattr(value, "_fields"):
        return type(value)._make(map(as_taken, value))
    return value


def memory(address, size, dtype):
    """Return an array over some memory of the host."""
    if not size:
        return np.empty(0, dtype)
    return np.frombuffer((ctypes.c_char * (size * dtype.itemsize)).from_address(address), dtype)


class Array:
    """An array of the simulated device: it can what Numba's own can, and nothing else is asked of it."""

    __cuda_ndarray__ = True

    def __init__(self, array, owner=None):
        self._array, self._owner = array, owner
        self.shape, self.strides, self.dtype, self.size = array.shape, array.strides, array.dtype, array.size
        self.ndim, self.nbytes = array.ndim, array.nbytes

    @property
    def __cuda_array_interface__(self):
        strides = None if self._array.flags.c_contiguous else self.strides
        shown = {"shape": self.shape, "strides": strides, "typestr": self.dtype.str, "version": 3, "stream": None}
        return shown | {"data": (self._array.ctypes.data, False)}

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        assert all(isinstance(each, int | slice) for each in (index if isinstance(index, tuple) else (index,)))
        part = self._array[index]
        return Array(part, self) if isinstance(part, np.ndarray) else part

    def copy_to_host(self, stream=0):  # noqa: ARG002 - all work is done when it is asked for
        return self._array.copy()

    def copy_to_device(self, array, stream=0):  # noqa: ARG002
        assert array.flags.c_contiguous
        self._array[...] = array


class StandIn:
    """``numba.cuda``, as `ssd_mining.kernels.cuda.runtime` asks for it and as simulated threads see it."""

    implementation = "simulated"

    def __init__(self):
        self._lock = threading.Lock()
        self.gpus = [contextlib.nullcontext()]

    # --- what the host asks

    def cuda_error(self):
        return None

    def current_context(self):
        return SimpleNamespace(device=SimpleNamespace(id=0))

    def external_stream(self, handle):
        assert handle
        return SimpleNamespace(synchronize=lambda: None)

    def default_stream(self):
        return SimpleNamespace(synchronize=lambda: None)

    def device_array(self, shape, dtype):
        return Array(poisoned(shape, dtype))

    def to_device(self, array):
        return Array(np.array(array, order="C"))

    def from_cuda_array_interface(self, shown, owner, sync):  # noqa: ARG002
        shape, dtype = shown["shape"], np.dtype(shown["typestr"])
        return Array(memory(shown["data"][0], int(np.prod(shape)), dtype).reshape(shape), owner)

    def jit(self, **_):
        return lambda function: function

    # --- what a thread asks

    @property
    def shared(self):
        """Where shared arrays come from."""
        return self

    def array(self, shape, dtype):
        """Return the shared array of the line that asks for it.

        The simulator makes it twice where two threads ask for it at the same moment.
        """
        if shape == 0:  # as many as fit into the bytes that the launch asks for
            return kernel._get_kernel_context().shared.array(0, np.dtype(dtype))
        frame = sys._getframe(1)
        with self._lock:
            arrays, place = kernel._get_kernel_context().shared._allocations, (frame.f_code, frame.f_lineno)
            if place not in arrays:
                arrays[place] = poisoned(shape, dtype)
            return arrays[place]

    def shfl_xor_sync(self, _mask, value, step):
        """Return what the lane has whose number differs in the bits of `step`."""
        return self._exchanged(value, lambda lane: lane ^ step)

    def shfl_down_sync(self, _mask, value, step):
        """Return what the lane has that is `step` further; nothing of use where there is none."""
        return self._exchanged(value, lambda lane: lane + step)

    def _exchanged(self, value, lane_of):
        """Return the value of another lane, when all lanes of the warp have come to the same exchange."""
        thread, (warp, lane) = threading.current_thread(), divmod(self.threadIdx.x, WARP)
        thread.exchanges = number = getattr(thread, "exchanges", 0) + 1
        with self._lock:
            arrays, place = kernel._get_kernel_context().shared._allocations, (self.blockIdx.x, warp, number)
            offered = arrays.setdefault(place, {})
        offered[lane] = value
        while len(offered) < WARP:
            thread.let_pass() if isinstance(thread, Turn) else time.sleep(0)
        return offered.get(lane_of(lane), value)

    def __getattr__(self, name):
        return getattr(kernel._get_kernel_context() or simulator, name)


def poisoned(shape, dtype):
    """Make an array whose elements nobody may count on."""
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[...] = 0xA5
    return array


# --- turns


if numba.config.ENABLE_CUDASIM:

    class Turn(kernel.BlockThread):
        """A thread of a block that runs while it is its turn, and hands over to the next one where it waits."""

        def __init__(self, turns, *given):
            super().__init__(*given)
            self.turns, self.lock, self.is_done = turns, threading.Lock(), False
            self.barriers = self.exchanges = 0
            self.lock.acquire()

        def take(self):
            if self.ident is None:
                self.start()
            else:
                self.lock.release()

        def run(self):
            super().run()
            self.is_done = True
            others = [lane for lane in self.warp if not lane.is_done]
            others[0].take() if others and not self.exception else self.turns.pass_on(self.exception)

        def syncthreads(self):
            self.barriers += 1
            while lanes := [lane for lane in self.warp if lane.barriers < self.barriers and not lane.is_done]:
                self.wait(lanes[0].take)
            self.wait(self.turns.pass_on)
            while any(other.barriers < self.barriers for other in self.turns.live if not other.is_done):
                self.wait(self.turns.pass_on)

        def let_pass(self):
            lanes = [lane for lane in self.warp if lane.exchanges < self.exchanges and not lane.is_done]
            behind = next((lane for lane in lanes if lane.barriers == self.barriers), None)
            if behind is None:
                msg = "lanes of a warp wait for values of others, which never come to that"
                raise RuntimeError(msg)
            self.wait(behind.take)

        def wait(self, hand_over):
            hand_over()
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
        for thread in threads:
            thread.warp = threads[thread.thread_id // WARP * WARP :][:WARP]
        self.live = threads[:: -1 if sum(grid_point) % 2 else 1]
        self.waiting = iter(self.live)
        self.error, self.end = None, threading.Event()

    def pass_on(self, error=None):
        """Let the next thread run to its next barrier, or its end; after an error, all to their ends."""
        self.error = self.error or error
        following = next((thread for thread in self.waiting if not thread.is_done), None)
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
