"""Checks of single values, and the two errors for bad input."""

import numbers
import sys
from typing import Any, NoReturn

import numpy as np


class _BadInputError(Exception):
    """The parts of both messages: the argument, what was expected, what came, and where."""

    def __init__(
        self,
        argument: str,
        expected: str,
        got: str,
        sample: int | None = None,
        anchor: int | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(argument, expected, got, sample, anchor, hint)  # pickle calls the class with these
        self.argument, self.expected, self.got = argument, expected, got
        self.sample, self.anchor, self.hint = sample, anchor, hint

    @property
    def problem(self) -> str:
        """The message without the name of the argument."""
        where = "" if self.sample is None else f" at (sample {self.sample}, anchor {self.anchor})"
        return f"expected {self.expected}, got {self.got}{where}" + (f"; {self.hint}" if self.hint else "")

    def __str__(self) -> str:
        """Return the message: the argument, what was expected, what came, where, and a hint."""
        return f"{self.argument}: {self.problem}"


class InputError(_BadInputError, ValueError):
    """An argument has a wrong shape or value.

    Attributes
    ----------
    argument, expected, got, hint : str
        The parts of the message; a hint may be empty.
    sample, anchor : int or None
        The first wrong place, if it is known.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> try:
    ...     sm.confidence_loss([[0.5, float("nan")]], [[1, 0]], background=0)
    ... except sm.InputError as error:
    ...     error.argument, error.got, error.sample, error.anchor
    ('conf_loss', 'NaN', 0, 1)
    """


class InputTypeError(_BadInputError, TypeError):
    """An argument has a wrong type or dtype, or does not go with another. It has the attributes of `InputError`.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> try:
    ...     sm.confidence_loss([[0.5, 0.25]], [["cat", "dog"]], background=0)
    ... except sm.InputTypeError as error:
    ...     error.argument, error.got
    ('labels', 'dtype <U3')
    """


class DataWarning(UserWarning):
    """Data are legal, and probably not what the user means them to be."""


def refuse(
    argument: str,
    expected: str,
    got: str,
    kind: type[Exception] = ValueError,
    *,
    sample: int | None = None,
    anchor: int | None = None,
    hint: str = "",
) -> NoReturn:
    """Raise an `InputError`, or an `InputTypeError` for ``kind=TypeError``."""
    error = InputTypeError if kind is TypeError else InputError
    raise error(argument, expected, got, sample, anchor, hint)


def check_int(name: str, value: object, *, optional: bool = False, lowest: int | None = None) -> None:
    """Refuse a `value` that is not a whole number of at least `lowest`."""
    if value is None and optional:
        return
    kind = "a whole number" if lowest is None else f"a whole number of at least {lowest}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        refuse(name, f"{kind}{' or None' if optional else ''}", f"{value!r}", TypeError)
    if lowest is not None and value < lowest:
        refuse(name, kind, f"{value}")


def check_number(
    name: str,
    value: object,
    *,
    lowest: float = 0,
    highest: float = sys.float_info.max,
    below: float | None = None,
    words: str | None = None,
) -> None:
    """Refuse a `value` that is not a number from `lowest` to `highest`, or not below `below`."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        refuse(name, f"a number {words}" if words else "a number", f"{value!r}", TypeError)
    number: Any = value.item() if isinstance(value, np.generic) else value  # a float32 would overflow at `highest`
    if not lowest <= number <= highest or (below is not None and number >= below):
        got = (
            f"a whole number of {value.bit_length()} bits"
            if isinstance(value, int) and value > sys.float_info.max
            else f"{value}"
        )
        refuse(name, f"a number {words}" if words else f"a finite number of at least {lowest}", got)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a `value` that is not one of the strings `choices`."""
    if not isinstance(value, str) or value not in choices:
        refuse(name, " or ".join(map(repr, choices)), f"{value!r}")
