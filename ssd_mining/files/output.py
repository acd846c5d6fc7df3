"""Output: arrays written block by block, tables, JSON, and files and directories that appear whole or not at all."""

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from ssd_mining.files.text import EXACT

_CSV_ROWS = 10_000  # turned into Python numbers at a time
_SPECIAL = re.compile('[,"\r\n]')  # a text with one of these is quoted


@contextlib.contextmanager
def array_writer(
    path: Path, dtype: DTypeLike, row_shape: tuple[int, ...] = ()
) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Write a new .npy file: yield a function to call with every block, ``(rows, *row_shape)`` of `dtype`.

    The file is complete when the ``with`` block ends. A block of another shape or dtype is a ValueError.
    """
    dtype, rows = np.dtype(dtype), 0
    with path.open("xb") as file:

        def write_header() -> None:
            shape = (rows, *row_shape)
            header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(file, header)

        def append(block: NDArray[Any]) -> None:
            nonlocal rows
            if block.dtype != dtype or block.shape[1:] != row_shape:
                expected, got = f"{dtype} rows of shape {row_shape}", f"{block.dtype} of shape {block.shape}"
                msg = f"block: expected {expected}, got {got}"
                raise ValueError(msg)
            rows += block.shape[0]
            file.write(np.ascontiguousarray(block).data)

        write_header()
        values = file.tell()
        yield append
        file.seek(0)
        write_header()
        if file.tell() != values:  # should NumPy stop to leave room for the number of rows to grow
            msg = f"{path}: expected a header of {values} bytes, got {file.tell()}"
            raise RuntimeError(msg)


def write_csv(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
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


def json_text(value: object) -> str:
    """Return JSON that every parser reads and every stream can hold: plain ASCII.

    NaN and infinity, which JSON has no words for, become null.
    """
    text = json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None), indent=2)
    return text.replace("\x7f", "\\u007f")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield where to write a file that gets its name, or replaces one of that name, when it is whole."""
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync(path.parent)


def refuse_used(path: str | os.PathLike[str], replaced: Collection[str] = ()) -> None:
    """Raise `FileExistsError` unless a name is new, or that of a directory with no files but those `replaced`."""
    final = Path(path).resolve()
    if not final.exists():
        return
    if not final.is_dir() or final == Path.cwd():
        other = "one that is in use"
    else:
        others = sorted(each.name for each in final.iterdir() if each.name not in replaced or not each.is_file())
        if not others:
            return
        other = f"{others[0]} in it" if replaced else "one that is in use"
    allowed = "a directory with no files but those of this command" if replaced else "an empty directory"
    msg = f"{os.fspath(path)}: expected a new name or {allowed}, got {other}"
    raise FileExistsError(msg)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str], replaced: Collection[str] = ()) -> Iterator[Path]:
    """Make a directory that appears under its name with all its files, or not at all.

    The files are written into a hidden sibling, ``.NAME.partial-XXXXXXXX``, which is renamed when the ``with``
    block ends and removed if it fails. A process that is killed leaves the sibling; it may be deleted. The name must
    be new, or that of a directory with no files but those `replaced`, or `FileExistsError` is raised; its missing
    parents are made. What is replaced is a hidden sibling too, ``.NAME.replaced-XXXXXXXX``, until the new directory
    has its name.
    """
    refuse_used(path, replaced)
    final = Path(path).resolve()
    token = secrets.token_hex(4)
    partial, old = (final.with_name(f".{final.name}.{what}-{token}") for what in ("partial", "replaced"))
    partial.mkdir(parents=True)
    try:
        yield partial
        for written in (*partial.rglob("*"), partial):
            _sync(written)
        refuse_used(path, replaced)  # what has come there meanwhile is not ours
        with contextlib.suppress(FileNotFoundError):
            final.rename(old)  # Windows does not rename onto a directory, not even an empty one
        partial.rename(final)
    except BaseException:
        with contextlib.suppress(OSError):
            old.rename(final)
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync(final.parent)
    for name in replaced:
        (old / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there is none; or somebody has put a file there in this very moment
        old.rmdir()


def _sync(path: Path) -> None:
    """Put a file or directory on the disk before the rename: after a power cut, a name without its data is worse."""
    if os.name == "posix":  # elsewhere a directory cannot be opened, nor a file synced that was opened to read
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
