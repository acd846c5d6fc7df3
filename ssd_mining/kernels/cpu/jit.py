"""The one file that names an option of Numba's compiler for the CPU.

Kernels are compiled on first use, once for each of the few input types that the checks of `inputs` let through, and
never with fastmath: ``nnan`` deletes the NaN checks, and ``reassoc`` changes bits between CPUs. Division by zero gives
what IEEE 754 says: the exception that Python would raise keeps a loop from being vectorised. Drivers, which Python
calls, are kept by the guarded cache; helpers are compiled into them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba

from ssd_mining.kernels.cpu import cache

F = TypeVar("F", bound=Callable[..., object])

_drivers: list[tuple[Any, Any]] = []  # the serial and the parallel one of each pair


def helper(function: F) -> F:
    """Compile a scalar or row helper that kernels call; it makes no array.

    Its driver holds the arrays. Without Numba's own runtime a helper does not count references to them, which
    costs a tenth of a loss from logits (docs/decisions/0006-logits.md).
    """
    return numba.njit(function, nogil=True, error_model="numpy", _nrt=False)  # type: ignore[no-any-return]


def inlined(function: F) -> F:
    """Compile a body into the helpers that call it: once for each of them, and not once more for itself."""
    return numba.njit(function, nogil=True, error_model="numpy", inline="always")  # type: ignore[no-any-return]


@helper
def _share(num_samples: int, worker: int, num_workers: int) -> tuple[int, int]:
    """Say which samples one of several workers takes: the first, and the one after the last."""
    return worker * num_samples // num_workers, (worker + 1) * num_samples // num_workers


def drivers(body: Callable[..., None]) -> tuple[Any, Any]:
    """Make what Python calls of a helper ``body(worker, sample, *arguments)``: for the calling thread, and for several.

    Both are called as ``driver(num_samples, num_workers, *arguments)``, and release the GIL. They are one function,
    compiled twice: `prange` is `range` in the first.
    """

    def driver(num_samples: int, num_workers: int, *arguments: Any) -> None:
        for worker in numba.prange(num_workers):
            first, last = _share(num_samples, worker, num_workers)
            for sample in range(first, last):
                body(worker, sample, *arguments)

    driver.__name__ = driver.__qualname__ = body.__name__  # files in the cache are called so
    pair = [numba.njit(driver, nogil=True, error_model="numpy", parallel=several) for several in (False, True)]
    if pair[0] is not driver:  # it is where the JIT is off
        for each in pair:
            each.__code__ = body.__code__  # profilers show this; the driver is the same for all
            cache.guard(each)
        _drivers.append((pair[0], pair[1]))
    return pair[0], pair[1]


class Counts(NamedTuple):
    """How the drivers of this process got their machine code, one count for each driver and input types."""

    compiled: int
    loaded: int


def counts() -> Counts:
    """Count what this process compiled and what it loaded from the cache."""
    stats = [driver.stats for pair in _drivers for driver in pair]
    return Counts(
        compiled=sum(sum(each.cache_misses.values()) for each in stats),
        loaded=sum(sum(each.cache_hits.values()) for each in stats),
    )


def compile_parallel() -> None:
    """Compile every parallel driver for the types that its serial twin has, without running it.

    To run one would start threads, which a process that forks later must not have (docs/threads.md).
    """
    for serial, parallel in _drivers:
        for signature in serial.signatures:
            parallel.compile(signature)
