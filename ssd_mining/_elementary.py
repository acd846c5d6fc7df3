"""Exponentials and logarithms that vectorise: in float32 a few additions and products, in float64 libm's.

Numba's `math.exp` costs 3 ns a piece, one at a time. Written without a branch or a call, a loop of these runs at 16
lanes per instruction with AVX-512. Multiply-adds are fused explicitly, never at the compiler's choice, so that every
CPU gives the same bits.

``exp(a) = 2**n * exp(r)`` with ``n`` the whole number nearest to ``a / log(2)``: what is left, ``|r| <= 0.35``, is a
polynomial's, and 2**n is made of bits. `exp_over` takes the ``n`` and the ``r`` of another value off before that: the
ratio of two exponentials is neither rounded at the difference of the values, nor does it overflow on the way.
"""

import math
from typing import Any

import numpy as np
from numba.core import config, types
from numba.extending import intrinsic, overload

from ssd_mining._jit import helper

_ONE, _TWO, _ZERO = np.float32(1), np.float32(2), np.float32(0)
_LOG2_E = np.float32(1 / math.log(2))
# log(2) in two parts: the first has 9 bits, so that its products with whole numbers below 2**15 are exact.
_LOG_2_HIGH, _LOG_2_LOW = np.float32(355 / 512), np.float32(math.log(2) - 355 / 512)
# A float32 of this size has no bits behind the point: to add it rounds to a whole number, kept in its low bits.
_ROUND = np.float32(1.5 * 2**23)
_ROUND_BITS = np.int32(0x4B400000)
_BIAS, _FRACTION = np.int32(127), np.int32(23)  # of a float32: of its exponent; how many bits are behind it
# exp(r) / r**k over |r| <= log(2) / 2, fitted to its relative error: 2e-9 at most.
_E2, _E3, _E4, _E5, _E6 = (
    np.float32(c)
    for c in (
        0.49999991059303284,
        0.16666419804096222,
        0.0416683629155159,
        0.008374813012778759,
        0.0013829361414536834,
    )
)
_THIRD, _FIFTH, _SEVENTH, _NINTH = (np.float32(1 / n) for n in (3, 5, 7, 9))
_FRACTION_MASK = np.int32(0x7FFFFF)
_ROOT_HALF = np.int32(0x3F3504F3)  # the bits of sqrt(1 / 2)
_TO_ROOT_HALF = np.int32(0x3F800000 - 0x3F3504F3)
# Differences from there on to the next 87 are exact, by Sterbenz; below it, whole exponents are.
_FAR = np.float32(174)
_DEPTH, _DEPTH_64 = np.float32(87), np.float64(708)


def _fma_typing(_: Any, a: Any, b: Any, c: Any) -> Any:
    return types.float32(a, b, c), lambda _context, builder, _signature, args: builder.fma(*args)


def _fma_in_python(a: Any, b: Any, c: Any) -> Any:
    return np.float32(np.float64(a) * b + c)


# a * b + c, rounded once.
_fma: Any = _fma_in_python if config.DISABLE_JIT else intrinsic(_fma_typing)


@helper
def _whole32(value: Any) -> Any:
    """Round ``value / log(2)`` to a whole number, as an int32."""
    return np.int32(np.float32(_fma(value, _LOG2_E, _ROUND)).view(np.int32) - _ROUND_BITS)


@helper
def _part32(value: Any) -> Any:
    n = _fma(value, _LOG2_E, _ROUND) - _ROUND
    return _fma(-n, _LOG_2_LOW, _fma(-n, _LOG_2_HIGH, value))


@helper
def _exp_over32(value: Any, exponent: Any, part: Any) -> Any:
    rounded = _fma(value - part, _LOG2_E, _ROUND)
    n = rounded - _ROUND
    r = _fma(-n, _LOG_2_LOW, _fma(-n, _LOG_2_HIGH, value)) - part
    p = _fma(_fma(_fma(_fma(_E6, r, _E5), r, _E4), r, _E3), r, _E2)
    p = _fma(_fma(p, r, _ONE), r, _ONE)
    power = np.int32(np.int32(np.float32(rounded).view(np.int32) - _ROUND_BITS) - exponent)
    return p * np.int32(np.int32(power + _BIAS) << _FRACTION).view(np.float32)


