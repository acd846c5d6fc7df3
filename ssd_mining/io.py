"""Files: arrays read row by row from .npy and .npz, and output that appears whole or not at all.

Nothing is unpickled, ever. Inputs are read in order into memory of our
own, not mapped: a mapped file that is cut short during a call kills the process with SIGBUS, where a read tells.
"""

import contextlib
import csv
import math
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any
from zipfile import BadZipFile, ZipExtFile, ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

# The stream of a zip member makes a copy of what it is asked for, so it is asked for little at a time.
_CHUNK = 1 << 20  # bytes
_CSV_ROWS = 10_000  # turned into Python numbers at a time


class DataError(ValueError):
    """An input file is missing or damaged, or does not hold what is expected of it."""


class ArraySource:
    """The rows of an array in a file, read in order; made by `open_array`.

    Attributes
    ----------
    name : str
        What the user called it: ``losses.npy``, or ``data.npz:losses``.
    shape : tuple of int
        Of the whole array, at least one axis.
    dtype : dtype
        Bool, integer or float, as stored.
    outline : ndarray, the shape and dtype of the whole array
        What it looks like, without its values and its memory.
    """

    def __init__(self, name: str, stream: IO[bytes], size: int) -> None:
        self.name = name
        self._stream = stream
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        self.shape, self._fortran, self.dtype = read(stream)
        self._data = stream.tell()  # where the values begin
        self._row = 0
        self._check(size - self._data)
        self.outline = np.broadcast_to(np.empty((), self.dtype), self.shape)

    def _check(self, stored: int) -> None:
        """Refuse what holds no rows of numbers, and a file shorter than its header promises."""
        if self.dtype.kind not in "biuf":
            got = "pickled objects, which are never loaded" if self.dtype.hasobject else f"dtype {self.dtype}"
            raise DataError(f"{self.name}: expected bools, integers or floats, got {got}")
        if not self.shape or min(self.shape) < 0:
            raise DataError(f"{self.name}: expected an array with a row per sample, got shape {self.shape}")
        promised = math.prod(self.shape) * self.dtype.itemsize
        if stored < promised:
            expected = f"{promised:,} bytes of values for shape {self.shape} and dtype {self.dtype}"
            raise DataError(f"{self.name}: expected {expected}, got {stored:,}: the file is cut short")
        if self._fortran and isinstance(self._stream, ZipExtFile):  # it cannot jump from column to column
            advice = "save it again through numpy.ascontiguousarray, or as .npy"
            raise DataError(f"{self.name}: expected rows in C order, got Fortran order; {advice}")

    def read(self, count: int) -> NDArray[Any]:
        """Return the next `count` rows in a new array; fewer at the end, none after it.

        Parameters
        ----------
        count : int
            How many rows, at least 0.

        Returns
        -------
        ndarray, (count, ...), the dtype of the file
            The rows; of a Fortran-ordered file, in Fortran order.

        Raises
        ------
        DataError
            If the file cannot be read on, or ends too soon.
        """
        count = min(count, self.shape[0] - self._row)
        with _explained(self.name):
            rows = self._read_columns(count) if self._fortran else self._filled((count, *self.shape[1:]))
        self._row += count
        if rows.dtype == np.bool_:  # other writers store any byte but 0 as true; NumPy and Numba count on 1
            np.not_equal(rows.view(np.uint8), 0, out=rows)
        return rows

    def _read_columns(self, count: int) -> NDArray[Any]:
        """Gather `count` rows of a file whose columns lie one after the other."""
        columns = np.empty((math.prod(self.shape[1:]), count), self.dtype)
        for i, column in enumerate(columns):
            self._stream.seek(self._data + (i * self.shape[0] + self._row) * self.dtype.itemsize)
            self._fill(column)
        return columns.reshape(*self.shape[:0:-1], count).T

    def _filled(self, shape: tuple[int, ...]) -> NDArray[Any]:
        rows = np.empty(shape, self.dtype)
        self._fill(rows.reshape(-1))
        return rows

    def _fill(self, values: NDArray[Any]) -> None:
        left = values.view(np.uint8)
        while left.size:
            got = self._stream.readinto(left[:_CHUNK])  # type: ignore[attr-defined]
            if not got:
                raise DataError(f"{self.name}: expected {left.size:,} more bytes, got the end of the file")
            left = left[got:]


