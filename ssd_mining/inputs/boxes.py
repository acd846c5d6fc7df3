"""Turn boxes, classes and anchors of any form into the `BoxRows` that a kernel takes, or raise a clear error.

Values are checked by the kernel, which reads them anyway; then `refuse_boxes`, `refuse_classes` and `refuse_anchors`
say what is wrong.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import check_choice, refuse
from ssd_mining.choices import BOX_FORMATS, BoxFormat
from ssd_mining.inputs.arrays import (
    FLOAT64,
    INT64,
    as_array,
    as_real_array,
    is_on_device,
    kernel_dtype,
    native,
    read_only,
)
from ssd_mining.inputs.counts import check_offsets
from ssd_mining.kernels.records import BoxRows

# The kernel holds the number of an object in a float32.
MOST_OBJECTS = 1 << 24
_BOOL, UINT64 = np.dtype(np.bool_), np.dtype(np.uint64)
_NO_BOXES = np.empty((0, 4), np.float16)
_NO_CROWD, _ALL_VALID = read_only(np.empty(0, np.bool_)), read_only(np.empty((0, 0), np.bool_))


class Objects(NamedTuple):
    """The checked boxes of a batch, and how they came."""

    corners: NDArray[Any]  # (N, 4) float32 or float64: x1, y1, x2, y2
    offsets: NDArray[np.int64]  # (B + 1,) sample i owns the boxes offsets[i] to offsets[i + 1]
    boxes: NDArray[Any]  # (N, 4) as they came
    box_format: BoxFormat
    is_flat: bool  # came as one array with offsets, and not as an array for each sample

    def place(self, box: int) -> str:
        """Say where a box is, for an error."""
        sample = int(np.searchsorted(self.offsets, box, "right")) - 1
        return f"box {box - self.offsets[sample]} of sample {sample}"


def refuse_on_device(name: str, **arrays: Any) -> None:
    """Raise `NotImplementedError` if one of the arrays, or of those in a list, lies on a GPU."""
    for argument, value in arrays.items():
        if value is None or type(value) is np.ndarray:
            continue
        for each in value if isinstance(value, list | tuple) else (value,):
            if type(each) is not np.ndarray and is_on_device(each):
                msg = (
                    f"{name}: {argument} lies on a GPU, where boxes are not matched or encoded yet; pass NumPy arrays"
                )
                raise NotImplementedError(msg)


def check_boxes(boxes: Any, box_offsets: ArrayLike | None, box_format: BoxFormat) -> Objects:
    """Check the shape of boxes, (N, 4) with offsets or an array (n, 4) for each sample; `refuse_boxes` their values."""
    check_choice("box_format", box_format, BOX_FORMATS)
    if box_offsets is None:
        arrays = [_rows_of("boxes", part, (4,), sample) for sample, part in enumerate(_samples("boxes", boxes))]
        offsets = _offsets_of(arrays)
        array = arrays[0] if len(arrays) == 1 else np.concatenate([_NO_BOXES, *arrays])
    else:
        array = _rows_of("boxes", boxes, (4,))
        offsets = check_offsets("box_offsets", box_offsets, array.shape[0], "boxes")
    return Objects(to_corners(array, box_format), offsets, array, box_format, box_offsets is not None)


def refuse_boxes(objects: Objects) -> None:
    """Raise if one of the boxes is none."""
    bad = bad_boxes(objects.corners)
    if bad.size:
        _refuse_box("boxes", objects.place(bad[0]), objects.boxes[bad[0]], objects.box_format)


def _offsets_of(arrays: list[NDArray[Any]]) -> NDArray[np.int64]:
    counts = [array.shape[0] for array in arrays]
    if max(counts, default=0) > MOST_OBJECTS:
        refuse("boxes", f"at most {MOST_OBJECTS:,} boxes in a sample", f"{max(counts):,}")
    offsets = np.array([0, *itertools.accumulate(counts)], INT64)
    offsets.setflags(write=False)
    return offsets


def _samples(name: str, value: Any) -> Any:
    """Return what has an array for each sample; refuse an array of all boxes."""
    if not isinstance(value, Sequence) and getattr(value, "ndim", 0) < 2 + (name == "boxes"):
        expected = "an array for each sample, or one of all boxes with box_offsets"
        refuse(name, expected, f"shape {np.shape(value)}", hint=f"[{name}] is one sample")
    return value


def _rows_of(name: str, value: Any, shape: tuple[int, ...], sample: int | None = None) -> NDArray[Any]:
    """Check an array (n, *shape), of one sample or of all."""
    array = as_array(name, value)
    if array.shape == (0,) and isinstance(value, list | tuple):  # NumPy makes an empty list a float array
        return _NO_BOXES if shape else _NO_BOXES.astype(np.bool_)[:, 0]
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        where = " beside box_offsets" if sample is None else f" for sample {sample}"
        hint = f"[{name}] is one sample" if sample == 0 and array.shape == shape else ""
        refuse(name, f"an (n{', 4' if shape else ','}) array{where}", f"shape {array.shape}", hint=hint)
    if shape and (array.dtype.kind not in "fiu" or array.dtype.itemsize > 8):
        refuse(name, "float16, float32, float64 or integer values", f"dtype {array.dtype}", TypeError)
    return array


def _of_objects(name: str, value: Any, objects: Objects) -> NDArray[Any]:
    """Check what has an entry for each box, in the form of the boxes."""
    if objects.is_flat:
        array = _rows_of(name, value, ())
        if array.shape[0] != objects.offsets[-1]:
            refuse(name, f"one for each of {objects.offsets[-1]} boxes", f"{array.shape[0]}")
        return array
    arrays = [_rows_of(name, part, (), sample) for sample, part in enumerate(_samples(name, value))]
    starts = objects.offsets.tolist()
    if len(arrays) != len(starts) - 1:
        refuse(name, f"those of {len(starts) - 1} samples, as boxes", f"those of {len(arrays)}")
    for sample, array in enumerate(arrays):
        count = starts[sample + 1] - starts[sample]
        if array.shape[0] != count:
            refuse(name, f"one for each of the {count} boxes of sample {sample}", f"{array.shape[0]}")
    return arrays[0] if len(arrays) == 1 else np.concatenate([np.empty(0, np.bool_), *arrays])


def to_corners(boxes: NDArray[Any], box_format: BoxFormat) -> NDArray[Any]:
    """Return the corners x1, y1, x2, y2 of boxes (..., 4) in a kernel's dtype, by the formulas of all the systems."""
    array = np.asarray(boxes, kernel_dtype(boxes.dtype))
    if box_format == "xyxy":
        return array
    low, size = array[..., :2], array[..., 2:]
    with np.errstate(invalid="ignore", over="ignore"):
        if box_format == "cxcywh":
            half = size / 2
            return np.concatenate([low - half, low + half], axis=-1)
        return np.concatenate([low, low + size], axis=-1)


