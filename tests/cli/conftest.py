"""Data for commands."""

import numpy as np
import pytest

from tests.support.commands import run


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Write a demo of 12 samples; return its folder and what was printed."""
    folder = tmp_path_factory.mktemp("cli") / "demo"
    code, out, err = run("demo", "--samples", 12, "--seed", 3, "--out", folder)
    assert (code, err) == (0, "")
    return folder, out


@pytest.fixture
def batch(tmp_path):
    """Save a small batch with every kind of labels; return its folder and its arrays."""
    rng = np.random.default_rng(7)
    labels = rng.choice([0, 1, 2], p=[0.9, 0.05, 0.05], size=(40, 30))
    labels[5] = 0
    arrays = {
        "losses": np.round(rng.gamma(0.3, size=labels.shape), 2).astype(np.float32),
        "labels": labels,
        "mask": labels > 0,
        "one_hot": np.eye(3, dtype=np.float32)[labels][..., [1, 2, 0]],  # background last
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.savez_compressed(tmp_path / "all.npz", **arrays)
    return tmp_path, arrays
