"""The whole input: what was never written is told, or refused with ``--strict``."""

import numpy as np
import pytest

from tests.support.commands import run, shell

pytestmark = pytest.mark.extra("zarr")

LABELS = np.zeros((4, 50), np.uint8)
LABELS[:, ::10] = 1


@pytest.fixture
def folder(tmp_path):
    """Write a store of which half was never written."""
    import zarr

    np.save(tmp_path / "labels.npy", LABELS)
    losses = zarr.create_array(tmp_path / "losses.zarr", shape=LABELS.shape, chunks=(1, 50), dtype="f4")
    losses[:2] = np.random.default_rng(0).gamma(0.3, 1.0, (2, 50))
    return tmp_path


@pytest.mark.parametrize("command", ["mine", "report"])
def test_a_store_that_was_cut_short_is_told_and_refused_if_one_asks_for_it(folder, command):
    options = ("--no-page",) if command == "report" else ()
    words = (command, folder / "losses.zarr", folder / "labels.npy", "--background", 0, *options)
    missing = "2 of 4 chunks are missing, and read as 0.0; the writer was stopped, or leaves out what is all alike"
    code, out, err = run(*words, "--out", folder / "out")
    assert (code, err) == (0, f"ssd-mining: warning: {folder}/losses.zarr: {missing}\n")
    assert out
    assert (folder / "out" / "per_sample.csv").exists()
    got = run(*words, "--out", folder / "strict", "--strict")
    assert got == (3, "", f"ssd-mining: error: {folder}/losses.zarr: {missing}\n")
    assert not (folder / "strict").exists()


def test_a_process_of_its_own_says_it_in_one_line(folder):
    process = shell("mine", folder / "losses.zarr", folder / "labels.npy", "--background", 0)
    out, err = process.communicate()
    assert (process.returncode, err.count("\n")) == (0, 1)
    assert err.startswith("ssd-mining: warning: ")
    assert out.startswith("samples")
