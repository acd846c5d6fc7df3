"""The backends that the kernels' tests are about."""

import pytest

from ssd_mining.kernels.cuda import short_rows
from tests.support.parity import BACKENDS


@pytest.fixture(params=[*BACKENDS, pytest.param("cuda, long rows", marks=pytest.mark.cuda)])
def backend(request, monkeypatch):
    """Name a backend. On CUDA every row of more anchors than threads may be a long one, of which many blocks share."""
    if request.param == "cuda, long rows":
        monkeypatch.setattr(short_rows, "MAX_KEYS", {threads: {4: 1, 8: 1} for threads in short_rows.MAX_KEYS})
    return request.param.split(",")[0]
