"""Machine code for GPUs: linked once, kept in the guarded cache, loaded and launched through the driver.

numba makes what is linked (`runtime`). From there on a kernel is a cubin and a struct: all arguments of a launch are
packed into one buffer, in which the driver finds each of them at a place that never changes. So no launch looks at a
type, and a process that finds its cubins on disk compiles nothing.

`cuda.core` and `cuda.bindings`, which come with numba-cuda, are named here alone, by their public names.
"""

import contextlib
import ctypes
import functools
import re
import struct
import threading
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from ssd_mining.kernels.cache import entry_of, is_on, never_raise, prune, settings

# The packages that make machine code, by the names that NVIDIA gives them for CUDA 13 and 12.
TOOLCHAIN = (
    *("numba-cuda", "cuda-core", "cuda-bindings"),
    *("nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12"),
)
# Errors that stay: after one of them the driver refuses all further work of this process.
STICKY = {"ILLEGAL_ADDRESS", "LAUNCH_TIMEOUT", "ASSERT", "HARDWARE_STACK_ERROR", "ILLEGAL_INSTRUCTION"}
STICKY |= {"MISALIGNED_ADDRESS", "INVALID_ADDRESS_SPACE", "INVALID_PC", "LAUNCH_FAILED", "ECC_UNCORRECTABLE"}
ASKED_FROM = 12040  # the driver that first tells what a kernel takes: CUDA 12.4

_counts = {"compiled": 0, "loaded": 0}


def counts() -> tuple[int, int]:
    """Count the kernels that this process compiled, and those that it loaded from the cache."""
    return _counts["compiled"], _counts["loaded"]


@functools.cache
def versions() -> dict[str, str | None]:
    """Return the versions of the toolchain; None: not installed."""
    found: dict[str, str | None] = dict.fromkeys(TOOLCHAIN)
    for name in TOOLCHAIN:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def driver_version() -> str | None:
    """Return the newest CUDA that the driver supports, such as "13.0"; None: no driver answers."""
    try:
        from cuda.bindings import driver

        error, version = driver.cuDriverGetVersion()
    except Exception:  # noqa: BLE001 - what a missing package or a missing library raises has no common name
        return None
    return None if error or not version else f"{version // 1000}.{version % 1000 // 10}"


class ToolchainError(Exception):
    """What makes machine code is missing, or it failed."""


def toolchain() -> tuple[Any, ...]:
    """Return what decides code for GPUs and is the same for every kernel, besides our sources."""
    try:
        from cuda.bindings import nvjitlink, nvvm  # they may come with a CUDA toolkit that no package names

        return versions(), nvvm.version(), nvvm.ir_version(), nvjitlink.version(), settings()
    except Exception as error:  # what is raised for a missing library has no common name
        raise ToolchainError(said_by(error)) from error


def kept(name: str, identity: tuple[Any, ...], environment: tuple[Any, ...], make: Callable[[], bytes]) -> bytes:
    """Return the cubin kept for a kernel, by all that decides its code; if there is none, make and keep it."""
    with contextlib.ExitStack() as lock:
        missed = cubin = None
        if is_on():
            with never_raise():
                entry = entry_of(name, identity, environment)
                cubin = entry.read()
                if cubin is None:
                    lock.enter_context(entry.lock())
                    cubin = entry.read()  # whoever held the lock has probably saved it
                missed = entry
        if cubin is not None:
            _counts["loaded"] += 1
            return cubin
        cubin = make()
        _counts["compiled"] += 1
        if missed is not None:
            with never_raise():
                missed.write(cubin)
                prune(missed.directories[0])
        return cubin


def link(ltoir: bytes, capability: tuple[int, ...]) -> bytes:
    """Return the machine code, for one kind of device, of what numba compiled."""
    try:
        from cuda.core import Linker, LinkerOptions, ObjectCode

        options = LinkerOptions(arch="sm_{}{}".format(*capability), link_time_optimization=True)
        return bytes(Linker(ObjectCode.from_ltoir(ltoir), options=options).link("cubin").code)
    except Exception as error:
        raise ToolchainError(said_by(error)) from error


def said_by(error: BaseException) -> str:
    """Return the kind and the text of an error, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def answer(result: tuple[Any, ...]) -> Any:
    """Return what the driver gives, or raise what it says."""
    error, *values = result
    if not error:
        return values[0] if values else None
    from cuda.bindings import driver

    said = f"{error.name}: {driver.cuGetErrorString(error)[1].decode()}"
    if error.name.removeprefix("CUDA_ERROR_") in STICKY:
        said += "; work that this process gave the GPU before, perhaps by another library, has failed"
    msg = f"backend: 'cuda' was refused by the driver ({said})"
    raise RuntimeError(msg)


class Launcher:
    """A kernel in the hands of the driver; `layout` is the format of a struct of its arguments."""

    def __init__(self, cubin: bytes, layout: str, threads: int) -> None:
        from cuda.bindings import driver

        self._driver, self._launch, self._threads = driver, driver.cuLaunchKernel, threads
        (self.name,) = set(re.findall(rb"\0\.text\.([^\0]+)(?=\0)", cubin))  # the section of the only kernel
        library = answer(driver.cuLibraryLoadData(cubin, [], [], 0, [], [], 0))
        kernel = answer(driver.cuLibraryGetKernel(library, self.name))
        self._function = driver.CUfunction(int(kernel))  # a launch takes either; kernels serve all contexts
        self._struct = struct.Struct(layout)
        self._buffer = ctypes.create_string_buffer(self._struct.size)
        ends = [struct.calcsize(layout[: i + 1]) for i in range(len(layout))]
        places = [
            (end - struct.calcsize(code), struct.calcsize(code)) for end, code in zip(ends, layout, strict=True)
        ]
        self._check(kernel, places)
        first = ctypes.addressof(self._buffer)
        self._pointers = (ctypes.c_void_p * len(places))(*(first + place for place, _ in places))
        self._arguments = ctypes.addressof(self._pointers)
        self._lock = threading.Lock()  # of the buffer, which a launch has copied when it returns

    def __call__(self, num_blocks: int, stream: int, shared_bytes: int, values: Sequence[Any]) -> None:
        """Enqueue the kernel on a stream of the current device, by its raw handle."""
        grid = num_blocks, 1, 1, self._threads, 1, 1
        with self._lock:
            self._struct.pack_into(self._buffer, 0, *values)
            done = self._launch(self._function, *grid, shared_bytes, stream, self._arguments, 0)
        if done[0]:
            answer(done)

    def _check(self, kernel: Any, places: list[tuple[int, int]]) -> None:
        """Compare where the arguments are packed with what the kernel says it takes, if the driver can tell."""
        driver = self._driver
        if answer(driver.cuDriverGetVersion()) < ASKED_FROM:
            return
        taken = []
        for i in range(len(places) + 1):
            error, place, size = driver.cuKernelGetParamInfo(kernel, i)
            if not error:
                taken.append((place, size))
        if taken != places:
            msg = f"{self.name!r} takes arguments at {taken} (place, bytes), not at {places}"
            raise RuntimeError(msg)
