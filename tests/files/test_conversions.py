"""Files of other formats: the advice is Python that does what it says."""

import numpy as np
import pytest

from ssd_mining.files.conversions import conversion_of
from ssd_mining.files.sources import DataError, open_array

VALUES = np.arange(6.0).reshape(2, 3)


def advice(path):
    """Return what the error about a file advises."""
    with pytest.raises(DataError) as caught, open_array(path):
        pass
    assert str(caught.value).endswith(f", got another{conversion_of(str(path))}")
    return conversion_of(str(path)).removeprefix("; ").removesuffix(" makes one")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".pkl", ".pickle"])
def test_what_is_advised_makes_the_array(tmp_path, suffix):
    path = tmp_path / f"losses{suffix}"
    if suffix in (".pkl", ".pickle"):
        VALUES.dump(path)
    else:
        np.savetxt(path, VALUES, delimiter="," if suffix == ".csv" else "\t")
    exec(advice(path), {"numpy": np})  # noqa: S102 - ours
    with open_array(tmp_path / "losses.npy") as source:
        np.testing.assert_array_equal(source[:], VALUES)


@pytest.mark.framework("torch")
def test_what_is_advised_makes_the_array_of_a_tensor(tmp_path):
    import torch

    torch.save(torch.tensor(VALUES, requires_grad=True), tmp_path / "losses.pt")
    exec(advice(tmp_path / "losses.pt"), {"numpy": np, "torch": torch})  # noqa: S102 - ours
    np.testing.assert_array_equal(np.load(tmp_path / "losses.npy"), VALUES)


def test_other_files_get_what_fits_them():
    assert conversion_of("a/losses.parquet") == (
        '; numpy.save("a/losses.npy", pandas.read_parquet("a/losses.parquet").to_numpy()) makes one'
    )
    assert 'torch.load("losses.pth"' in conversion_of("losses.pth")
    assert "--boxes" in conversion_of("instances.json")
    assert conversion_of("losses") == conversion_of("losses.xls") == ""
