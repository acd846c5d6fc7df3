"""Arrays in files, read by rows: .npy, .npz, .safetensors, .zarr and .h5, each opened by the suffix of its name.

Nothing is unpickled, ever. Raw values are read into our own memory, not mapped: a mapped file that is cut short
during a call kills the process with SIGBUS, and a failed read raises.
"""

import contextlib
import importlib
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, NamedTuple
from zipfile import BadZipFile, ZipExtFile, ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ssd_mining.checks import InputError
from ssd_mining.files.blocks import check_chunks, chunks_of

Array = NDArray[Any]
Dtype = np.dtype[Any]

# The stream of a zip member copies each piece that it is asked for, so the pieces are small.
_PIECE = 1 << 20  # bytes
_SAFETENSORS = {
    "BOOL": "?",
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)},
}


class DataError(ValueError):
    """A file is missing or damaged, does not hold what is expected of it, or cannot be written."""


class ArraySource:
    """An array in a file; `source[start:stop]` reads some of its rows. `open_array` makes it."""

    chunks: tuple[int, ...] | None = (
        None  # the shape of the pieces that are stored; None: any row can be read by itself
    )

    def __init__(self, name: str, shape: tuple[int, ...], dtype: Dtype) -> None:
        self.name = name  # as the user typed it: losses.npy, or data.npz:losses
        self.shape, self.dtype = shape, dtype  # of the whole array, as stored: bools, integers or floats
        if dtype.kind not in "biufU":
            got = "pickled objects, which are never loaded" if dtype.hasobject else f"dtype {dtype}"
            raise DataError(f"{name}: expected bools, integers or floats, got {got}")
        if not shape or min(shape) < 0:
            raise DataError(f"{name}: expected an array with a row per sample, got shape {shape}")
        self.ndim, self.row_bytes = len(shape), math.prod(shape[1:]) * dtype.itemsize
        self.outline = np.broadcast_to(np.empty((), dtype), shape)  # the array without its values and their memory

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        """Read some rows into a new array, fewer where the file has fewer; `DataError` if they cannot be read."""
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            msg = f"rows: expected a slice of step 1, got step {step}"
            raise ValueError(msg)
        with explained(self.name):
            block = self._read(start, max(start, stop))
        if block.dtype == np.bool_:  # other writers store any byte but 0 as true; NumPy and Numba count on 1
            np.not_equal(block.view(np.uint8), 0, out=block)
        return block

    def _read(self, start: int, stop: int) -> Array:
        raise NotImplementedError


class _Layout(NamedTuple):
    """How the values of an array lie in a stream."""

    shape: tuple[int, ...]
    dtype: Dtype
    fortran: bool
    start: int  # where they begin, in bytes
    stored: int  # bytes from there to the end


class _Raw(ArraySource):
    """An array whose values lie one after the other in a stream."""

    def __init__(self, name: str, stream: IO[bytes], layout: _Layout) -> None:
        super().__init__(name, layout.shape, layout.dtype)
        self._stream, self._layout = stream, layout
        promised = math.prod(self.shape) * self.dtype.itemsize
        if layout.stored < promised:
            expected = f"{promised:,} bytes of values for shape {self.shape} and dtype {self.dtype}"
            raise DataError(f"{name}: expected {expected}, got {layout.stored:,}: the file is cut short")
        if layout.fortran and isinstance(stream, ZipExtFile):  # each column would inflate it once more
            advice = "save it again through numpy.ascontiguousarray, or as .npy"
            raise DataError(f"{name}: expected rows in C order, got Fortran order; {advice}")

    def _read(self, start: int, stop: int) -> Array:
        size = math.prod(self.shape[1:])
        if not self._layout.fortran:
            rows = np.empty((stop - start, *self.shape[1:]), self.dtype)
            self._fill(start * size, rows.reshape(-1))
            return rows
        columns = np.empty((size, stop - start), self.dtype)  # in the file, they lie one after the other
        for i, column in enumerate(columns):
            self._fill(i * self.shape[0] + start, column)
        return columns.reshape(*self.shape[:0:-1], stop - start).T

    def _fill(self, element: int, values: Array) -> None:
        """Read values from the stream, from the number `element` on."""
        self._stream.seek(self._layout.start + element * self.dtype.itemsize)
        left = values.view(np.uint8)
        while left.size:
            got = self._stream.readinto(left[:_PIECE])  # type: ignore[attr-defined]
            if not got:
                raise DataError(f"{self.name}: expected {left.size:,} more bytes, got the end of the file")
            left = left[got:]


