"""Arrays on a device, or in the memory of its simulator, and back."""

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ssd_mining.kernels.cuda import runtime


@functools.cache
def missing_device() -> str:
    """Say what is missing, a GPU or its simulator; nothing if one is there."""
    try:
        runtime.check()
    except RuntimeError as error:
        return f"{error}, or the simulator (NUMBA_ENABLE_CUDASIM=1)"
    return ""


needs_simulator = pytest.mark.skipif(not runtime.SIMULATED, reason="the simulator is off: set NUMBA_ENABLE_CUDASIM=1")


def to_device(array: np.ndarray) -> Any:
    """Copy an array to the device."""
    return runtime.cuda.to_device(np.ascontiguousarray(array))


def to_host(array: Any) -> np.ndarray:
    """Copy an array to the host; what is there already stays."""
    return array.copy_to_host() if hasattr(array, "copy_to_host") else np.asarray(array)


class Interface:
    """An array of some library that shows its memory, here the host's."""

    def __init__(self, array):
        self.array = array

    @property
    def __cuda_array_interface__(self):
        array = self.array
        shown = {"shape": array.shape, "strides": array.strides, "typestr": array.dtype.str, "version": 3}
        return shown | {"data": (array.ctypes.data, False), "stream": 1}


class Packed:
    """An array that is passed on by DLPack alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, stream=None):
        assert stream == 1  # the default one
        return self.array.__dlpack__()


class Tensor:
    """What torch's tensors show of themselves, over the host's memory."""

    is_cuda, requires_grad, device = True, False, SimpleNamespace(index=0)

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, f"torch.{array.dtype}"

    def data_ptr(self):
        return self.array.ctypes.data

    def stride(self):
        return tuple(stride // self.array.itemsize for stride in self.array.strides)

    def copy_to_host(self):
        return self.array

    def __getitem__(self, row):
        return Tensor(self.array[row])


class Chunk(Interface):
    """What CuPy's arrays show of themselves, likewise."""

    device = SimpleNamespace(id=0)

    @property
    def data(self):
        return SimpleNamespace(ptr=self.array.ctypes.data)

    def copy_to_host(self):
        return self.array

    def __getitem__(self, row):
        return Chunk(self.array[row])
