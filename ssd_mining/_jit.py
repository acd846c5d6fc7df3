"""The one file that names a Numba option.

Kernels are compiled on first use, once for each of the few input types that `_inputs` lets through, and never with
fastmath: ``nnan`` deletes the NaN checks, and ``reassoc`` changes bits between CPUs.
"""

from collections.abc import Callable
from typing import TypeVar

import numba

F = TypeVar("F", bound=Callable[..., object])


def helper(function: F) -> F:
    """Compile a scalar or row helper that kernels call."""
    return numba.njit(function, nogil=True)  # type: ignore[no-any-return]


def serial(function: F) -> F:
    """Compile a driver that runs in the calling thread; it releases the GIL."""
    return numba.njit(function, nogil=True)  # type: ignore[no-any-return]


def parallel(function: F) -> F:
    """Compile a driver whose ``prange`` runs on Numba's threads."""
    return numba.njit(function, parallel=True, nogil=True)  # type: ignore[no-any-return]


prange = numba.prange
