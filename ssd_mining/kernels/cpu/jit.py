"""The one file that names an option of Numba's compiler for the CPU.

A kernel is compiled on first use, once for each of the few input types that `inputs` lets through. Fastmath is off:
``nnan`` would delete the NaN checks, and ``reassoc`` would give other bits on other CPUs. Division by zero follows IEEE
754, because the check for Python's exception would keep loops from being vectorised. Python calls drivers, which the
guarded cache keeps on disk; helpers are compiled into them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba

from ssd_mining.kernels.cpu import cache

F = TypeVar("F", bound=Callable[..., object])

_drivers: list[tuple[Any, Any]] = []  # pairs: serial, parallel


def helper(function: F) -> F:
    """Compile a helper that kernels call and that allocates no array.

    Its driver holds the arrays, so the helper need not count references to them (``_nrt=False``). Counting costs a
    tenth of a loss from logits (docs/decisions/0006-logits.md). Only kernels call it: the ways into it from Python and
    from C, which Numba makes for each function, would be a fifth of the time to compile.
    """
    no_way_in = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return numba.njit(function, nogil=True, error_model="numpy", _nrt=False, **no_way_in)  # type: ignore[no-any-return]


def inlined(function: F) -> F:
    """Compile a function into each helper that calls it, and not on its own."""
    return numba.njit(function, nogil=True, error_model="numpy", inline="always")  # type: ignore[no-any-return]


def drivers(body: Callable[..., None]) -> tuple[Any, Any]:
    """Make the serial and the parallel driver of a helper ``body(worker, sample, *arguments)``.

    Both are called as ``driver(num_samples, num_workers, *arguments)`` and release the GIL. They are one function,
    compiled twice: in the serial one `prange` means `range`.
    """

    def driver(num_samples: int, num_workers: int, *arguments: Any) -> None:
        for worker in numba.prange(num_workers):
            first, last = worker * num_samples // num_workers, (worker + 1) * num_samples // num_workers
            for sample in range(first, last):
                body(worker, sample, *arguments)

    driver.__name__ = driver.__qualname__ = body.__name__  # names its files in the cache
    options = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True}
    pair = [numba.njit(driver, parallel=several, **options) for several in (False, True)]
    if pair[0] is not driver:  # with the JIT off it is
        for each in pair:
            each.__code__ = body.__code__  # profilers show the body; all drivers are the same function
            cache.guard(each)
        _drivers.append((pair[0], pair[1]))
    return pair[0], pair[1]


class Compiled(NamedTuple):
    """How this process got its machine code: counts of drivers times input types."""

    compiled: int
    loaded: int


def counts() -> Compiled:
    """Count what this process compiled and what it loaded from the cache."""
    stats = [driver.stats for pair in _drivers for driver in pair]
    return Compiled(
        compiled=sum(sum(each.cache_misses.values()) for each in stats),
        loaded=sum(sum(each.cache_hits.values()) for each in stats),
    )


def compile_parallel() -> None:
    """Compile every parallel driver for the input types of its serial one, without running it.

    Running it would start threads, and a process that forks later must not have any (docs/threads.md).
    """
    for serial, parallel in _drivers:
        for signature in serial.signatures:
            parallel.compile(signature)
