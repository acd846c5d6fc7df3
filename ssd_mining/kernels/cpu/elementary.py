"""exp and log1p that vectorise: polynomials in float32, libm in float64.

Numba's `math.exp` takes 3 ns and one value at a time. These functions have no branch and no call, so with AVX-512 a
loop over them handles 16 values per instruction. Fused multiply-adds are written as `fma`, which gives every CPU the
same bits.

The sum of ``exp(x - y)`` over many x, where y is the origin: ``exp(x) = 2**n * exp(r)``, where n is ``x / log(2)``
rounded and ``|r| <= 0.35``. A polynomial gives exp(r), and 2**n is written as bits. The n of the origin is subtracted
for free, as part of the constant that rounds (`rounder`). Its r is divided out once, from the sum (`settle`). So no
difference x - y is rounded, and no ratio overflows on the way.
"""

import math
from typing import Any

import numpy as np
from numba.core import config, types
from numba.core.types import Type
from numba.core.typing import Context
from numba.extending import intrinsic, overload

from ssd_mining.kernels.cpu.jit import helper
from ssd_mining.kernels.cpu.lanes import Typed

Float = Any  # np.float32 or np.float64

# In float32 the terms of a sum are kept 2**40 times too large, so that exp(-112), the clamp, becomes 0 in the end.
_EXTRA = np.int32(40)
_UNDO = np.float32(2.0**-40)
_DEPTH, _DEPTH_64 = np.float32(112), np.float64(800)
# `scaled_exp` clamps values: exp(-116) has the exponent 0 and becomes 0, exp(58) stays below the largest float32. A
# sum between LEAST and MOST contains no value that is clamped to 58, and those that became 0 are too small to count.
_LOWEST, _HIGHEST = np.float32(-116), np.float32(58)
LEAST, MOST = 1e-28, 1e37

_ONE, _ZERO, _MINUS_HALF = np.float32(1), np.float32(0), np.float32(-0.5)
_LOG2_E, _LOG_2 = np.float32(1 / math.log(2)), np.float32(math.log(2))
_MINUS_LOG_2 = -_LOG_2
# The error of the float32 nearest to log(2), which a sum of exponentials has n times.
_TOO_LARGE = np.float32(float(_LOG_2) - math.log(2))
_BIAS, _FRACTION = np.int32(127), np.int32(23)  # of a float32: the bias of its exponent, the bits of its fraction
# Adding this float32 rounds to a whole number, which ends up in the low bits of the sum.
_ROUND = np.float32(1.5 * 2**23)
_ROUND_TO_POWER = np.float32(1.5 * 2**23 + 127 + 40)  # the same, and the low bits are an exponent
# Coefficients of exp(r) for |r| <= log(2) / 2, fitted for the relative error: at most 3e-9.
_E2, _E3, _E4, _E5, _E6 = (
    np.float32(c)
    for c in (
        0.4999999337300979,
        0.16666519522901974,
        0.041668401095098576,
        0.008368851204593835,
        0.0013814320470007333,
    )
)
# Coefficients of log(1 + f) from sqrt(1 / 2) to sqrt(2), fitted for the relative error: at most 6e-9.
_L3, _L4, _L5, _L6, _L7, _L8, _L9, _L10 = (
    np.float32(c)
    for c in (
        0.3333333170767843,
        -0.25000821039912285,
        0.2000122688201219,
        -0.16623357142717676,
        0.14201757706641363,
        -0.1316018413118575,
        0.1276158016622747,
        -0.07634495920282022,
    )
)
_FRACTION_MASK = np.int32(0x7FFFFF)
_ROOT_HALF = np.int32(0x3F3504F3)  # the bits of sqrt(1 / 2)
_TO_ROOT_HALF = np.int32(0x3F800000 - 0x3F3504F3)


def _fma_in_python(a: Float, b: Float, c: Float) -> Float:
    return np.float32(np.float64(a) * np.float64(b) + np.float64(c))


def _fma(_: Context, a: Type, b: Type, c: Type) -> Typed:
    """Compute ``a * b + c``, rounded once. A CPU without the instruction calls libm, which gives the same bits."""
    return a(a, b, c), lambda _context, builder, _signature, args: builder.fma(*args)


fma = _fma_in_python if config.DISABLE_JIT else intrinsic(_fma)


@helper
def _exp_near_0(r: Float) -> Float:
    return fma(fma(fma(fma(fma(fma(_E6, r, _E5), r, _E4), r, _E3), r, _E2), r, _ONE), r, _ONE)


@helper
def _rounder32(origin: Float) -> Float:
    return _ROUND_TO_POWER - (fma(origin, _LOG2_E, _ROUND) - _ROUND)


@helper
def _settle32(total: Float, origin: Float) -> Float:
    n = fma(origin, _LOG2_E, _ROUND) - _ROUND
    ratio = total * (_exp_near_0(-fma(n, _MINUS_LOG_2, origin)) * _UNDO)
    exponent = np.int32(np.int32(np.float32(total).view(np.int32) >> _FRACTION) - (_BIAS + _EXTRA))
    return fma(ratio, np.float32(exponent) * _TOO_LARGE, ratio)