@contextlib.contextmanager
def open_array(name: str | os.PathLike[str]) -> Iterator[ArraySource]:
    """Open an array in a file for reading row by row.

    Parameters
    ----------
    name : str or path
        ``file.npy``; or ``file.npz:key``, where ``:key`` may be left out if the archive holds just one array.

    Yields
    ------
    ArraySource
        Its `shape`, its `dtype` and its rows.

    Raises
    ------
    DataError
        If the file is missing, is a directory, is cut short, is no .npy or .npz file or another one than its name
        says, has no such key, or holds anything but bools, integers or floats.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "losses.npy")
    ...     np.save(path, np.arange(6.0).reshape(3, 2))
    ...     with open_array(path) as losses:
    ...         losses.shape, losses.read(2).tolist(), losses.read(2).tolist()
    ((3, 2), [[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0]])
    """
    name = os.fspath(name)
    stem, colon, key = name.partition(".npz:")
    path = f"{stem}.npz" if colon else name
    with contextlib.ExitStack() as files:
        with _explained(name):
            if path.endswith(".npz"):
                archive = files.enter_context(ZipFile(path))
                member = _member(archive, name, key)
                source = ArraySource(name, files.enter_context(archive.open(member)), member.file_size)
            elif path.endswith(".npy"):
                stream = files.enter_context(Path(path).open("rb", buffering=0))
                source = ArraySource(name, stream, os.fstat(stream.fileno()).st_size)
            else:
                raise DataError(f"{name}: expected a name that ends in .npy, .npz or .npz:key, got another")
        yield source


def _member(archive: ZipFile, name: str, key: str) -> ZipInfo:
    """Find the array of an archive that `key` names, or the only one."""
    arrays = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}
    if not key and len(arrays) == 1:
        return next(iter(arrays.values()))
    if key not in arrays:
        expected = f"one of its arrays ({', '.join(arrays)}) after the colon" if arrays else "an array in it"
        raise DataError(f"{name}: expected {expected}, got {repr(key) if key else 'none'}")
    return arrays[key]


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what goes wrong while a file is opened or read into a `DataError` that names it."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{name}: expected a readable file, got {error.strerror or error}") from error
    # What zipfile and numpy.lib.format were seen to raise over damaged files; RuntimeError is a password.
    except (ValueError, SyntaxError, EOFError, RuntimeError, TokenError, BadZipFile, zlib.error) as error:
        raise DataError(f"{name}: expected a sound .npy or .npz file, got this: {error}") from error


@contextlib.contextmanager
def array_writer(
    path: Path, dtype: DTypeLike, row_shape: tuple[int, ...] = ()
) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Write a .npy file block by block; the file is complete when the ``with`` block ends.

    Parameters
    ----------
    path : Path
        A file that does not exist yet.
    dtype : dtype
        Of the array.
    row_shape : tuple of int
        Shape of one row; the number of rows is that of the blocks together.

    Yields
    ------
    function
        Call it with every block, an ndarray ``(rows, *row_shape)`` of `dtype`.

    Raises
    ------
    ValueError
        If a block has another dtype or shape.
    OSError
        If the file exists or cannot be written.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "anchors.npy")
    ...     with array_writer(path, np.int64) as append:
    ...         append(np.arange(2))
    ...         append(np.arange(3))
    ...     np.load(path).tolist()
    [0, 1, 0, 1, 2]
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
        if file.tell() != values:  # NumPy leaves room for the number of rows to grow; were it to stop
            msg = f"{path}: expected a header of {values} bytes, got {file.tell()}"
            raise RuntimeError(msg)


def write_csv(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write columns of equal length (n,) as a table with a header; floats read back to the same bits."""
    with path.open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for start in range(0, max((column.size for column in columns.values()), default=0), _CSV_ROWS):
            part = (column[start : start + _CSV_ROWS].tolist() for column in columns.values())
            writer.writerows(zip(*part, strict=True))


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a directory that appears under its name with all its files, or not at all.

    The files are written into a hidden sibling, ``.NAME.partial-XXXXXXXX``, which is renamed when the ``with``
    block ends and removed if it fails. A process that is killed leaves the sibling behind; it may be deleted.

    Parameters
    ----------
    path : str or path
        A directory that does not exist, or is empty. Its missing parents are made.

    Yields
    ------
    Path
        Where to write the files.

    Raises
    ------
    FileExistsError
        If `path` exists and is anything but an empty directory, or is the working directory.
    OSError
        If it cannot be made.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with atomic_directory(pathlib.Path(parent, "mined")) as folder:
    ...         _ = (folder / "note.txt").write_text("whole")
    ...     (pathlib.Path(parent) / "mined" / "note.txt").read_text()
    'whole'
    """
    final = Path(path).resolve()
    if final.exists() and (not final.is_dir() or final == Path.cwd() or any(final.iterdir())):
        msg = f"{os.fspath(path)}: expected a new name or an empty directory, got one that is in use"
        raise FileExistsError(msg)
    partial = final.with_name(f".{final.name}.partial-{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        yield partial
        for written in (*partial.rglob("*"), partial):
            _sync(written)
        with contextlib.suppress(FileNotFoundError):
            final.rmdir()  # Windows does not rename onto a directory, be it empty
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync(final.parent)


def _sync(path: Path) -> None:
    """Put a file or directory on the disk before the rename: after a power cut, a name without its data is worse."""
    if os.name == "posix":  # elsewhere a directory cannot be opened, nor a file synced that was opened to read
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
