"""Arrays of zarr and h5py: how they are found, which files they are made of, and how much of them was never written.

Both packages are imported here alone. What a store does not hold is read as a fill value, without an error.
"""

import contextlib
import importlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import numpy as np

from ssd_mining.checks import DataError, install_command

WHY_MISSING = "the writer was stopped, or leaves out what is all alike"
_NEVER_WRITTEN = np.uint64(2**64 - 1)  # of an index of a shard: where a chunk lies, and how long it is
_ENTRY, _CHECKSUM = 16, 4  # bytes of such an index, for each chunk and at the end


def open_zarr(zarr: Any, name: str, path: str, key: str, files: contextlib.ExitStack) -> Any:
    """Open an array of a Zarr store in a directory or a zip file."""
    if not is_zipfile(path):
        return _array_in(zarr.open(path, mode="r"), zarr.Array, name, key)
    store = zarr.storage.ZipStore(path, mode="r")
    files.callback(store.close)
    with ZipFile(path) as archive:
        members = [member.partition("/") for member in archive.namelist() if not member.endswith("/")]
    folders = {folder for folder, _, _ in members}
    inside = folders.pop() if len(folders) == 1 and all(slash for _, slash, _ in members) else ""
    return _array_in(zarr.open(store, path=inside, mode="r"), zarr.Array, name, key)


def open_hdf5(h5py: Any, name: str, path: str, key: str, files: contextlib.ExitStack) -> Any:
    """Open a dataset of an HDF5 file."""
    return _array_in(files.enter_context(h5py.File(path, "r")), h5py.Dataset, name, key)


def package(module: str, name: str) -> Any:
    """Import the package that reads a kind of file."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        hint = install_command(module)
        raise DataError(f"{name}: expected {module}, to read it, got none installed; {hint}") from error


def _array_in(root: Any, kind: type, name: str, key: str) -> Any:
    """Return the array `key` of a group of zarr's or h5py's, or the only one in it, or the root itself."""
    if isinstance(root, kind):
        return root if not key else chosen(name, key, [])
    array = _member(root, key) if key else None
    if not isinstance(array, kind):
        array = root[chosen(name, key, sorted(_arrays_in(root, kind, (root,))))]
    return array


def _arrays_in(group: Any, kind: type, above: tuple[Any, ...]) -> Iterator[str]:
    """Yield the paths of all arrays of a group. `above` are the groups that it lies in: a link may lead back."""
    for inner in group:
        member = _member(group, inner)
        if isinstance(member, kind):
            yield inner
        elif member is not None and hasattr(member, "keys") and member not in above:
            yield from (f"{inner}/{path}" for path in _arrays_in(member, kind, (*above, member)))


def _member(group: Any, key: str) -> Any:
    """Return what a group holds under a name; None where there is nothing, or nothing that can be opened."""
    try:
        return group[key]
    except Exception:  # noqa: BLE001 - a link into the void, or an unknown codec, must hide no other member
        return None


def chosen(name: str, key: str, keys: list[str]) -> str:
    """Return the key of the array that is meant: the one that was named, or the only one."""
    if not key and len(keys) == 1:
        return keys[0]
    if key not in keys:
        expected = f"one of its arrays ({', '.join(keys)}) after the colon" if keys else "an array in it"
        raise DataError(f"{name}: expected {expected}, got {repr(key) if key else 'none'}")
    return key


def is_text(array: Any) -> bool:
    """Say whether an array of a store holds strings of any length."""
    return array.dtype.kind == "T" or (array.dtype.hasobject and _is_zarr(array)) or _h5_text(array)


def _h5_text(array: Any) -> bool:
    return _is_hdf5(array) and sys.modules["h5py"].check_string_dtype(array.dtype) is not None


def _is_zarr(array: Any) -> bool:
    zarr = sys.modules.get("zarr")
    return zarr is not None and isinstance(array, zarr.Array)


def _is_hdf5(array: Any) -> bool:
    h5py = sys.modules.get("h5py")
    return h5py is not None and isinstance(array, h5py.Dataset)


def unpacked_rows(array: Any) -> int | None:
    """Return how many rows are unpacked when one is read; None where each is stored by itself.

    A shard is unpacked chunk by chunk. A virtual dataset has the chunks of the datasets that it shows.
    """
    chunks = getattr(array, "chunks", None)
    if isinstance(chunks, tuple):
        return max(1, *chunks[0]) if isinstance(chunks[0], tuple) else max(1, int(chunks[0]))
    if _is_hdf5(array) and array.is_virtual:
        found = [each.chunks[0] for each in _sources(array) if each and each.chunks and each.ndim == array.ndim]
        return int(max(found, default=1))
    return None


def files_of(array: Any, path: str) -> set[Path]:
    """Return all files that an array of the store `path` is read from."""
    if _is_zarr(array) and Path(path).is_dir():
        top = Path(path)
        inside = [Path(folder, name) for folder, _, names in os.walk(top / array.path) for name in names]
        return {*inside, *(file for file in top.iterdir() if file.is_file())}
    files = {Path(path)}
    if _is_hdf5(array):
        folder = Path(array.file.filename).parent
        files |= {Path(array.file.filename), *(_near(folder, name) for name, _, _ in array.external or ())}
        if array.is_virtual:
            patterns = [source.file_name for source in array.virtual_sources() if source.file_name != "."]
            files |= {found for pattern in patterns for found in _matching(folder, pattern)}
            files = files.union(*(files_of(found, found.file.filename) for found in _sources(array) if found))
    return {file for file in files if file.exists()}


def _near(folder: Path, name: str) -> Path:
    """Return where HDF5 finds a file that another one names."""
    beside = folder / os.fspath(name)
    return beside if beside.exists() else Path(name)


def _matching(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a virtual source, whose name may hold a place for a number."""
    if "%b" not in pattern:
        return [_near(folder, pattern)]
    path = folder / pattern
    return list(path.parent.glob(path.name.replace("%b", "*")))