class _Chunked(ArraySource):
    """An array that zarr or h5py keeps in chunks, compressed or not."""

    def __init__(self, name: str, array: Any) -> None:
        super().__init__(name, tuple(array.shape), np.dtype(array.dtype))
        self._array, self.chunks = array, chunks_of(array)
        try:
            check_chunks(array, self.shape)
        except InputError as error:
            raise DataError(f"{name}: {error.problem}") from error

    def _read(self, start: int, stop: int) -> Array:
        with _anything_explained(self.name):
            return np.array(self._array[start:stop])


@contextlib.contextmanager
def open_array(name: str | os.PathLike[str], *, text: bool = False) -> Iterator[ArraySource]:
    """Open an array in a file for reading by rows: bools, integers or floats, or strings of a fixed width if `text`.

    The name is ``file.npy``; or one of ``file.npz:key``, ``file.safetensors:tensor``, ``store.zarr:path``,
    ``file.h5:path`` and ``file.hdf5:path``, where the colon and the rest may be left out if there is just one array.
    `DataError` if the file is missing, cut short, or not what its name says, has no such key, holds other values, or
    has chunks that split a sample; or if the package that reads it is not installed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "losses.npy")
    ...     np.save(path, np.arange(6.0).reshape(3, 2))
    ...     with open_array(path) as losses:
    ...         losses.shape, losses[:2].tolist(), losses[2:4].tolist()
    ((3, 2), [[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0]])
    """
    name = os.fspath(name)
    found = ARRAY_NAME.fullmatch(name)
    if found is None or (found["suffix"] == ".npy" and found["key"] is not None):
        raise DataError(f"{name}: expected a name that ends in {KNOWN}, got another")
    with contextlib.ExitStack() as files:
        with explained(name):
            source = _OPENERS[found["suffix"]](name, found["path"], found["key"] or "", files)
        if source.dtype.kind == "U" and not text:
            raise DataError(f"{name}: expected bools, integers or floats, got dtype {source.dtype}")
        yield source


class Stamp(NamedTuple):
    """What changes when a file does."""

    path: str
    size: int
    modified: int  # in nanoseconds


def stamp(name: str) -> Stamp:
    """Return the stamp of the file that holds an array or a text."""
    found = ARRAY_NAME.fullmatch(name)
    path = Path(found["path"] if found else name).resolve()
    status = path.stat()
    return Stamp(str(path), status.st_size, status.st_mtime_ns)


def _open_npy(name: str, path: str, _: str, files: contextlib.ExitStack) -> ArraySource:
    stream = files.enter_context(FileIO(path))
    return _Raw(name, stream, _npy_layout(stream, os.fstat(stream.fileno()).st_size))


def _open_npz(name: str, path: str, key: str, files: contextlib.ExitStack) -> ArraySource:
    archive = files.enter_context(ZipFile(path))
    members = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}
    member = members[_chosen(name, key, list(members))]
    stream = files.enter_context(archive.open(member))
    return _Raw(name, stream, _npy_layout(stream, member.file_size))


def _npy_layout(stream: IO[bytes], size: int) -> _Layout:
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return _Layout(shape, dtype, fortran, stream.tell(), size - stream.tell())


