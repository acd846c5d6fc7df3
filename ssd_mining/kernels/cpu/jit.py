"""The one file that names an option of Numba's compiler for the CPU.

A kernel is compiled on first use, once for each of the few input types that `inputs` lets through. Fastmath is off:
``nnan`` would delete the NaN checks, and ``reassoc`` would give other bits on other CPUs. Division by zero follows IEEE
754, because the check for Python's exception would keep loops from being vectorised. Python calls drivers, which the
guarded cache keeps on disk; helpers are compiled into them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from llvmlite.ir import IRBuilder, Value
from numba.core import types
from numba.core.base import BaseContext
from numba.core.typing import Context, Signature

from ssd_mining.kernels.cpu import cache
from ssd_mining.kernels.cpu.crew import work_together
from ssd_mining.kernels.cpu.lanes import Typed, fetch_add, native

F = TypeVar("F", bound=Callable[..., object])

_drivers: list[Any] = []


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


@native(lambda: None)
def widest(_: Context) -> Typed:
    """Have LLVM vectorise the loops of the calling function with the widest registers of the CPU.

    On Intel's processors it prefers registers of 256 bits to those of 512, which takes arithmetic up to twice as long
    (docs/decisions/0006-logits.md).
    """

    def codegen(context: BaseContext, builder: IRBuilder, _signature: Signature, _args: list[Value]) -> Value:
        set.add(
            builder.function.attributes, '"prefer-vector-width"="512"'
        )  # llvmlite prints it, but does not list it
        return context.get_dummy_value()

    return types.void(), codegen


def drivers(body: Callable[..., None], *, by_piece: bool = False) -> tuple[Callable[..., None], Callable[..., None]]:
    """Make two loops over the samples of a helper ``body(worker, sample, *arguments)``: of this thread, and of several.

    Both are called as ``driver(num_samples, num_workers, *arguments)`` and release the GIL. Several threads take the
    samples piece by piece: whoever is free has the next one. `worker` is the number of the thread, or, with `by_piece`,
    of the piece: then there are as many pieces as workers.
    """

    def driver(
        worker: int, piece: int, begun: Any, ended: Any, num_pieces: int, num_samples: int, _num_workers: int,
        *arguments: Any,
    ) -> None:  # fmt: skip
        if piece < 0:
            piece = fetch_add(begun, 1)
        while piece < num_pieces:
            for sample in range(piece * num_samples // num_pieces, (piece + 1) * num_samples // num_pieces):
                body(piece if by_piece else worker, sample, *arguments)
            fetch_add(ended, 1)
            piece = fetch_add(begun, 1)

    driver.__name__ = driver.__qualname__ = body.__name__  # names its files in the cache
    options = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True}
    compiled = numba.njit(driver, **options)
    if compiled is not driver:  # with the JIT off it is
        compiled.__code__ = body.__code__  # profilers show the body; all drivers are the same function
        cache.guard(compiled)
        _drivers.append(compiled)

    def together(num_samples: int, num_workers: int, *arguments: Any) -> None:
        compiled(0, 1, _BEGUN, _BEGUN, 1, num_samples, num_workers, *arguments)  # nothing, but now it is compiled
        num_pieces = num_workers if by_piece else min(num_samples, num_workers * PIECES)
        begun, ended = np.zeros((2, _CACHE_LINE), np.int64)

        def work(worker: int) -> None:
            compiled(worker, -1, begun, ended, num_pieces, num_samples, num_workers, *arguments)

        work_together(num_workers, work, lambda: bool(ended[0] == num_pieces))

    return functools.partial(compiled, 0, 0, _BEGUN, _BEGUN, 1), together


# So many for each thread: one that the system stops for a while holds up little, and taking a piece costs nothing.
PIECES = 16
_CACHE_LINE = 8  # numbers of 8 bytes
_BEGUN = np.ones(1, np.int64)  # the one piece there is


class Compiled(NamedTuple):
    """How this process got its machine code: counts of drivers times input types."""

    compiled: int
    loaded: int


def counts() -> Compiled:
    """Count what this process compiled and what it loaded from the cache."""
    stats = [driver.stats for driver in _drivers]
    return Compiled(
        compiled=sum(sum(each.cache_misses.values()) for each in stats),
        loaded=sum(sum(each.cache_hits.values()) for each in stats),
    )
