"""Blocks of rows: of every kind of array, read ahead, and what they refuse."""

import gc
import importlib
import threading
import weakref

import numpy as np
import pytest

import ssd_mining as sm

X = np.random.default_rng(0).random((23, 40)).astype(np.float32)
Y = X > 0.9


def memmap(folder, array):
    np.save(folder / "array.npy", array)
    return np.load(folder / "array.npy", mmap_mode="r")


def zarr(folder, array):
    from zarr import create_array

    made = create_array(str(folder / "zarr"), shape=array.shape, chunks=(5, array.shape[1]), dtype=array.dtype)
    made[:] = array
    return made


def hdf5(folder, array):
    file = importlib.import_module("h5py").File(folder / "array.h5", "w")
    return file.create_dataset("array", data=array, chunks=(5, array.shape[1]))


def hdf5_whole(folder, array):
    return importlib.import_module("h5py").File(folder / "array.h5", "w").create_dataset("array", data=array)


def safetensors(folder, array):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    save_file({"array": np.ascontiguousarray(array)}, folder / "array.safetensors")
    return safe_open(folder / "array.safetensors", "np").get_slice("array")


def torch(_folder, array):
    from torch import from_numpy

    return from_numpy(array)


KINDS = {
    "ndarray": (lambda _, array: array, ()),
    "memmap": (memmap, ()),
    "zarr": (zarr, pytest.mark.extra("zarr")),
    "hdf5": (hdf5, pytest.mark.extra("h5py")),
    "hdf5_whole": (hdf5_whole, pytest.mark.extra("h5py")),
    "safetensors": (safetensors, pytest.mark.extra("safetensors")),
    "torch": (torch, pytest.mark.framework("torch")),
}
every_kind = pytest.mark.parametrize(
    "kind", [pytest.param(make, marks=marks, id=name) for name, (make, marks) in KINDS.items()]
)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@every_kind
def test_every_kind_of_array_is_read_whole_and_in_order(kind, dtype, tmp_path):
    array = X.astype(dtype)
    source = kind(tmp_path, array)
    for rows in (None, 1, 5, 7, 23, 100):
        blocks = list(sm.read_blocks(source, Y, rows=rows))
        assert [first for first, _ in blocks] == list(range(0, 23, rows or 25))
        assert all(type(part) is np.ndarray for _, parts in blocks for part in parts)
        np.testing.assert_array_equal(np.concatenate([parts[0] for _, parts in blocks]), array)
        np.testing.assert_array_equal(np.concatenate([parts[1] for _, parts in blocks]), Y)


@every_kind
def test_an_analysis_of_blocks_is_that_of_the_array(kind, tmp_path):
    array = X.astype(np.float16)
    whole, by_block = sm.LossAnalysis(), sm.LossAnalysis()
    whole.update(array, Y)
    for first, block in sm.read_blocks(kind(tmp_path, array), Y, rows=4):
        by_block.update(*block, first_sample=first)
    assert by_block.to_state() == whole.to_state()


def test_a_part_of_the_samples():
    blocks = list(sm.read_blocks(X, rows=4, start=3, stop=10))
    assert [first for first, _ in blocks] == [3, 7]
    np.testing.assert_array_equal(np.concatenate([parts[0] for _, parts in blocks]), X[3:10])
    assert list(sm.read_blocks(X, start=5, stop=5)) == []
    assert list(sm.read_blocks(X[:0])) == []


class Slow:
    """An array that tells when it is read, and can fail."""

    shape, dtype = (4, 3), np.dtype(np.float32)

    def __init__(self, fail=99):
        self.read, self.threads, self.fail = [], set(), fail
        self.started = [threading.Event() for _ in range(4)]

    def __getitem__(self, rows):
        self.read.append(rows.start)
        self.threads.add(threading.get_ident())
        self.started[rows.start].set()
        if rows.start == self.fail:
            raise OSError("the disk is gone")
        return np.full((rows.stop - rows.start, 3), rows.start, np.float32)


