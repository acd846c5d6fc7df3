"""Data for reports."""

import numpy as np
import pytest

from tests.support.reports import draw


@pytest.fixture
def data(tmp_path):
    """Save a small data set; return its folder and its arrays."""
    arrays = draw()
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    names = [f"image {i:03}.jpg" for i in range(60)]
    (tmp_path / "ids.txt").write_text("\n".join(names) + "\n")
    return tmp_path, arrays | {"ids": names}