@helper
def _add_exp32(total: Float, value: Float, rounder: Float) -> Float:
    rounded = np.float32(fma(value, _LOG2_E, rounder))
    r = fma(rounded - rounder, _MINUS_LOG_2, value)
    return fma(_exp_near_0(r), np.int32(rounded.view(np.int32) << _FRACTION).view(np.float32), total)


@helper
def _scaled_exp32(value: Float) -> Float:
    value = _LOWEST if value < _LOWEST else value
    return _add_exp32(_ZERO, _HIGHEST if value > _HIGHEST else value, _ROUND_TO_POWER)


@helper
def _quotient32(total: Float, own: Float) -> Float:
    ratio = total / own
    exponent = np.int32(np.int32(np.float32(ratio).view(np.int32) >> _FRACTION) - _BIAS)
    return fma(ratio, np.float32(exponent) * _TOO_LARGE, ratio)


@helper
def _exp32(value: Float) -> Float:
    return _settle32(_add_exp32(_ZERO, -_DEPTH if value < -_DEPTH else value, _ROUND_TO_POWER), _ZERO)


@helper
def _log1p32(value: Float) -> Float:
    total = _ONE + value
    part = total - value
    lost = (value - (total - part)) + (_ONE - part)  # the rounding error of the sum
    shifted = np.int32(np.float32(total).view(np.int32) + _TO_ROOT_HALF)
    exponent = np.int32((shifted >> _FRACTION) - _BIAS)
    mantissa = np.int32(np.int32(shifted & _FRACTION_MASK) + _ROOT_HALF).view(np.float32)  # sqrt(1/2) to sqrt(2)
    f = fma(lost, np.int32(np.int32(_BIAS - exponent) << _FRACTION).view(np.float32), mantissa - _ONE)
    high = fma(fma(fma(_L10, f, _L9), f, _L8), f, _L7)
    series = fma(fma(fma(fma(high, f, _L6), f, _L5), f, _L4), f, _L3)
    return fma(np.float32(exponent), _LOG_2, fma(f * f, fma(f, series, _MINUS_HALF), f))


def depth(value: Float) -> Float:
    """Return how far below its origin a logit of this type counts as -inf, because its exponential is 0."""
    return _DEPTH if isinstance(value, np.float32) else _DEPTH_64


def rounder(origin: Float) -> Float:
    """Return the `rounder` argument of `add_exp` for this origin."""
    return _rounder32(origin) if isinstance(origin, np.float32) else origin


def settle(total: Float, origin: Float) -> Float:
    """Return the sum of ``exp(value - origin)`` from the `total` that `add_exp` has built."""
    return _settle32(total, origin) if isinstance(total, np.float32) else total


def add_exp(total: Float, value: Float, rounder: Float) -> Float:
    """Add ``exp(value - origin)`` to a total, for values from `depth` below the origin to 58 above it, or NaN.

    Origins and values are smaller than 2**20. `settle` turns the total into the sum.
    """
    return _add_exp32(total, value, rounder) if isinstance(value, np.float32) else total + np.exp(value - rounder)


def scaled_exp(value: Float) -> Float:
    """Compute ``exp(value)`` times a constant, which `quotient` divides out."""
    return _scaled_exp32(value) if isinstance(value, np.float32) else np.exp(value)


def quotient(total: Float, own: Float) -> Float:
    """Divide a sum of `scaled_exp` by a value of it; inf where that is 0."""
    return _quotient32(total, own) if isinstance(total, np.float32) else total / own


def exp(value: Float) -> Float:
    """Compute ``exp(value)`` for a value of at most 0, or NaN."""
    return _exp32(value) if isinstance(value, np.float32) else np.float64(math.exp(value))


def log1p(value: Float) -> Float:
    """Compute ``log(1 + value)`` for a value from 0 to 2**100, or NaN."""
    return _log1p32(value) if isinstance(value, np.float32) else np.float64(math.log1p(value))


# What Numba compiles, by the type of the first argument. It requires the same argument names.
overload(depth)(lambda value: (lambda value: _DEPTH) if value == types.float32 else lambda value: _DEPTH_64)  # noqa: ARG005
overload(rounder)(
    lambda origin: (lambda origin: _rounder32(origin)) if origin == types.float32 else lambda origin: origin
)
overload(settle)(
    lambda total, origin: (  # noqa: ARG005
        (lambda total, origin: _settle32(total, origin)) if total == types.float32 else lambda total, origin: total  # noqa: ARG005
    )
)
overload(add_exp)(
    lambda total, value, rounder: (  # noqa: ARG005
        (lambda total, value, rounder: _add_exp32(total, value, rounder))
        if value == types.float32
        else lambda total, value, rounder: total + math.exp(value - rounder)
    )
)
overload(exp)(
    lambda value: (lambda value: _exp32(value)) if value == types.float32 else lambda value: math.exp(value)
)
overload(log1p)(
    lambda value: (lambda value: _log1p32(value)) if value == types.float32 else lambda value: math.log1p(value)
)
overload(scaled_exp)(
    lambda value: (lambda value: _scaled_exp32(value)) if value == types.float32 else lambda value: math.exp(value)
)
overload(quotient)(
    lambda total, own: (  # noqa: ARG005
        (lambda total, own: _quotient32(total, own)) if total == types.float32 else lambda total, own: total / own
    )
)