def bad_boxes(corners: NDArray[Any]) -> NDArray[np.int64]:
    """Return the numbers of the boxes (n, 4) that are none: NaN, negative sizes, areas that are not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        sides = corners[:, 2:] - corners[:, :2]
        area = sides[:, 0] * sides[:, 1]
        good = (sides >= 0).all(axis=1) & (area <= np.finfo(corners.dtype).max / 4)
    return np.flatnonzero(~good)


def _refuse_box(name: str, where: str, box: NDArray[Any], box_format: BoxFormat) -> None:
    got = f"{np.array2string(box, separator=', ')} for {where}"
    if not np.isfinite(box).all():
        refuse(name, "finite coordinates", got)
    sides = {"xyxy": "x1 <= x2 and y1 <= y2", "cxcywh": "w and h of at least 0", "xywh": "w and h of at least 0"}
    wanted = f"boxes with {sides[box_format]}"
    corners = to_corners(box, box_format)
    if not (corners[2:] >= corners[:2]).all():
        argument = "anchor_format" if name == "anchors" else "box_format"
        hint = f'{argument}="cxcywh" for centres and sizes, "xywh" for a corner and sizes'
        refuse(name, wanted, got, hint=hint if box_format == "xyxy" else "")
    refuse(name, "boxes with a finite area", got)


def check_anchors(anchors: ArrayLike, anchor_format: BoxFormat, num_samples: int | None = None) -> NDArray[Any]:
    """Check the shape of anchors, (A, 4) or (B, A, 4); return their corners, (1, A, 4) or (B, A, 4)."""
    check_choice("anchor_format", anchor_format, BOX_FORMATS)
    array = as_real_array("anchors", anchors)
    if array.ndim not in (2, 3) or array.shape[-1] != 4:
        refuse("anchors", "an (A, 4) or a (B, A, 4) array", f"shape {array.shape}")
    if array.ndim == 3 and num_samples is not None and array.shape[0] != num_samples:
        refuse("anchors", f"the anchors of {num_samples} samples, as boxes", f"shape {array.shape}")
    return to_corners(array if array.ndim == 3 else array[None], anchor_format)


def refuse_anchors(anchors: ArrayLike, corners: NDArray[Any], anchor_format: BoxFormat) -> None:
    """Raise if one of the anchors is no box."""
    bad = bad_boxes(corners.reshape(-1, 4))
    if bad.size:
        sample, anchor = divmod(int(bad[0]), corners.shape[1])
        array = as_array("anchors", anchors)
        box = array[sample, anchor] if array.ndim == 3 else array[anchor]
        where = f"anchor {anchor}" + (f" of sample {sample}" if array.ndim == 3 else "")
        _refuse_box("anchors", where, box, anchor_format)


def check_classes(classes: Any, objects: Objects) -> NDArray[np.int64]:
    """Check the shape and the dtype of the classes of the objects; `refuse_classes` their values."""
    array: Any = _of_objects("classes", classes, objects)
    if array.size and array.dtype.kind not in "iu":
        refuse("classes", "whole numbers", f"dtype {array.dtype}", TypeError)
    if array.dtype == UINT64 and array.size and array.max() > np.iinfo(np.int64).max:
        refuse("classes", "numbers that int64 can hold", f"{array.max()}")
    return native(array, INT64)


def refuse_classes(classes: NDArray[np.int64], objects: Objects, background: int, ignore_index: int) -> None:
    """Raise if one of the classes is background or ignored."""
    for name, label in (("background", background), ("ignore_index", ignore_index)):
        if (classes == label).any():
            hint = "add 1 to the classes, or pass another background" if name == "background" else ""
            got = f"{label} for {objects.place(int((classes == label).argmax()))}"
            refuse("classes", f"classes other than {name} ({label})", got, hint=hint)


def check_crowd(crowd: Any, objects: Objects) -> NDArray[np.bool_]:
    """Check which boxes are crowds: (N,), or (0,) if there are none."""
    if crowd is None:
        return _NO_CROWD
    array = _of_objects("crowd", crowd, objects)
    if array.dtype != np.bool_:
        refuse("crowd", "bools, True for a region of many objects", f"dtype {array.dtype}", TypeError)
    return native(array, _BOOL) if array.any() else _NO_CROWD


def check_valid_anchors(valid: ArrayLike | None, num_samples: int, num_anchors: int) -> NDArray[np.bool_]:
    """Check which anchors count: (A,) for all samples, or (B, A). Return (1, A), (B, A), or (0, 0) if all do."""
    if valid is None:
        return _ALL_VALID
    array = as_array("valid", valid)
    if array.dtype != np.bool_:
        refuse("valid", "a bool array, True where the anchor counts", f"dtype {array.dtype}", TypeError)
    if array.shape not in ((num_anchors,), (num_samples, num_anchors)):
        expected = f"a ({num_anchors},) or a ({num_samples}, {num_anchors}) array"
        refuse("valid", expected, f"shape {array.shape}")
    return native(array.reshape(-1, num_anchors), _BOOL)


def box_rows(
    objects: Objects,
    classes: NDArray[np.int64],
    crowd: NDArray[np.bool_],
    anchors: NDArray[Any],
    valid: NDArray[np.bool_],
) -> BoxRows:
    """Return what a kernel takes of what was checked: boxes and anchors of one dtype, float64 where one needs it."""
    real = anchors.dtype if anchors.dtype == objects.corners.dtype else FLOAT64
    return BoxRows(
        native(objects.corners, real),
        classes,
        crowd,
        objects.offsets,
        native(anchors, real),
        valid,
    )
