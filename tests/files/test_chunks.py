"""Chunks: each is read once, however many blocks it holds, and what a chunk takes counts as memory."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ssd_mining as sm
from ssd_mining.files.chunks import ChunkedRows
from tests.support.commands import run

NUM_SAMPLES, NUM_ANCHORS, CHUNK = 48, 20_000, 12  # a chunk takes 0.9 MiB as float32
RNG = np.random.default_rng(0)
LABELS = (RNG.random((NUM_SAMPLES, NUM_ANCHORS)) < 0.01).astype(np.uint8)
LOSSES = RNG.gamma(0.3, 1.0, LABELS.shape).astype(np.float32)


class Counted:
    """An array in chunks of some rows that counts how often each is touched."""

    def __init__(self, array, step):
        self.array, self.shape, self.dtype, self.chunks = array, array.shape, array.dtype, (step, *array.shape[1:])
        self.touched = collections.Counter()

    def __getitem__(self, rows):
        if rows.stop:
            self.touched.update(range(rows.start // self.chunks[0], -(-rows.stop // self.chunks[0])))
        return self.array[rows].copy()


@settings(max_examples=300)
@given(st.integers(0, 40), st.integers(1, 45), st.lists(st.integers(0, 40), max_size=8))
def test_rows_read_by_chunks_are_the_rows(num_rows, step, places):
    array = np.arange(num_rows * 3).reshape(num_rows, 3)
    rows = ChunkedRows(Counted(array, step), num_rows, step)
    for start, stop in itertools.pairwise(places):
        got = rows[start:stop]
        np.testing.assert_array_equal(got, array[start:stop])
        got[:] = -1  # what was handed out is nobody else's


@pytest.mark.parametrize("step", [1, 5, 12, 48, 100])
@pytest.mark.parametrize("rows", [1, 5, 7, 12, 30, 48, None])
def test_blocks_touch_each_chunk_once(step, rows):
    source = Counted(LOSSES[:, :50], step)
    blocks = list(sm.read_blocks(source, LABELS[:, :50], rows=rows))
    np.testing.assert_array_equal(np.concatenate([arrays[0] for _, arrays in blocks]), LOSSES[:, :50])
    assert set(source.touched.values()) == {1}


@pytest.fixture
def stores(tmp_path, monkeypatch):
    """Write losses in chunks in several formats; return the folder, and how often zarr reads which chunk."""
    import h5py
    import zarr

    np.save(tmp_path / "labels.npy", LABELS)
    np.save(tmp_path / "losses.npy", LOSSES)
    zarr.create_array(tmp_path / "losses.zarr", data=LOSSES, chunks=(CHUNK, NUM_ANCHORS))
    with h5py.File(tmp_path / "losses.h5", "w") as file:
        file.create_dataset("losses", data=LOSSES, chunks=(CHUNK, NUM_ANCHORS), compression="gzip")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout(LOSSES.shape, LOSSES.dtype)
        layout[:] = h5py.VirtualSource("losses.h5", "losses", LOSSES.shape)
        file.create_virtual_dataset("losses", layout)
    touched, get = collections.Counter(), zarr.storage.LocalStore.get

    async def counted(store, key, *rest, **options):
        touched.update([key] if key.startswith("c/") else [])
        return await get(store, key, *rest, **options)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counted)
    return tmp_path, touched


@pytest.mark.extra("h5py", "zarr")
def test_every_command_reads_a_chunk_of_many_blocks_once(stores):
    folder, touched = stores
    words = (folder / "losses.zarr", folder / "labels.npy", "--background", 0)
    for out in ("a", "b"):
        touched.clear()
        assert run("report", *words, "--no-page", "--max-memory", 6, "--out", folder / out)[0] == 0
        assert max(touched.values()) <= 2  # once more for the samples that stand for the file
    touched.clear()
    assert run("mine", *words, "--max-memory", 6)[0] == 0
    assert list(touched.values()) == [1] * 4
    touched.clear()
    assert run("compare", folder / "a", folder / "b", "--max-memory", 11)[0] == 0
    assert list(touched.values()) == [2] * 4  # A and B


@pytest.mark.extra("h5py", "zarr")
@pytest.mark.parametrize("name", ["losses.zarr", "losses.h5", "virtual.h5"])
def test_chunks_that_the_memory_cannot_hold_are_refused_and_the_advice_holds(stores, name):
    folder, _ = stores
    labels = folder / "labels.npy"
    for command in ("mine", "report"):
        options = ("--no-page", "--out", folder / command) if command == "report" else ()
        words = (command, folder / name, labels, "--background", 0, *options)
        code, out, err = run(*words, "--max-memory", 2)
        assert (code, out, err.count("\n")) == (3, "", 1)
        expected = (
            "expected chunks that fit into --max-memory 2, got chunks of 12 samples, 0 MiB each; store it again"
        )
        assert expected in err
        need = err.split()[-1]
        assert run(*words, "--max-memory", need)[0] == 0
        assert run(*words, "--max-memory", int(need) - 1)[0] != 0


@pytest.mark.extra("h5py", "zarr")
@pytest.mark.parametrize("name", ["losses.zarr", "losses.h5", "virtual.h5"])
@pytest.mark.parametrize("max_memory", [6, 7, 256])
def test_chunks_change_no_number(stores, name, max_memory):
    folder, _ = stores
    tables = []
    for values in ("losses.npy", name):
        out = folder / f"of {values}"
        words = ("report", folder / values, folder / "labels.npy", "--background", 0, "--no-page", "--out", out)
        assert run(*words, "--max-memory", max_memory)[0] == 0
        tables.append((out / "per_sample.csv").read_bytes())
    assert tables[0] == tables[1]
