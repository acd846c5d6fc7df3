"""Turn array-likes into arrays of the dtypes and layouts that the kernels take, or raise a clear error."""

import functools
import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import InputTypeError, refuse

FLOAT32, FLOAT64, INT64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)

_DLPACK_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged


def as_array(name: str, value: ArrayLike) -> NDArray[Any]:
    """Turn an array-like into an ndarray, without a copy if it already holds one."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        hint = "a masked array; pass its .data, and valid=~np.ma.getmaskarray(...)"
        refuse(name, "an array without a mask", hint, TypeError)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        _check_tensor(name, value, torch)
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        got = f"{type(value).__name__} that NumPy cannot convert ({error})"
        raise InputTypeError(name, "an array", got) from error


def as_kind_of(given: ArrayLike, array: NDArray[Any]) -> NDArray[Any]:
    """Return an array, or, if `given` is a tensor of torch, a tensor over its memory."""
    torch: Any = sys.modules.get("torch")
    return torch.from_numpy(array) if torch is not None and isinstance(given, torch.Tensor) else array


def is_on_device(value: Any, backend: str | None = None) -> bool:
    """Say whether a value lies in the memory of an NVIDIA GPU, or Numba's simulated one, and `backend` allows that."""
    if value is None or type(value) is np.ndarray or backend not in (None, "cuda"):
        return False
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return bool(value.is_cuda)
    if hasattr(value, "__cuda_array_interface__") or getattr(type(value), "__cuda_ndarray__", False):
        return True
    where = getattr(value, "__dlpack_device__", None)
    return where is not None and where()[0] in _DLPACK_CUDA


def _check_tensor(name: str, tensor: Any, torch: Any) -> None:
    if tensor.requires_grad:
        refuse(name, "a tensor without gradient", "one that requires grad; pass tensor.detach()", TypeError)
    if tensor.device.type != "cpu":
        refuse(name, "a tensor on the CPU", f"one on {tensor.device}; pass tensor.cpu()", TypeError)
    if tensor.dtype == torch.bfloat16:
        refuse(name, "a dtype that NumPy has", "torch.bfloat16; pass tensor.float()", TypeError)


def as_real_array(name: str, value: ArrayLike) -> NDArray[Any]:
    """Turn an array-like into an array of floats or integers of at most 64 bits."""
    array = as_array(name, value)
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        expected = "float16, float32, float64 or integer values"
        refuse(name, expected, f"dtype {array.dtype}", TypeError)
    return array


def check_valid(value: ArrayLike | None, shape: tuple[int, ...], of: str = "conf_loss") -> NDArray[np.bool_] | None:
    """Check the mask of the anchors that count, if it is given. `of` names the argument that has this shape."""
    if value is None:
        return None
    array = as_array("valid", value)
    if array.dtype != np.bool_:
        refuse("valid", "a bool array, True where the anchor counts", f"dtype {array.dtype}", TypeError)
    if array.shape != shape:
        refuse("valid", f"the shape of {of} {shape}", f"shape {array.shape}")
    return array


def native(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the array as a kernel takes it: of this dtype, C-contiguous, aligned, read-only; a view if possible."""
    flags = array.flags
    if array.dtype != dtype or not (flags.c_contiguous and flags.aligned):
        array = np.require(array, dtype, ("C_CONTIGUOUS", "ALIGNED"))
    return read_only(array)


@functools.cache
def native_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype in the byte order of this machine."""
    return dtype.newbyteorder("=")


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only view: Numba then sees one type, whatever flags the caller's array has."""
    view = array.view()
    view.setflags(write=False)
    return view


@functools.cache
def kernel_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that the kernel computes in: float32 if it holds every value exactly, else float64."""
    exact = dtype.itemsize <= 4 if dtype.kind == "f" else dtype.itemsize <= 2
    return FLOAT32 if exact else FLOAT64
