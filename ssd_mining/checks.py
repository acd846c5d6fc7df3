"""Checks of single values, and the one form that an input error has."""

import numbers
import sys
from typing import Any, NoReturn

import numpy as np


def refuse(name: str, expected: str, got: str, error: type[Exception] = ValueError) -> NoReturn:
    """Raise the one form that an input error has."""
    message = f"{name}: expected {expected}, got {got}"
    raise error(message)


def check_int(name: str, value: object, *, optional: bool = False, lowest: int | None = None) -> None:
    """Refuse a `value` that is not a whole number, or below `lowest`."""
    if value is None and optional:
        return
    kind = "a whole number" if lowest is None else f"a whole number of at least {lowest}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        msg = f"{name}: expected {kind}{' or None' if optional else ''}, got {value!r}"
        raise TypeError(msg)
    if lowest is not None and value < lowest:
        msg = f"{name}: expected {kind}, got {value}"
        raise ValueError(msg)


def check_number(name: str, value: object, *, lowest: int) -> None:
    """Refuse a `value` that is not a finite number, or below `lowest`."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        msg = f"{name}: expected a number, got {value!r}"
        raise TypeError(msg)
    number: Any = value  # mypy sees no order in numbers.Real
    if not lowest <= number <= sys.float_info.max:
        got = f"a whole number of {value.bit_length()} bits" if isinstance(value, int) and value > 0 else value
        msg = f"{name}: expected a finite number of at least {lowest}, got {got}"
        raise ValueError(msg)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a `value` that is not one of the strings `choices`."""
    if not isinstance(value, str) or value not in choices:
        msg = f"{name}: expected {' or '.join(map(repr, choices))}, got {value!r}"
        raise ValueError(msg)
