"""Arrays on a device, or in the memory of its simulator, and back."""

from typing import Any

import numpy as np
import pytest

from ssd_mining.kernels.cuda import runtime


def _missing() -> str | None:
    try:
        runtime.check()
    except RuntimeError as error:
        return f"{error}, or the simulator (NUMBA_ENABLE_CUDASIM=1)"
    return None


needs_device = pytest.mark.skipif(_missing() is not None, reason=str(_missing()))
# Scalar NumPy, of which the simulator is made, warns of inf - inf.
scalar_numpy_warns = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def to_device(array: np.ndarray) -> Any:
    """Copy an array to the device."""
    return runtime.cuda.to_device(np.ascontiguousarray(array))


def to_host(array: Any) -> np.ndarray:
    """Copy an array to the host; what is there already stays."""
    return array.copy_to_host() if hasattr(array, "copy_to_host") else np.asarray(array)
