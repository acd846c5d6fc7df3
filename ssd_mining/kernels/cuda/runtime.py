"""The one file that names an option of ``numba.cuda``: what is missing here, kernels, launches, device memory.

Only a call for a device loads it. Whatever is wrong with the CUDA packages, importing this module works, and `check`
says in one sentence what is missing. Kernels take addresses and plain numbers: no array is converted at a launch, and
no layout needs a compilation of its own (docs/decisions/0008-cuda.md).
"""

import ctypes
import functools
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numba.core import types as numba_types
from numpy.typing import DTypeLike, NDArray

F = TypeVar("F", bound=Callable[..., object])
types: Any = numba_types  # mypy sees half of its names

try:
    from numba import cuda as _module
except Exception as error:  # noqa: BLE001 - old versions of numba-cuda raise AttributeError, broken ones anything
    _module, _problem = None, f"numba-cuda, which cannot be imported here ({type(error).__name__}: {error})"
else:
    _problem = "numba-cuda, which is not installed; pip install ssd_mining[cuda13], or [cuda12] for an older driver"

SIMULATED = bool(numba.config.ENABLE_CUDASIM) and _module is not None

if SIMULATED:
    from numba.cuda.simulator import kernel as _simulator

# Of a block; the simulator runs a Python thread for each.
THREADS = 16 if SIMULATED else 1024


class _Simulated:
    """``numba.cuda`` as simulated threads see it.

    The simulator itself exchanges the globals of the kernel's module, so that helpers elsewhere miss it, and makes a
    shared array twice where two threads ask for it at the same moment.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @property
    def shared(self) -> "_Simulated":
        """Where shared arrays come from."""
        return self

    def array(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return the shared array of the line that asks for it."""
        if shape == 0:  # as many as fit into the bytes that the launch asks for
            every: NDArray[Any] = _running().shared.array(0, np.dtype(dtype))
            return every
        frame = sys._getframe(1)  # noqa: SLF001 - as the simulator does
        with self._lock:
            arrays: dict[Any, NDArray[Any]] = _running().shared._allocations  # noqa: SLF001
            place = frame.f_code, frame.f_lineno
            if place not in arrays:
                arrays[place] = np.zeros(shape, dtype)
                arrays[place].view(np.uint8)[...] = 0xA5  # nobody may count on zeros
            return arrays[place]

    def __getattr__(self, name: str) -> Any:
        return getattr(_running() or _module, name)


def _running() -> Any:
    return _simulator._get_kernel_context()  # noqa: SLF001 - where the simulator keeps the kernel that runs


# What kernels mean by `cuda`: numba wants it to be called so.
cuda: Any = _Simulated() if SIMULATED else _module

# The numba.cuda that comes with numba cannot compile our kernels, and gets no new work.
COMPILES = not SIMULATED and getattr(cuda, "implementation", None) == "NVIDIA"


def check() -> None:
    """Raise a RuntimeError that says what is missing here, unless kernels can run."""
    if not SIMULATED:
        _check()


@functools.cache  # an error is not kept: the next call asks again
def _check() -> None:
    if not COMPILES:
        missing = f"the package {_problem}"
    elif cuda.cuda_error() is not None:
        missing = f"an NVIDIA driver, which was not found ({' '.join(str(cuda.cuda_error()).split())})"
    elif not _num_devices():
        missing = "an NVIDIA GPU, and the driver sees none"
    else:
        return
    msg = f"backend: 'cuda' needs {missing}"
    raise RuntimeError(msg)


def _num_devices() -> int:
    try:
        return len(cuda.gpus)
    except Exception:  # noqa: BLE001 - the driver's way to say that it has none
        return 0


class Stream(NamedTuple):
    """A queue of a device, by the number of the device and the raw handle."""

    device: int = 0
    handle: int = 0  # 0: the default stream


@contextmanager
def current(device: int) -> Iterator[None]:
    """Make a device the current one of this thread."""
    with cuda.gpus[device]:
        yield


def current_device() -> int:
    """Return the number of the device that this thread would use by itself."""
    return 0 if SIMULATED else int(cuda.current_context().device.id)


@functools.lru_cache(maxsize=128)
def _queue(stream: Stream) -> Any:
    """Return what numba calls the stream; one object for each handle, for numba's caches go by the object."""
    return cuda.external_stream(stream.handle) if stream.handle and not SIMULATED else 0


def synchronize(stream: Stream) -> None:
    """Wait until a stream has done what was asked of it."""
    if not SIMULATED:
        with current(stream.device):
            (_queue(stream) or cuda.default_stream()).synchronize()


# --- memory


