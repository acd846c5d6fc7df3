"""What samples and classes are called: read and written, exact for every text and every integer of 64 bits.

Names are Python's own strings and integers throughout: NumPy's strings lose a zero at their end, and its integers
become floats where signed and unsigned ones meet.
"""

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.files.errors import DataError, explained
from ssd_mining.files.sources import array_name, open_array
from ssd_mining.files.text import EXACT, read_text

Name = str | int
Column = NDArray[Any]

_CSV_ROWS = 10_000  # turned into Python numbers at a time
_SPECIAL = re.compile('[,"\r\n]')  # a text with one of these is quoted


def read_ids(name: str | os.PathLike[str], count: int) -> list[Name]:
    """Read the names of `count` samples; `DataError` if there are others, or one twice.

    They are an array of whole numbers or strings in a file that `open_array` knows, or text, a line for each sample.
    """
    ids = _read(name, "iu", "whole numbers or strings, one for each sample")
    if len(ids) != count:
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
            lines = re.split("\r?\n", read_text(Path(name)))  # splitlines splits in the middle of names
        return lines if lines[-1] else lines[:-1]
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


def packed(value: Any) -> NDArray[np.uint8]:
    """Return names, or anything with names in it that JSON can hold, as bytes for a file of arrays."""
    return np.frombuffer(json.dumps(value, ensure_ascii=False).encode("utf-8", EXACT), np.uint8)


def unpacked(content: NDArray[np.uint8]) -> Any:
    """Return what `packed` made into bytes."""
    return json.loads(content.tobytes().decode("utf-8", EXACT))


def write_csv(path: Path, columns: Mapping[str, Column]) -> None:
    """Write columns of equal length (n,) as a table with a header; floats and names read back to the same bits."""
    row = ",".join(["%s"] * len(columns)) + "\n"
    texts = [place for place, column in enumerate(columns.values()) if column.dtype.kind in "UO"]
    with path.open("x", newline="", encoding="utf-8", errors=EXACT) as file:
        file.write(row % tuple(columns))
        for start in range(0, next(iter(columns.values())).size, _CSV_ROWS):
            part = [column[start : start + _CSV_ROWS].tolist() for column in columns.values()]
            for place in texts:
                part[place] = [_quoted(str(value)) for value in part[place]]
            file.write("".join([row % values for values in zip(*part, strict=True)]))


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _SPECIAL.search(text) else text


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