def test_the_next_block_is_read_while_the_caller_works_and_no_further_one():
    source = Slow()
    blocks = sm.read_blocks(source, rows=1)
    next(blocks)
    assert source.started[1].wait(5)
    assert source.read == [0, 1]
    next(blocks)
    assert source.started[2].wait(5)
    assert source.read == [0, 1, 2]
    assert len(source.threads) == 1
    assert threading.get_ident() not in source.threads


def test_a_block_that_cannot_be_read_is_told_when_it_is_due():
    blocks = sm.read_blocks(Slow(fail=2), rows=1)
    assert [next(blocks)[0], next(blocks)[0]] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(blocks)


def test_a_reader_that_is_left_early_leaves_no_thread():
    before = threading.active_count()
    blocks = sm.read_blocks(Slow(), rows=1)
    next(blocks)
    assert threading.active_count() > before
    blocks.close()
    assert threading.active_count() == before


def test_a_block_is_forgotten_when_the_next_is_asked_for():
    blocks = sm.read_blocks(X + 0, rows=4)
    _, (block,) = next(blocks)
    kept = weakref.ref(block)
    del block
    next(blocks)
    gc.collect()
    assert kept() is None


def test_a_block_of_a_map_is_a_copy_in_memory(tmp_path):
    source = memmap(tmp_path, X)
    for view in (source, np.asarray(source)[3:]):
        ((_, (block,)),) = sm.read_blocks(view)
        assert not np.shares_memory(block, source)


@pytest.mark.extra("zarr")
def test_blocks_are_whole_chunks(tmp_path):
    array = np.ones((30, 1_000_000), np.float32)  # 4 MB a row, of which 16 MiB hold 4
    source = zarr(tmp_path, array)
    assert [first for first, _ in sm.read_blocks(source, stop=12)] == [0, 5, 10]
    assert [first for first, _ in sm.read_blocks(array, stop=12)] == [0, 4, 8]


class Chunked:
    shape, dtype = (23, 40), np.dtype(np.float32)

    def __init__(self, chunks):
        self.chunks = chunks

    def __getitem__(self, rows):
        return X[rows]


@pytest.mark.parametrize("chunks", [(5, 40), (5, 64), None, ((20, 3), (40,))])
def test_chunks_of_whole_samples_are_read(chunks):
    ((_, (block,)),) = sm.read_blocks(Chunked(chunks))
    np.testing.assert_array_equal(block, X)


BAD = {
    "no source": (lambda: sm.read_blocks(), TypeError, "sources: expected at least one array, got none"),
    "a list": (lambda: sm.read_blocks([[1.0]]), TypeError, "sources: expected arrays with a shape, .* got list"),
    "a number": (lambda: sm.read_blocks(np.float32(1)), ValueError, "sources: .* got a single number"),
    "other samples": (
        lambda: sm.read_blocks(X, Y[:5]),
        ValueError,
        "sources: expected arrays of 23 samples, .* got 5",
    ),
    "split anchors": (
        lambda: sm.read_blocks(Chunked((5, 10))),
        ValueError,
        r"sources: expected chunks of whole samples, such as \(5, 40\), got chunks \(5, 10\) of shape .*; store",
    ),
    "chunks of Dask": (
        lambda: sm.read_blocks(Chunked(((23,), (20, 20)))),
        ValueError,
        "got chunks .23, 20. of shape",
    ),
    "no rows": (lambda: sm.read_blocks(X, rows=0), ValueError, "rows: expected a whole number of at least 1, got 0"),
    "half rows": (
        lambda: sm.read_blocks(X, rows=0.5),
        TypeError,
        "rows: expected a whole number of at least 1 or None",
    ),
    "a start below 0": (lambda: sm.read_blocks(X, start=-1), ValueError, "start: expected .* at least 0, got -1"),
    "a stop too far": (
        lambda: sm.read_blocks(X, stop=24),
        ValueError,
        r"stop: expected a sample from start \(0\) to 23",
    ),
    "a stop before": (lambda: sm.read_blocks(X, start=5, stop=4), ValueError, "stop: expected a sample from start"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_no_array_of_samples_is_refused_at_once(call, error, message):
    with pytest.raises(error, match=message):
        call()
