"""Device arrays of other libraries: where their memory is, on which stream they are made, and more of their kind.

torch tensors are asked by name; everything else by ``__cuda_array_interface__`` or DLPack. No library is imported:
what an array comes from is loaded already.
"""

import ctypes
import functools
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ssd_mining.checks import refuse
from ssd_mining.inputs.arrays import is_on_device
from ssd_mining.kernels.cuda import runtime
from ssd_mining.kernels.cuda.pack import Strided, enqueue_packed
from ssd_mining.kernels.cuda.runtime import DeviceArray, Library, Stream, current_device

F = TypeVar("F", bound=Callable[..., Any])

_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}  # of DLPack's type codes


class Foreign(NamedTuple):
    """A device array of the caller's, of any layout."""

    name: str  # of the argument
    array: DeviceArray
    strides: tuple[int, ...]  # in elements
    device: int
    handle: int = 0  # of the stream that its producer names; torch and CuPy are asked for their current one

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the elements."""
        return self.array.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.array.shape

    @property
    def stand_in(self) -> NDArray[Any]:
        """A host array of the same dtype and shape, which takes no memory."""
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie one after the other, in C order."""
        expected = contiguous(self.shape)
        if self.strides == expected or self.array.size == 0:
            return True
        places = zip(self.shape, self.strides, expected, strict=True)
        return all(length == 1 or stride == in_order for length, stride, in_order in places)

    @property
    def memory(self) -> DeviceArray:
        """All memory from the first to the last element."""
        last = sum(stride * (length - 1) for stride, length in zip(self.strides, self.shape, strict=True))
        return self.array._replace(shape=(last + 1 if self.array.size else 0,))

    def strided(self, class_axis: int | None = None) -> Strided:
        """Describe it as kernels take it; `class_axis` is the axis of its classes, if it has one."""
        axes = list(zip(self.shape, self.strides, strict=True))
        num_classes, of_class = (1, 0) if class_axis is None else axes.pop(class_axis)
        while len(axes) > 2:  # trailing axes, as of (B, H, W), are walked as one
            (inner, of_inner), (outer, of_outer) = axes.pop(), axes.pop()
            if inner > 1 and outer > 1 and of_outer != inner * of_inner:
                got = f"strides {self.strides} for the shape {self.shape}; pass a contiguous copy"
                refuse(self.name, "trailing axes that lie one after the other on a device", got)
            axes.append((outer * inner, of_outer if inner == 1 else of_inner))
        num_anchors, of_anchor = axes[-1]
        of_sample = axes[0][1] if len(axes) == 2 else 0  # a ragged batch has one axis of anchors
        return Strided(self.memory, max(1, num_anchors), of_sample, of_anchor, of_class, num_classes)

    def packed(self, library: Library, class_axis: int | None = None) -> DeviceArray:
        """Return all anchors on one axis, (N,) or (N, C): the memory itself, or a copy where the layout wants one."""
        size, num_classes = self.array.size, None if class_axis is None else self.shape[class_axis]
        shape = (size,) if num_classes is None else (size // max(1, num_classes), num_classes)
        if class_axis != 1 and self.is_contiguous:
            return self.array._replace(shape=shape)
        copy = library.allocate(shape, self.dtype)
        enqueue_packed(self.strided(class_axis), copy, library.stream)
        return copy

    def viewed(self, dtype: DTypeLike) -> "Foreign":
        """Take the elements for those of another dtype of the same size."""
        return self._replace(array=self.array._replace(dtype=np.dtype(dtype)))

    def read(self, library: Library) -> NDArray[Any]:
        """Copy it to the host, after waiting for the stream."""
        flat = library.download(self.memory)
        in_bytes = [stride * flat.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, in_bytes, writeable=False)


@functools.lru_cache(maxsize=128)
def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of an array in C order."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def gathered(**given: Any) -> dict[str, Foreign]:
    """Describe device arrays, those that are None left out; all must be on the device of the first."""
    runtime.check()
    arrays: dict[str, Foreign] = {}
    leader = next(iter(given))
    for name, value in given.items():
        if value is None:
            continue
        if not is_on_device(value):
            refuse(name, f"a device array, as {leader} is one", type(value).__name__, TypeError)
        arrays[name] = foreign(name, value)
        ours, device = arrays[name].device, arrays[leader].device
        if ours != device:
            refuse(name, f"an array on the device of {leader} ({device})", f"one on device {ours}")
    return arrays


def foreign(name: str, value: Any) -> Foreign:
    """Describe a device array."""
    described = _foreign(name, value)
    if min(described.strides, default=0) < 0:
        refuse(name, "an array without negative strides on a device", f"strides {described.strides}; pass a copy")
    return described


def _foreign(name: str, value: Any) -> Foreign:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _from_torch(name, value)
    if hasattr(value, "__cuda_array_interface__"):
        return _from_interface(name, value)
    return _from_dlpack(name, value)


def _from_torch(name: str, tensor: Any) -> Foreign:
    if tensor.requires_grad:
        refuse(name, "a tensor without gradient", "one that requires grad; pass tensor.detach()", TypeError)
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype in ("bfloat16", "float16"):
        _refuse_half(name, dtype)
    array = DeviceArray(tensor.data_ptr(), tuple(tensor.shape), np.dtype(dtype), tensor)
    return Foreign(name, array, tuple(tensor.stride()), tensor.device.index)


def _from_interface(name: str, value: Any) -> Foreign:
    shown = value.__cuda_array_interface__
    if shown.get("mask") is not None:
        refuse(name, "an array without a mask", "a masked one", TypeError)
    array = DeviceArray(shown["data"][0] or 0, tuple(shown["shape"]), np.dtype(shown["typestr"]), value)
    strides = shown.get("strides")
    stream, device = shown.get("stream"), getattr(getattr(value, "device", None), "id", None)
    handle = 0 if stream in (None, 1) else int(stream)  # 1: the default stream by another name
    device = current_device() if device is None else int(device)
    in_elements = contiguous(array.shape) if strides is None else _elements(name, strides, array.dtype)
    return Foreign(name, array, in_elements, device, handle)


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_dlpack(name: str, value: Any) -> Foreign:
    capsule = value.__dlpack__(stream=1)  # the producer lets the default stream wait for what it still does
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _DLTensor.from_address(address(capsule, b"dltensor"))
    if (tensor.code, tensor.bits) in ((4, 16), (2, 16)):
        _refuse_half(name, "bfloat16" if tensor.code == 4 else "float16")
    if tensor.code not in _KINDS or tensor.lanes != 1:
        refuse(name, "real numbers", f"DLPack's type code {tensor.code} of {tensor.lanes} lanes", TypeError)
    dtype = np.dtype(np.bool_ if tensor.code == 6 else f"{_KINDS[tensor.code]}{tensor.bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else contiguous(shape)
    # The capsule is not renamed: it still owns the memory, and gives it back when nobody holds it.
    array = DeviceArray((tensor.data or 0) + tensor.byte_offset, shape, dtype, (value, capsule))
    return Foreign(name, array, strides, tensor.device_id)


def _elements(name: str, strides: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    if any(stride % dtype.itemsize for stride in strides):
        refuse(name, "whole elements from one anchor to the next", f"strides of {strides} bytes for {dtype}")
    return tuple(stride // dtype.itemsize for stride in strides)


def _refuse_half(name: str, dtype: str) -> NoReturn:
    refuse(name, "float32 or float64 on a device", f"{dtype}; pass it as float32", TypeError)


def library_of(array: Foreign) -> Library:
    """Return the library of an array, on the stream of its producer: what it allocates is `DeviceArray.owner`."""
    owner, torch, cupy = array.array.owner, sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and isinstance(owner, torch.Tensor):

        def allocate(shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
            name = _name_in_torch(np.dtype(dtype))
            try:
                made = torch.empty(shape, dtype=getattr(torch, name), device=owner.device)
            except torch.cuda.OutOfMemoryError as error:  # CuPy's is a MemoryError that names the bytes
                raise runtime.no_memory(shape, dtype) from error
            return DeviceArray(made.data_ptr(), shape, np.dtype(dtype), made)

        return Library(Stream(array.device, torch.cuda.current_stream(owner.device).cuda_stream), allocate)
    if cupy is not None and isinstance(owner, cupy.ndarray):

        def allocate(shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
            made = cupy.empty(shape, dtype)
            return DeviceArray(made.data.ptr, shape, np.dtype(dtype), made)

        return Library(Stream(array.device, cupy.cuda.get_current_stream().ptr), allocate)
    return Library(Stream(array.device, array.handle), runtime.empty)


@functools.cache
def _name_in_torch(dtype: np.dtype[Any]) -> str:
    name: str = dtype.name
    # A workspace is unsigned, which old versions of torch have not: its bits are what counts.
    return name.removeprefix("u") if name in ("uint16", "uint32", "uint64") else name


def remembered(check: F) -> F:
    """Let a check remember what it returned for the newest arguments; what cannot be hashed is checked every time."""
    remember = functools.lru_cache(maxsize=128, typed=True)(check)

    @functools.wraps(check)
    def once(*arguments: Any) -> Any:
        try:
            return remember(*arguments)
        except TypeError:  # a value that cannot be hashed, or one that the check refuses
            return check(*arguments)

    return cast("F", once)