def _sources(array: Any) -> Iterator[Any]:
    """Yield the datasets that a virtual one shows, None for one that is not there."""
    h5py, folder = sys.modules["h5py"], Path(array.file.filename).parent
    for source in array.virtual_sources():
        if "%b" in source.file_name + source.dset_name:  # as many as there are
            continue
        with contextlib.ExitStack() as files:
            found = None
            with contextlib.suppress(OSError):
                here = source.file_name == "."
                file = array.file if here else files.enter_context(h5py.File(_near(folder, source.file_name), "r"))
                found = _member(file, source.dset_name)
            yield found


def missing_in(array: Any) -> str | None:
    """Say how much of an array of zarr's or h5py's was never written, and what is read instead; None if all was."""
    if _is_zarr(array) and 0 not in array.shape:
        missing = _fewer(_stored_chunks(array), array.nchunks, "chunks")
        return missing and f"{missing}, and read as {array.fill_value}"
    if _is_hdf5(array) and 0 not in array.shape:
        missing = _missing_in_hdf5(array)
        return missing and f"{missing}, and read as {array.fillvalue}"
    return None


def _fewer(stored: int, expected: int, what: str) -> str | None:
    return f"{expected - stored:,} of {expected:,} {what} are missing" if stored < expected else None


def _stored_chunks(array: Any) -> int:
    """Count the chunks of a Zarr array that are stored, in shards too."""
    root = getattr(array.store, "root", None)
    if array.shards is None or root is None:
        return int(array.nchunks_initialized)
    inner = [shard // chunk for shard, chunk in zip(array.shards, array.chunks, strict=True)]
    grid = [-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True)]
    codecs = array.metadata.to_dict()["codecs"]
    settings = next(codec["configuration"] for codec in codecs if codec["name"] == "sharding_indexed")
    at_end, size, stored = settings.get("index_location", "end") == "end", math.prod(inner) * _ENTRY, 0
    for place in np.ndindex(*(-(-count // per) for count, per in zip(grid, inner, strict=True))):
        shard = Path(root, array.path, array.metadata.encode_chunk_key(place))
        if not shard.exists():
            continue
        with shard.open("rb") as file:
            file.seek(-size - _CHECKSUM if at_end else 0, os.SEEK_END if at_end else os.SEEK_SET)
            index = np.frombuffer(file.read(size), "<u8").reshape(*inner, 2)
        inside = tuple(slice(count - per * at) for count, per, at in zip(grid, inner, place, strict=True))
        stored += int(np.count_nonzero((index != _NEVER_WRITTEN).all(axis=-1)[inside]))
    return stored


def _missing_in_hdf5(array: Any) -> str | None:
    if array.is_virtual:
        whole = [found is not None and missing_in(found) is None for found in _sources(array)]
        return _fewer(sum(whole), len(whole), "virtual sources") or _fewer(_mapped(array), array.size, "values")
    if array.external:
        promised = array.size * array.dtype.itemsize
        folder, stored = Path(array.file.filename).parent, 0
        for name, offset, size in array.external:
            stored += min(size, max(0, _near(folder, name).stat().st_size - offset))
        return _fewer(min(stored, promised), promised, "bytes")
    if array.chunks:
        grid = [-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True)]
        return _fewer(array.id.get_num_chunks(), math.prod(grid), "chunks")
    return None if array.id.get_storage_size() else "all of its values are missing"


def _mapped(array: Any) -> int:
    """Count the values of a virtual dataset that stand for one of a source, at most all."""
    size, counts = int(array.size), [int(source.vspace.get_select_npoints()) for source in array.virtual_sources()]
    return min(size, sum(counts)) if all(0 < count <= size for count in counts) else size
