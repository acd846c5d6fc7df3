"""Checks of single values, and the errors and warnings of this package."""

import contextlib
import numbers
import shlex
import sys
import warnings
from pathlib import Path
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


class HazardWarning(UserWarning):
    """Input that is legal and surely a mistake; the message has the number that shows it.

    Examples
    --------
    >>> import warnings
    >>> import ssd_mining as sm
    >>> analysis = sm.LossAnalysis(background=7)
    >>> _ = analysis.update([[0.5, 0.25], [0.5, 0.25]], [[1, 0], [0, 0]])
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     _ = analysis.result()
    >>> print(caught[0].message)
    background 7 labels none of the 4 anchors: all of them are positives
    """

    def __init__(self, message: str) -> None:  # a class of Python's own shows no signature
        super().__init__(message)


class DataError(ValueError):
    """A file is missing or damaged, does not hold what is expected of it, or cannot be written."""


def install_command(*packages: str) -> str:
    """Return the command that installs packages for this very Python, whose environment need not be active."""
    python = Path(sys.executable)
    with contextlib.suppress(ValueError):  # it lies elsewhere
        python = python.relative_to(Path.cwd())
    return shlex.join([str(python), "-m", "pip", "install", *packages])


def warn(message: str) -> None:
    """Warn of a hazard, at the line of the caller of this package."""
    frame, level = sys._getframe(1), 2  # noqa: SLF001 - skip_file_prefixes came with Python 3.12
    ours = "ssd_mining", "contextlib"  # contextlib runs our context managers
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ours:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, HazardWarning, stacklevel=level)


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


def check_int(name: str, value: Any, *, optional: bool = False, lowest: int | None = None) -> Any:
    """Return a whole number of at least `lowest` as an int of Python's own, or None if that is allowed."""
    if value is None and optional:
        return None
    kind = "a whole number" if lowest is None else f"a whole number of at least {lowest}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        refuse(name, f"{kind}{' or None' if optional else ''}", f"{value!r}", TypeError)
    if lowest is not None and value < lowest:
        refuse(name, kind, f"{value}")
    return int(value)


def check_number(
    name: str,
    value: Any,
    *,
    lowest: float = 0,
    highest: float = sys.float_info.max,
    below: float | None = None,
    words: str | None = None,
) -> float:
    """Return a number from `lowest` to `highest`, and below `below`, as a number of Python's own.

    A NumPy float of fewer bits becomes the decimal that it prints as: ``np.float32(0.29)`` means 0.29.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        refuse(name, f"a number {words}" if words else "a number", f"{value!r}", TypeError)
    number: Any = value  # a float32 would overflow at `highest`
    if isinstance(value, np.generic):
        number = int(value) if isinstance(value, np.integer) else float(str(value))
    if not lowest <= number <= highest or (below is not None and number >= below):
        got = (
            f"a whole number of {value.bit_length()} bits"
            if isinstance(value, int) and value > sys.float_info.max
            else f"{value}"
        )
        refuse(name, f"a number {words}" if words else f"a finite number of at least {lowest}", got)
    return number if isinstance(number, int) else float(number)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return a `value` that is one of the strings `choices`."""
    if not isinstance(value, str) or value not in choices:
        refuse(name, " or ".join(map(repr, choices)), f"{value!r}")
    return str(value)


def check_class_axis(class_axis: Any) -> int:
    """Return an axis where classes can stand."""
    is_whole = isinstance(class_axis, int | np.integer) and not isinstance(class_axis, bool)
    if not is_whole or class_axis not in (1, 2, -1):
        refuse("class_axis", "-1, 2 or 1", f"{class_axis!r}")
    return int(class_axis)


def set_fields(frozen: object, **fields: Any) -> None:
    """Set fields of a frozen dataclass to their checked values, as its constructor does."""
    for name, value in fields.items():
        object.__setattr__(frozen, name, value)
