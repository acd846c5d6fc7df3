"""What the tests of device arrays need: a stand-in for a library that has some, or a GPU."""

import sys
from types import SimpleNamespace

import numba
import numpy as np
import pytest

from ssd_mining.engine.run import call_of
from tests.support.device import Chunk, Tensor


@pytest.fixture(params=["torch", "cupy"])
def library(request, monkeypatch):
    """Load a stand-in for a library: its stream has the handle 77, and it makes arrays of its own."""
    if request.param == "torch":
        dtypes = {name: name for name in ("bool", "uint8", "int32", "int64", "float32", "float64")}
        module = SimpleNamespace(
            Tensor=Tensor,
            cuda=SimpleNamespace(current_stream=lambda _: SimpleNamespace(cuda_stream=77)),
            empty=lambda shape, dtype, device: Tensor(np.empty(shape, dtype)) if device.index == 0 else None,
            **dtypes,
        )
        kind = Tensor
    else:
        stream = SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=77))
        module = SimpleNamespace(ndarray=Chunk, cuda=stream, empty=lambda shape, dtype: Chunk(np.empty(shape, dtype)))
        kind = Chunk
    monkeypatch.setitem(sys.modules, request.param, module)
    return kind


def why_not():
    if numba.config.ENABLE_CUDASIM:
        return "the simulator stands in for the GPU"
    try:
        call_of("cuda", None)
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.fixture(autouse=True)
def gpu(request):
    """Skip what needs a GPU where there is none, and say what is missing."""
    reason = why_not() if request.node.get_closest_marker("gpu") else ""
    if reason:
        pytest.skip(reason)
