"""The one file that names an option of ``numba.cuda``: what is missing here, streams, memory of a device, kernels.

Only a call for a device loads it. Whatever is wrong with the CUDA packages, importing this module works, and `check`
says in one sentence what is missing. Kernels take addresses and plain numbers: no array is converted at a launch, and
no layout needs a compilation of its own (docs/decisions/0008-cuda.md).
"""

import functools
import math
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numba.core import types as numba_types
from numba.core.errors import NumbaError
from numpy.typing import DTypeLike, NDArray

from ssd_mining.kernels.cache import code_of
from ssd_mining.kernels.cuda import copies, cubins

F = TypeVar("F", bound=Callable[..., object])
types: Any = numba_types  # mypy sees half of its names

cuda: Any = None  # numba wants it to be called so in kernels
SIMULATED = COMPILES = False
_ADVICE = "pip install ssd_mining[cuda13], or [cuda12] for an older driver"
_problem = f"numba-cuda, which is not installed; {_ADVICE}"

# What packages raise that do not work together, on their import or when they compile. A driver raises its own.
MISFITS = (
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    TypeError,
    NumbaError,
    cubins.ToolchainError,
)


def _misfit(error: BaseException) -> str:
    """Say which packages do not work together."""
    beside = f"numba {numba.__version__}, numpy {np.__version__}"
    said = str(error) if isinstance(error, cubins.ToolchainError) else cubins.said_by(error)
    return f"numba-cuda, which does not work beside {beside} ({said}); for packages that do, {_ADVICE}"


try:
    from numba import cuda as _cuda

    cuda, _kind = _cuda, getattr(_cuda, "implementation", None)
    # The numba.cuda that comes with numba cannot compile our kernels. Nor can Numba's simulator run them as it comes:
    # our tests put in its place one that can.
    SIMULATED = _kind == "simulated"
    COMPILES = SIMULATED or (_kind == "NVIDIA" and not numba.config.ENABLE_CUDASIM)
    if numba.config.ENABLE_CUDASIM and not SIMULATED:
        _problem = "numba-cuda without its simulator; unset NUMBA_ENABLE_CUDASIM"
    if COMPILES:
        from numba.cuda.np.numpy_support import carray
    if COMPILES and not SIMULATED:
        from numba.cuda import cudaimpl as _what_the_first_compilation_imports  # noqa: F401
except Exception as error:  # noqa: BLE001 - old versions of numba-cuda raise AttributeError, broken ones anything
    COMPILES, _problem = False, _misfit(error)

# Threads of a block, and of a warp; simulated ones are threads of Python.
THREADS, WARP = (16, 4) if SIMULATED else (1024, 32)


@functools.cache  # an error is not kept: the next call asks again
def check() -> None:
    """Raise a RuntimeError that says what is missing here, unless kernels can run."""
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


def devices() -> list[tuple[str, str]]:
    """Return the name and the compute capability of every GPU that `check` lets through, by number."""
    try:
        check()
    except RuntimeError:
        return []
    known = [] if SIMULATED else list(cuda.gpus)
    return [(str(each.name), "{}.{}".format(*each.compute_capability)) for each in known]


# --- streams


class Stream(NamedTuple):
    """A queue of a device, by the number of the device and the raw handle."""

    device: int = 0
    handle: int = 0  # 0: the default stream


def current_device() -> int:
    """Return the number of the device that this thread would use by itself."""
    return int(cuda.current_context().device.id)


@functools.lru_cache(maxsize=128)
def _queue(stream: Stream) -> Any:
    """Return what numba calls the stream; one object for each handle, for numba's caches go by the object."""
    return cuda.external_stream(stream.handle) if stream.handle else 0


# --- memory


class DeviceArray(NamedTuple):
    """Memory of a device: where it is, what it holds, and who keeps it alive."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any = None  # an array of the library that allocated it

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def nothing(dtype: DTypeLike) -> DeviceArray:
    """Return an array without elements, for what a kernel is not given."""
    return DeviceArray(0, (0,), np.dtype(dtype))


OUT_OF_MEMORY = 2  # the driver's number for it


def no_memory(shape: tuple[int, ...], dtype: DTypeLike) -> MemoryError:
    """Return the error for an array that does not fit into the memory of the device any more."""
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return MemoryError(f"backend: 'cuda' needs {num_bytes} bytes of the memory of the GPU, which are not free")


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
    """Allocate memory of the current device through numba."""
    try:
        owner = cuda.device_array(shape, np.dtype(dtype))
    except Exception as error:
        if getattr(error, "code", None) != OUT_OF_MEMORY:
            raise
        raise no_memory(shape, dtype) from error
    return DeviceArray(owner.__cuda_array_interface__["data"][0], shape, np.dtype(dtype), owner)


def _wrapped(array: DeviceArray) -> Any:
    """Return numba's array over the same memory."""
    shown = {"shape": array.shape, "typestr": array.dtype.str, "data": (array.address, False), "version": 3}
    return cuda.from_cuda_array_interface(shown, array.owner, sync=False)


