"""What samples and classes are called: lines of a text, or an array in a file."""

import os
from pathlib import Path

import numpy as np

from ssd_mining.files.sources import ARRAY_NAME, Array, DataError, explained, open_array


def read_ids(name: str | os.PathLike[str], count: int | None = None) -> Array:
    """Read the names of `count` samples, (count,) int64 or str; `DataError` if there are others, or one twice.

    Without a `count`, the file says how many there are.

    They are an array of whole numbers or strings in a file that `open_array` knows, or text, a line for each sample.
    """
    ids = _read(name, "iuU", "whole numbers or strings, one for each sample")
    if count is not None and ids.size != count:
        raise DataError(f"{name}: expected {count:,} names, one for each sample, got {ids.size:,}")
    values, first, number = np.unique(ids, return_index=True, return_counts=True)
    if (number > 1).any():
        twice = values[number > 1][np.argmin(first[number > 1])]
        places = np.flatnonzero(ids == twice)[:2]
        got = f"{twice.item()!r} for samples {places[0]} and {places[1]}"
        raise DataError(f"{name}: expected another name for every sample, got {got}")
    return ids


def read_class_names(name: str | os.PathLike[str]) -> list[str]:
    """Read the names of classes: strings of an array, (C,), or text, a line for each; or `DataError`."""
    names: list[str] = _read(name, "U", "strings, one for each class").tolist()
    return names


def _read(name: str | os.PathLike[str], kinds: str, expected: str) -> Array:
    """Read names from an array whose dtype is of these kinds, or from the lines of a text."""
    name = os.fspath(name)
    if not ARRAY_NAME.fullmatch(name):
        lines = read_lines(name)
        return np.array(lines, np.str_) if lines else np.empty(0, "<U1")
    with open_array(name, text=True) as source:
        if source.ndim != 1 or source.dtype.kind not in kinds:
            got = f"dtype {source.dtype} of shape {source.shape}"
            raise DataError(f"{name}: expected {expected}, got {got}")
        return source[:].astype(np.str_ if source.dtype.kind == "U" else np.int64)


def read_lines(name: str | os.PathLike[str]) -> list[str]:
    """Read text in UTF-8, line by line; `DataError` if there is none."""
    with explained(os.fspath(name)):
        return Path(name).read_text(encoding="utf-8").splitlines()
