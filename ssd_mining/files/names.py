"""What samples and classes are called: read and written, exact for every text and every integer of 64 bits.

Names are Python's own strings and integers throughout: NumPy's strings lose a zero at their end, and its integers
become floats where signed and unsigned ones meet.
"""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.checks import DataError
from ssd_mining.files.sources import array_name, explained, open_array
from ssd_mining.files.text import read_lines, read_text

Name = str | int
Column = NDArray[Any]


def read_ids(name: str | os.PathLike[str], count: int | None = None) -> list[Name]:
    """Read the names of `count` samples, or of all in the file; `DataError` if there are others, or one twice.

    They are an array of whole numbers or strings in a file that `open_array` knows, or text, a line for each sample.
    """
    ids = _read(name, "iu", "whole numbers or strings, one for each sample")
    if count is not None and len(ids) != count:
        raise DataError(f"{name}: expected {count:,} names, one for each sample, got {len(ids):,}")
    check_unique(os.fspath(name), ids)
    return ids


def read_class_names(name: str | os.PathLike[str]) -> list[str]:
    """Read the names of classes: strings of an array, (C,), or text, a line for each; or `DataError`."""
    return list(map(str, _read(name, "", "strings, one for each class")))


def check_unique(where: str, ids: Sequence[Name]) -> None:
    """Refuse names that do not tell all samples apart; `where` is the file that they are from."""
    first: dict[Name, int] = {}
    for i, name in enumerate(ids):
        if first.setdefault(name, i) != i:
            got = f"{name!r} for samples {first[name]} and {i}"
            raise DataError(f"{where}: expected another name for every sample, got {got}")


def _read(name: str | os.PathLike[str], kinds: str, expected: str) -> list[Name]:
    """Read names from an array of strings, or of numbers of these kinds; or from the lines of a text."""
    name = os.fspath(name)
    if array_name(name) is None:
        with explained(name):
            return list(read_lines(Path(name)))
    with open_array(name, text=True) as source:
        if source.ndim != 1 or not (source.is_text or source.dtype.kind in kinds):
            raise DataError(f"{name}: expected {expected}, got dtype {source.dtype} of shape {source.shape}")
        names = [_decoded(value) for value in source[:].tolist()]
    if not all(isinstance(each, str | int) for each in names):
        raise DataError(f"{name}: expected {expected}, got something else among them")
    return names


def _decoded(value: Any) -> Any:
    """Return the text of some bytes, as Python decodes the names of files."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def column_of(names: Sequence[Name]) -> Column:
    """Return names as a column (n,) of a table."""
    column = np.empty(len(names), object)
    column[:] = names
    return column


def read_csv(path: Path) -> dict[str, list[str]]:
    """Read the columns that `write_csv` wrote, as texts."""
    with explained(str(path)):
        text = read_text(path)
    try:
        titles, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        columns = zip(*rows, strict=True) if rows else [()] * len(titles)
        return {title: list(column) for title, column in zip(titles, columns, strict=True)}
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path}: expected the table of a report, got this: {error!r}") from error