class Library(NamedTuple):
    """Whose arrays a call works with: the stream that queues its work, and what allocates more of its arrays."""

    stream: Stream
    allocate: Callable[[tuple[int, ...], DTypeLike], DeviceArray]

    def current(self) -> AbstractContextManager[Any]:
        """Make the device of the stream the current one of this thread, as all that follows here wants it."""
        device: AbstractContextManager[Any] = cuda.gpus[self.stream.device]
        return device

    def upload(self, array: NDArray[Any], num_workers: int = 1) -> DeviceArray:
        """Copy an array to the device, by so many threads; the caller's may change as soon as this returns."""
        copy = self.allocate(array.shape, array.dtype)
        if array.nbytes >= copies.LARGE:
            copies.to_device(np.ascontiguousarray(array), copy.address, *self.stream, num_workers)
        elif array.size:
            _wrapped(copy).copy_to_device(np.ascontiguousarray(array), stream=_queue(self.stream))
        return copy

    def download(self, array: DeviceArray, num_workers: int = 1) -> NDArray[Any]:
        """Copy a C-contiguous array to the host, after what the stream was asked before, and wait for it."""
        num_bytes = array.size * array.dtype.itemsize
        if not num_bytes:
            return np.empty(array.shape, array.dtype)
        if num_bytes >= copies.LARGE:
            large: NDArray[Any] = np.empty(array.shape, array.dtype)
            copies.to_host(array.address, large, *self.stream, num_workers)
            return large
        host: NDArray[Any] = _wrapped(array).copy_to_host(stream=_queue(self.stream))
        self.synchronize()
        return host

    def synchronize(self) -> None:
        """Wait until the stream has done what was asked of it."""
        (_queue(self.stream) or cuda.default_stream()).synchronize()


def numba_library(device: int | None = None) -> Library:
    """Return numba itself, on the default stream of a device; None: of the current one."""
    return Library(Stream(current_device() if device is None else device), empty)


# --- kernels


def helper(function: F) -> F:
    """Compile a function that kernels call into each of them."""
    global COMPILES, _problem
    if not COMPILES:
        return function
    try:
        return cuda.jit(device=True, forceinline=True)(function)  # type: ignore[no-any-return]
    except MISFITS as error:
        COMPILES, _problem = False, _misfit(error)
        return function


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


_NUMBERS = {int: types.int64, bool: types.int64, float: types.float64}


def record(kind: Any, **others: Any) -> Any:
    """Return the type of a NamedTuple: its numbers as annotated, its arrays by their dtypes, else a type as it is."""
    named = {name: each if isinstance(each, types.Type) else pointer(each) for name, each in others.items()}
    fields = (named.get(name) or _NUMBERS[hint] for name, hint in kind.__annotations__.items())
    return types.NamedTuple(list(fields), kind)


# What a struct calls them; an address is one more number.
_CODES = {types.int64: "q", types.float64: "d"}
_CODES |= {types.uint8: "B", types.uint16: "H", types.uint32: "I", types.uint64: "Q"}


def layout_of(kind: Any) -> str:
    """Return the format of a struct of what a kernel takes for a type: one code for each number, records unfolded."""
    if isinstance(kind, types.BaseTuple):
        return "".join(map(layout_of, kind))
    return "P" if isinstance(kind, types.CPointer) else _CODES[kind]


def unfolded(arguments: Iterable[Any]) -> list[Any]:
    """Return the numbers of some arguments one by one: arrays are addresses."""
    numbers: list[Any] = []
    for each in arguments:
        if type(each) is DeviceArray:
            numbers.append(each.address)
        elif isinstance(each, tuple):
            numbers += unfolded(each)
        else:
            numbers.append(each)
    return numbers


# Takes blocks, the raw handle of a stream, bytes of shared memory, and arguments.
Launcher = Callable[[int, int, int, tuple[Any, ...]], None]


class Kernel:
    """A kernel: its Python, its signature, and its threads. It is compiled when a device first runs it.

    A multiprocessor is to run `blocks` of them at once, which bounds the registers of a thread.
    """

    def __init__(
        self, function: Callable[..., None], *arguments: Any, threads: int = THREADS, blocks: int = 1
    ) -> None:
        self.function = function
        self.signature = types.void(*arguments)
        self.threads = threads  # per block
        self.bounds = threads, blocks
        self._launchers: dict[int, Launcher] = {}  # by device

    def on(self, device: int) -> Launcher:
        """Return what launches the kernel on a device, which is the current one."""
        if device not in self._launchers:
            with _loading:  # of several threads one compiles
                if device not in self._launchers:
                    self._launchers[device] = load(self, device)
        return self._launchers[device]

    def launch(self, num_blocks: int, stream: Stream, *arguments: Any, shared_bytes: int = 0) -> None:
        """Enqueue the kernel on a stream of the current device; `shared_bytes` are those of arrays of size 0."""
        if num_blocks:
            self.on(stream.device)(num_blocks, stream.handle, shared_bytes, arguments)

    def launch_each(self, number: int, stream: Stream, *arguments: Any, shared_bytes: int = 0) -> None:
        """Enqueue the kernel with a thread for each of some elements."""
        self.launch(-(-number // self.threads), stream, *arguments, shared_bytes=shared_bytes)


_loading = threading.Lock()


def load(kernel: Kernel, device: int) -> Launcher:
    """Load a kernel from the cache, or compile it, for a device, which is the current one."""
    function: Any = kernel.function
    capability = tuple(cuda.gpus[device].compute_capability)
    types_of = [(str(kind), getattr(kind, "fields", ())) for kind in kernel.signature.args]
    identity = function.__module__, types_of, kernel.bounds, capability, list(code_of(function))

    def make() -> bytes:
        options = {"device": False, "abi": "numba", "launch_bounds": kernel.bounds, "output": "ltoir"}
        ltoir, _ = cuda.compile(function, kernel.signature, cc=capability, **options)
        return cubins.link(ltoir, capability)

    try:
        cubin = cubins.kept(function.__name__, identity, cubins.toolchain(), make)
        launcher = cubins.Launcher(cubin, "".join(map(layout_of, kernel.signature.args)), kernel.threads)
    except MISFITS as error:
        msg = f"backend: 'cuda' needs the package {_misfit(error)}"
        raise RuntimeError(msg) from error

    def launch(num_blocks: int, stream: int, shared_bytes: int, arguments: tuple[Any, ...]) -> None:
        launcher(num_blocks, stream, shared_bytes, unfolded(arguments))

    return launch
