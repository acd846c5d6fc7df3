"""The backends that the kernels' tests are about."""

import pytest

from tests.support.parity import BACKENDS


@pytest.fixture(params=[*BACKENDS, pytest.param("cuda, long rows", marks=pytest.mark.cuda)])
def backend(request, monkeypatch):
    """Name a backend. On CUDA every row of more anchors than threads may be a long one, of which many blocks share."""
    if request.param == "cuda, long rows":
        monkeypatch.setattr("ssd_mining.kernels.cuda.mining.MAX_KEYS", {4: 1, 8: 1})
    return request.param.split(",")[0]