class DeviceArray(NamedTuple):
    """Memory of a device: where it is, what it holds, and who keeps it alive."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any = None

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def nothing(dtype: DTypeLike) -> DeviceArray:
    """Return an array without elements, for what a kernel is not given."""
    return DeviceArray(0, (0,), np.dtype(dtype))


def argument(array: DeviceArray) -> Any:
    """Return what a kernel takes for an array: its address; in the simulator, the elements themselves, flat."""
    if not SIMULATED:
        return array.address
    if not array.size:
        return np.empty(0, array.dtype)
    memory: Any = (ctypes.c_char * (array.size * array.dtype.itemsize)).from_address(array.address)
    return np.frombuffer(memory, array.dtype)


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
    """Allocate memory of the current device through numba."""
    return described(cuda.device_array(shape, np.dtype(dtype)))


def described(owner: Any) -> DeviceArray:
    """Describe a C-contiguous device array of numba's."""
    if SIMULATED:  # simulated memory is the host's
        return DeviceArray(owner._ary.ctypes.data, tuple(owner.shape), owner.dtype, owner)  # noqa: SLF001
    address = owner.__cuda_array_interface__["data"][0]
    return DeviceArray(address, tuple(owner.shape), np.dtype(owner.dtype), owner)


def _wrapped(array: DeviceArray) -> Any:
    """Return numba's array over the same memory."""
    shown = {"shape": array.shape, "typestr": array.dtype.str, "data": (array.address, False), "version": 3}
    return cuda.from_cuda_array_interface(shown, array.owner, sync=False)


def upload(array: NDArray[Any], stream: Stream, allocate: Any = empty) -> DeviceArray:
    """Copy a C-contiguous array to the current device; the caller's may change as soon as this returns."""
    copy: DeviceArray = allocate(array.shape, array.dtype)
    if SIMULATED:
        argument(copy)[...] = array.reshape(-1)
    elif array.size:
        _wrapped(copy).copy_to_device(array, stream=_queue(stream))
    return copy


def download(array: DeviceArray, stream: Stream) -> NDArray[Any]:
    """Copy a C-contiguous device array to the host, after what its stream was asked before, and wait for it."""
    if SIMULATED or not array.size:
        return np.array(argument(array) if array.size else np.empty(0, array.dtype)).reshape(array.shape)
    host: NDArray[Any] = _wrapped(array).copy_to_host(stream=_queue(stream))
    synchronize(stream)
    return host


# --- kernels


def helper(function: F) -> F:
    """Compile a function that kernels call into each of them."""
    if not COMPILES:
        return function
    return cuda.jit(device=True, forceinline=True)(function)  # type: ignore[no-any-return]


if COMPILES:
    from numba.cuda.np.numpy_support import carray
else:

    def carray(address: Any, shape: Any) -> Any:  # noqa: ARG001 - simulated addresses are arrays
        """Return what is at an address."""
        return address


@helper
def atomic_add(address: Any, index: Any, amount: Any) -> None:
    """Add to memory of the device, as numba lets us do to arrays only."""
    cuda.atomic.add(carray(address, (index + 1,)), index, amount)


def element(dtype: DTypeLike) -> Any:
    """Return the type of an element; bool is a byte."""
    dtype = np.dtype(dtype)
    return numba.from_dtype(np.dtype(np.uint8) if dtype == np.bool_ else dtype)


def pointer(dtype: DTypeLike) -> Any:
    """Return the type of an address of such elements."""
    return types.CPointer(element(dtype))


def record(kind: Any, **fields: Any) -> Any:
    """Return the type of a NamedTuple argument."""
    return types.NamedTuple([fields[name] for name in kind._fields], kind)


class Kernel:
    """A kernel: its Python, its signature, and its threads. It is compiled when a device first runs it."""

    def __init__(self, function: Callable[..., None], *arguments: Any, threads: int = THREADS) -> None:
        self.function = function
        self.signature = types.void(*arguments)
        self.threads = threads  # per block
        self._compiled: dict[int, Any] = {}  # by device

    def on(self, device: int) -> Any:
        """Return the kernel as compiled for a device, which is the current one."""
        if device not in self._compiled:
            options = {} if SIMULATED else {"launch_bounds": self.threads}
            self._compiled[device] = cuda.jit(self.signature, **options)(self.function)
        return self._compiled[device]

    def launch(self, grid: int | tuple[int, int], stream: Stream, *arguments: Any, shared_bytes: int = 0) -> None:
        """Enqueue the kernel on a stream of the current device; `shared_bytes` are those of arrays of size 0."""
        if SIMULATED:  # its launchers are one object, with the configuration last asked for
            self.on(stream.device)[grid, self.threads, 0, shared_bytes](*arguments)
        else:
            _launcher(self, grid, stream, shared_bytes)(*arguments)


@functools.lru_cache(maxsize=512)
def _launcher(kernel: Kernel, grid: int | tuple[int, int], stream: Stream, shared_bytes: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba finds grids below 128 blocks too small: 32 samples are 32 blocks
        return kernel.on(stream.device)[grid, kernel.threads, _queue(stream), shared_bytes]