# The file begins with the length of a JSON header in 8 bytes; the header says where after it each tensor lies.
def _open_safetensors(name: str, path: str, key: str, files: contextlib.ExitStack) -> ArraySource:
    stream = files.enter_context(FileIO(path))
    size = os.fstat(stream.fileno()).st_size
    length = int.from_bytes(stream.read(8), "little")
    if not 2 <= length <= size - 8:
        raise DataError(f"{name}: expected a sound file, got a header of {length:,} bytes in one of {size:,}")
    with _anything_explained(name):
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        tensor = header[_chosen(name, key, list(header))]
        shape = tuple(int(count) for count in tensor["shape"])
        first, last = (8 + length + max(0, int(offset)) for offset in tensor["data_offsets"])
        if tensor["dtype"] not in _SAFETENSORS:
            advice = "; save it as float32" if tensor["dtype"] == "BF16" else ""
            raise DataError(f"{name}: expected a dtype that NumPy has, got {tensor['dtype']}{advice}")
    dtype = np.dtype(_SAFETENSORS[tensor["dtype"]])
    return _Raw(name, stream, _Layout(shape, dtype, fortran=False, start=first, stored=min(last, size) - first))


def _open_zarr(name: str, path: str, key: str, _: contextlib.ExitStack) -> ArraySource:
    zarr = _package("zarr", name, "zarr")
    Path(path).stat()  # a clearer error than the package's where there is nothing
    with _anything_explained(name):
        return _Chunked(name, _array_in(zarr.open(path, mode="r"), zarr.Array, name, key))


def _open_hdf5(name: str, path: str, key: str, files: contextlib.ExitStack) -> ArraySource:
    h5py = _package("h5py", name, "hdf5")
    FileIO(path).close()
    with _anything_explained(name):
        return _Chunked(name, _array_in(files.enter_context(h5py.File(path, "r")), h5py.Dataset, name, key))


def _package(module: str, name: str, extra: str) -> Any:
    """Import the package that reads a kind of file."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        hint = f"pip install 'ssd_mining[{extra}]'"
        raise DataError(f"{name}: expected {module}, to read it, got none installed; {hint}") from error


def _array_in(root: Any, kind: type, name: str, key: str) -> Any:
    """Return the array `key` of a group of zarr's or h5py's, or the only one in it, or the root itself."""
    if isinstance(root, kind):
        return root if not key else _chosen(name, key, [])
    if key and key in root and isinstance(root[key], kind):
        return root[key]
    return root[_chosen(name, key, [inner for inner in root if isinstance(root[inner], kind)])]


def _chosen(name: str, key: str, keys: list[str]) -> str:
    """Return the key of the array that is meant: the one that was named, or the only one."""
    if not key and len(keys) == 1:
        return keys[0]
    if key not in keys:
        expected = f"one of its arrays ({', '.join(keys)}) after the colon" if keys else "an array in it"
        raise DataError(f"{name}: expected {expected}, got {repr(key) if key else 'none'}")
    return key


_OPENERS: dict[str, Callable[[str, str, str, contextlib.ExitStack], ArraySource]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
    ".zarr": _open_zarr,
    ".h5": _open_hdf5,
    ".hdf5": _open_hdf5,
}
ARRAY_NAME = re.compile(rf"(?P<path>.*?(?P<suffix>{'|'.join(map(re.escape, _OPENERS))}))/?(:(?P<key>.*))?", re.DOTALL)
KNOWN = ".npy, or in .npz, .safetensors, .zarr, .h5 or .hdf5, with or without :key"


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what goes wrong while a file is opened or read into a `DataError` that names it."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{name}: expected a readable file, got {error.strerror or error}") from error
    # What zipfile and numpy.lib.format were seen to raise over damaged files; RuntimeError is a password.
    except (ValueError, SyntaxError, EOFError, RuntimeError, TokenError, BadZipFile, zlib.error) as error:
        raise DataError(f"{name}: expected a sound file, got this: {error}") from error


@contextlib.contextmanager
def _anything_explained(name: str) -> Iterator[None]:
    """Turn whatever code of others raises over a damaged file into a `DataError` that names it."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"{name}: expected a sound file, got this: {error!r}") from error
