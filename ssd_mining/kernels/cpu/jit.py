"""The one file that names a Numba option.

Kernels are compiled on first use, once for each of the few input types that `_inputs` lets through, and never with
fastmath: ``nnan`` deletes the NaN checks, and ``reassoc`` changes bits between CPUs. Division by zero gives what IEEE
754 says: the exception that Python would raise keeps a loop from being vectorised. Drivers, which Python calls, are
kept by the guarded cache of `_cache`; helpers are compiled into them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba

from ssd_mining.kernels.cpu import cache as _cache

F = TypeVar("F", bound=Callable[..., object])

_drivers: dict[str, Any] = {}


def helper(function: F) -> F:
    """Compile a scalar or row helper that kernels call; it makes no array.

    Its driver holds the arrays. Without Numba's own runtime a helper does not count references to them, which
    costs a tenth of a loss from logits (docs/decisions/0006-logits.md).
    """
    return numba.njit(function, nogil=True, error_model="numpy", _nrt=False)  # type: ignore[no-any-return]


def inlined(function: F) -> F:
    """Compile a body into the drivers that call it: once for each of them, and not once more for itself."""
    return numba.njit(function, nogil=True, error_model="numpy", inline="always")  # type: ignore[no-any-return]


def serial(function: F) -> F:
    """Compile a driver that runs in the calling thread; it releases the GIL. Its name ends in ``_serial``."""
    return _driver(function, parallel=False)


def parallel(function: F) -> F:
    """Compile a driver whose ``prange`` runs on Numba's threads.

    Its name ends in ``_parallel``, and it takes the arguments of its twin in ``_serial``.
    """
    return _driver(function, parallel=True)


def _driver(function: F, *, parallel: bool) -> F:
    driver = numba.njit(function, nogil=True, error_model="numpy", parallel=parallel)
    if driver is not function:  # it is where the JIT is off
        _cache.guard(driver)
        _drivers[f"{function.__module__}.{function.__name__}"] = driver
    return driver  # type: ignore[no-any-return]


prange = numba.prange


@helper
def share(span: tuple[int, int], worker: int, num_workers: int) -> tuple[int, int]:
    """Say which samples of a span, from the first to before the last, one of so many workers takes."""
    num_samples = span[1] - span[0]
    return span[0] + worker * num_samples // num_workers, span[0] + (worker + 1) * num_samples // num_workers


class Counts(NamedTuple):
    """How the drivers of this process got their machine code, one count for each driver and input types."""

    compiled: int
    loaded: int


def counts() -> Counts:
    """Count what this process compiled and what it loaded from the cache."""
    stats = [driver.stats for driver in _drivers.values()]
    return Counts(
        compiled=sum(sum(each.cache_misses.values()) for each in stats),
        loaded=sum(sum(each.cache_hits.values()) for each in stats),
    )


def compile_parallel() -> None:
    """Compile every parallel driver for the types that its serial twin has, without running it.

    To run one would start threads, which a process that forks later must not have (docs/threads.md).
    """
    for name, driver in _drivers.items():
        if name.endswith("_serial"):
            for signature in driver.signatures:
                _drivers[name.removesuffix("serial") + "parallel"].compile(signature)