@helper
def _base32(value: Any) -> Any:
    return value if abs(value) > _FAR else _ZERO


@helper
def _log1p32(value: Any) -> Any:
    total = _ONE + value
    part = total - value
    lost = (value - (total - part)) + (_ONE - part)  # what rounding took from the sum
    shifted = np.int32(np.float32(total).view(np.int32) + _TO_ROOT_HALF)
    exponent = np.int32((shifted >> _FRACTION) - _BIAS)
    mantissa = np.int32(np.int32(shifted & _FRACTION_MASK) + _ROOT_HALF).view(np.float32)  # sqrt(1/2) to sqrt(2)
    f = (mantissa - _ONE) + lost * np.int32(np.int32(_BIAS - exponent) << _FRACTION).view(np.float32)
    z = f / (_TWO + f)
    w = z * z
    # log(1 + f) = 2 atanh(z) = f - z (f - 2 (z**2 / 3 + z**4 / 5 + ...)): what is rounded is small beside f.
    series = w * (_THIRD + w * (_FIFTH + w * (_SEVENTH + w * _NINTH)))
    n = np.float32(exponent)
    return (f - (z * (f - _TWO * series) - n * _LOG_2_LOW)) + n * _LOG_2_HIGH


def base(value: Any) -> Any:
    """Choose what to subtract from `value`, and from what lies at most 87 below it, without rounding anything."""
    return _base32(value) if isinstance(value, np.float32) else value


def depth(value: Any) -> Any:
    """Return how far below 0 an exponential of this type is a normal number: deeper ones count as 0."""
    return _DEPTH if isinstance(value, np.float32) else _DEPTH_64


def whole(value: Any) -> Any:
    """Return the ``n`` of ``exp(value) = 2**n * exp(r)``; 0 in float64, where `base` has taken all of it off."""
    return _whole32(value) if isinstance(value, np.float32) else np.int32(0)


def part(value: Any) -> Any:
    """Return the ``r`` of ``exp(value) = 2**n * exp(r)``; 0 in float64, where `base` has taken all of it off."""
    return _part32(value) if isinstance(value, np.float32) else value * 0


def exp_over(value: Any, exponent: Any, part: Any) -> Any:
    """Compute ``exp(value) / (2**exponent * exp(part))``, a result from 2**-126 to 2**127; NaN of NaN."""
    return _exp_over32(value, exponent, part) if isinstance(value, np.float32) else np.float64(math.exp(value))


def log1p(value: Any) -> Any:
    """Compute ``log(1 + value)`` of a value from 0 to 2**100; NaN of NaN."""
    return _log1p32(value) if isinstance(value, np.float32) else np.float64(math.log1p(value))


# What Numba compiles them to, by the type of the first argument. It wants the names of the arguments to be the same.
overload(base)(lambda value: (lambda value: _base32(value)) if value == types.float32 else lambda value: value)
overload(depth)(lambda value: (lambda value: _DEPTH) if value == types.float32 else lambda value: _DEPTH_64)  # noqa: ARG005
overload(whole)(
    lambda value: (lambda value: _whole32(value)) if value == types.float32 else lambda value: np.int32(0)  # noqa: ARG005
)
overload(part)(lambda value: (lambda value: _part32(value)) if value == types.float32 else lambda value: value * 0)
overload(exp_over)(
    lambda value, exponent, part: (  # noqa: ARG005
        (lambda value, exponent, part: _exp_over32(value, exponent, part))
        if value == types.float32
        else lambda value, exponent, part: math.exp(value)  # noqa: ARG005 - both are 0 in float64
    )
)
overload(log1p)(
    lambda value: (lambda value: _log1p32(value)) if value == types.float32 else lambda value: math.log1p(value)
)
