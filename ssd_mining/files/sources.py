"""Arrays in files, read by rows: .npy, .npz, .safetensors, .zarr and .h5, each opened by the suffix of its name.

Nothing is unpickled, ever. Raw values are read into our own memory, not mapped: a mapped file that is cut short
during a call kills the process with SIGBUS, and a failed read raises.
"""

import contextlib
import hashlib
import io
import itertools
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

from ssd_mining.checks import DataError, InputError, warn
from ssd_mining.files import stores
from ssd_mining.files.chunks import ChunkedRows, check_chunks, chunks_of
from ssd_mining.files.conversions import conversion_of

Array = NDArray[Any]
Dtype = np.dtype[Any]

_ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")  # of an object in memory: of no use to anybody
PROBES = 8  # rows that stand for an array

# The stream of a zip member copies each piece that it is asked for, so the pieces are small.
_PIECE = 1 << 20  # bytes
_SAFETENSORS = {
    "BOOL": "?",
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)},
}


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
        raise DataError(f"{name}: expected a sound file, got this: {_ADDRESS.sub('', str(error))}") from error


@contextlib.contextmanager
def anything_explained(name: str) -> Iterator[None]:
    """Turn whatever code of others raises over a damaged file into a `DataError` that names it."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"{name}: expected a sound file, got this: {_ADDRESS.sub('', repr(error))}") from error


class Stamp(NamedTuple):
    """What changes when one of the files of an array does."""

    path: str
    num_files: int
    digest: str  # of their names, sizes and times


class ArraySource:
    """An array in a file; `source[start:stop]` reads some of its rows. `open_array` makes it."""

    chunks: tuple[int, ...] | None = None  # the shape of a stored piece; None: rows are read one by one
    chunk_rows, chunk_bytes = 1, 0  # of what is read and unpacked at a time, if that is more than some rows

    def __init__(self, name: str, path: str, shape: tuple[int, ...], dtype: Dtype, *, is_text: bool = False) -> None:
        self.name, self._path = name, path  # the name as the user typed it: losses.npy, or data.npz:losses
        self.shape, self.dtype = shape, dtype  # of the whole array, as stored: bools, integers or floats
        self.is_text = is_text or dtype.kind in "US"
        if not self.is_text and dtype.kind not in "biuf":
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

    def files(self) -> set[Path]:
        """Return the files that hold the array."""
        return {Path(self._path)}

    def missing(self) -> str | None:
        """Say how much of the array was never written; None if it is whole."""
        return None

    def stamp(self) -> Stamp:
        """Return what changes when one of the files of the array does."""
        paths, digest = sorted(path.resolve() for path in self.files()), hashlib.sha256()
        for path in paths:
            status = path.stat()  # the time of the last change of status cannot be put back as others can
            times = status.st_mtime_ns, status.st_ctime_ns
            digest.update(repr((str(path), status.st_ino, status.st_size, *times)).encode("utf-8", "surrogatepass"))
        return Stamp(str(Path(self._path).resolve()), len(paths), digest.hexdigest())

    def check_unchanged(self, before: Stamp) -> None:
        """Raise a `DataError` if a file of the array is another than at the time of a stamp."""
        with explained(self.name):
            if self.stamp() != before:
                raise DataError(
                    f"{self.name}: expected a file that stays as it is while it is read, got one that changed"
                )

    def probe(self) -> bytes:
        """Return what stands for the content: a few rows that lie far apart."""
        rows = np.unique(np.linspace(0, self.shape[0] - 1, PROBES, dtype=np.int64)).tolist() if self.shape[0] else []
        with explained(self.name):
            return b"".join([self._read(row, row + 1).tobytes() for row in rows])


class _Layout(NamedTuple):
    """How the values of an array lie in a stream."""

    shape: tuple[int, ...]
    dtype: Dtype
    fortran: bool
    start: int  # where they begin, in bytes
    stored: int  # bytes from there to the end
    checksum: int | None = None  # of the whole stream, if one is kept


class _Raw(ArraySource):
    """An array whose values lie one after the other in a stream."""

    def __init__(self, name: str, path: str, stream: IO[bytes], layout: _Layout) -> None:
        super().__init__(name, path, layout.shape, layout.dtype)
        self._stream, self._layout = stream, layout
        promised = math.prod(self.shape) * self.dtype.itemsize
        if layout.stored < promised:
            expected = f"{promised:,} bytes of values for shape {self.shape} and dtype {self.dtype}"
            raise DataError(f"{name}: expected {expected}, got {layout.stored:,}: the file is cut short")
        if layout.fortran and isinstance(stream, ZipExtFile):  # each column would inflate it once more
            advice = "save it again through numpy.ascontiguousarray, or as .npy"
            raise DataError(f"{name}: expected rows in C order, got Fortran order; {advice}")

    def missing(self) -> str | None:
        """Say how much of the array was never written: a hole in the file, where a writer has left room for it."""
        if self.dtype.kind != "f" or not isinstance(self._stream, FileIO):  # labels may be zeros for long
            return None
        first, end = self._layout.start, self._layout.start + math.prod(self.shape) * self.dtype.itemsize
        holes = _holes(self._stream, first, end)
        return f"{holes:,} of {end - first:,} bytes are missing, and read as 0.0" if holes else None

    def probe(self) -> bytes:
        """Return the checksum of the archive, which stands for the content; else a few rows."""
        checksum = self._layout.checksum
        return super().probe() if checksum is None else repr((self.shape, checksum)).encode()

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

    def __init__(self, name: str, path: str, array: Any) -> None:
        super().__init__(name, path, tuple(array.shape), np.dtype(array.dtype), is_text=stores.is_text(array))
        self._array, self.chunks = array, chunks_of(array)
        try:
            check_chunks(array, self.shape)
        except InputError as error:
            raise DataError(f"{name}: {error.problem}") from error
        step = stores.unpacked_rows(array)
        self.chunk_rows, self.chunk_bytes = step or 1, (step or 0) * self.row_bytes
        self._rows = ChunkedRows(array, self.shape[0], self.chunk_rows)

    def files(self) -> set[Path]:
        """Return the files that hold the array."""
        return stores.files_of(self._array, self._path)

    def missing(self) -> str | None:
        """Say how much of the array was never written; None if it is whole."""
        with anything_explained(self.name):
            return stores.missing_in(self._array)

    def _read(self, start: int, stop: int) -> Array:
        with anything_explained(self.name):
            return self._rows[start:stop]


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
    found = array_name(name)
    if found is None:
        raise DataError(f"{name}: expected a name that ends in {KNOWN}, got another{conversion_of(name)}")
    with contextlib.ExitStack() as files:
        with explained(name):
            source = _OPENERS[found.suffix](name, found.path, found.key, files)
            missing = source.missing()
        if source.is_text and not text:
            raise DataError(f"{name}: expected bools, integers or floats, got dtype {source.dtype}")
        if missing:
            warn(f"{name}: {missing}; {stores.WHY_MISSING}")
        yield source


def _open_npy(name: str, path: str, _: str, files: contextlib.ExitStack) -> ArraySource:
    stream = files.enter_context(FileIO(path))
    return _Raw(name, path, stream, _npy_layout(name, stream, os.fstat(stream.fileno()).st_size))


def _open_npz(name: str, path: str, key: str, files: contextlib.ExitStack) -> ArraySource:
    archive = files.enter_context(ZipFile(path))
    members = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}
    member = members[stores.chosen(name, key, list(members))]
    stream = files.enter_context(archive.open(member))
    return _Raw(name, path, stream, _npy_layout(name, stream, member.file_size)._replace(checksum=member.CRC))


def _npy_layout(name: str, stream: IO[bytes], size: int) -> _Layout:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise DataError(f"{name}: expected a header of version 1.0, 2.0 or 3.0, got {version[0]}.{version[1]}")
    length = int.from_bytes(stream.read(2 if version == (1, 0) else 4), "little")
    if length > size:
        raise DataError(f"{name}: expected a sound file, got a header of {length:,} bytes in one of {size:,}")
    # Some writers let NumPy 2 print its own integers: (np.int64(3), 4).
    header = re.sub(rb"np\.u?int\d+\((\d+)\)", rb"\1", stream.read(length))
    shape, fortran, dtype = npy.read_array_header_2_0(io.BytesIO(len(header).to_bytes(4, "little") + header))
    if bool in map(type, shape):
        raise DataError(f"{name}: expected whole numbers as shape, got {shape}")
    return _Layout(shape, dtype, fortran, stream.tell(), size - stream.tell())


def _holes(stream: FileIO, place: int, end: int) -> int:
    """Count the bytes of a file that were never written; 0 where the system does not know."""

    def following(whence: int) -> int:
        try:
            return min(end, os.lseek(stream.fileno(), place, whence))
        except OSError:  # there is no further one
            return end

    holes = 0
    while hasattr(os, "SEEK_HOLE") and place < end:
        hole = place = following(os.SEEK_HOLE)
        place = following(os.SEEK_DATA)
        holes += place - hole
    return holes


# The file begins with the length of a JSON header in 8 bytes; the header says where after it each tensor lies.
def _open_safetensors(name: str, path: str, key: str, files: contextlib.ExitStack) -> ArraySource:
    stream = files.enter_context(FileIO(path))
    size = os.fstat(stream.fileno()).st_size
    length = int.from_bytes(stream.read(8), "little")
    if not 2 <= length <= size - 8:
        raise DataError(f"{name}: expected a sound file, got a header of {length:,} bytes in one of {size:,}")
    with anything_explained(name):
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        tensor = header[stores.chosen(name, key, list(header))]
        shape = tuple(tensor["shape"])
        places = sorted(each["data_offsets"] for each in header.values())
        first, last = tensor["data_offsets"]
        if any(type(number) is not int for number in (*shape, *itertools.chain(*places))):
            raise DataError(f"{name}: expected whole numbers, got shape {shape} at {first!r} to {last!r}")
        if any(start < end for (_, end), (start, _) in itertools.pairwise(places)):
            raise DataError(f"{name}: expected tensors that lie one after the other, got some that overlap")
        if tensor["dtype"] not in _SAFETENSORS:
            advice = "; save it as float32" if tensor["dtype"] == "BF16" else ""
            raise DataError(f"{name}: expected a dtype that NumPy has, got {tensor['dtype']}{advice}")
    dtype = np.dtype(_SAFETENSORS[tensor["dtype"]])
    start, stored = 8 + length + max(0, first), min(8 + length + last, size) - 8 - length - max(0, first)
    if stored > math.prod(shape) * dtype.itemsize:
        raise DataError(f"{name}: expected as many bytes as shape {shape} and dtype {dtype} take, got {stored:,}")
    return _Raw(name, path, stream, _Layout(shape, dtype, fortran=False, start=start, stored=stored))


def _open_zarr(name: str, path: str, key: str, files: contextlib.ExitStack) -> ArraySource:
    zarr = stores.package("zarr", name)
    Path(path).stat()  # a clearer error than the package's where there is nothing
    with anything_explained(name):
        return _Chunked(name, path, stores.open_zarr(zarr, name, path, key, files))


def _open_hdf5(name: str, path: str, key: str, files: contextlib.ExitStack) -> ArraySource:
    h5py = stores.package("h5py", name)
    Path(path).open("rb").close()
    with anything_explained(name):
        return _Chunked(name, path, stores.open_hdf5(h5py, name, path, key, files))


_OPENERS: dict[str, Callable[[str, str, str, contextlib.ExitStack], ArraySource]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
    ".zarr": _open_zarr,
    ".zarr.zip": _open_zarr,
    ".h5": _open_hdf5,
    ".hdf5": _open_hdf5,
}
KNOWN = ".npy, or in .npz, .safetensors, .zarr, .zarr.zip, .h5 or .hdf5, with or without :key"
_KINDS = "|".join(map(re.escape, _OPENERS))
_WITH_KEY = re.compile(rf"(?P<path>.*?(?P<suffix>{_KINDS}))/?(:(?P<key>.*))?", re.DOTALL)
_INSIDE = re.compile(r"(?P<path>.*?(?P<suffix>\.zarr(\.zip)?))/(?P<key>.+?)/?", re.DOTALL)  # store.zarr/run/losses


class ArrayName(NamedTuple):
    """The parts of the name of an array in a file."""

    path: str
    suffix: str
    key: str  # may be empty


def array_name(name: str) -> ArrayName | None:
    """Return the parts of a name; None if it cannot be that of an array."""
    found = _WITH_KEY.fullmatch(name) or _INSIDE.fullmatch(name)
    if found is None or (found["suffix"] == ".npy" and found["key"] is not None):
        return None
    return ArrayName(found["path"], found["suffix"], found["key"] or "")
