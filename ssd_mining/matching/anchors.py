"""Anchors of known detectors, `default_boxes`, and the grids that they consist of, `anchor_grid`."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ssd_mining.checks import check_choice, check_int, check_number, refuse
from ssd_mining.choices import BOX_FORMATS, GEOMETRIES, BoxFormat
from ssd_mining.inputs.arrays import as_real_array


class Level(NamedTuple):
    """One feature map of an SSD; lengths are shares of the image."""

    cells: int  # along each side
    step: float | None  # from one centre to the next; None: the cells share the image
    small: float  # the side of the first square
    large: float  # the second square has the geometric mean of both
    ratios: tuple[int, ...]  # of the other boxes, each lying and standing

    @property
    def shapes(self) -> NDArray[np.float64]:
        """Width and height of the boxes of a cell, (K, 2)."""
        shapes = [(self.small, self.small), (math.sqrt(self.small * self.large),) * 2]
        for root in np.sqrt(self.ratios).tolist():
            shapes += [(self.small * root, self.small / root), (self.small / root, self.small * root)]
        return np.array(shapes)


def _levels(side: int, cells: str, steps: str, sizes: str, ratios: str) -> tuple[Level, ...]:
    """Read a table in the words of the authors: lengths in pixels of an image with this side."""
    lengths = [float(size) / side for size in sizes.split()]
    columns = zip(cells.split(), steps.split(), lengths[:-1], lengths[1:], ratios.split(), strict=True)
    return tuple(
        Level(int(count), float(step) / side, small, large, tuple(map(int, listed.split(","))))
        for count, step, small, large, listed in columns
    )


_300 = "38 19 10 5 3 1", "8 16 32 64 100 300"
_512 = "64 32 16 8 4 2 1", "8 16 32 64 128 256 512"
_RATIOS_300, _RATIOS_512 = "2 2,3 2,3 2,3 2 2", "2 2,3 2,3 2,3 2,3 2 2"
_SSD300_COCO = _levels(300, *_300, "21 45 99 153 207 261 315", _RATIOS_300)
SSD_LEVELS = {
    "ssd300": _levels(300, *_300, "30 60 111 162 213 264 315", _RATIOS_300),
    "ssd300_coco": _SSD300_COCO,
    "ssd512": _levels(512, *_512, "35.84 76.8 153.6 230.4 307.2 384 460.8 537.6", _RATIOS_512),
    "ssd512_coco": _levels(512, *_512, "20.48 51.2 133.12 215.04 296.96 378.88 460.8 542.72", _RATIOS_512),
    "torchvision_ssd300": _SSD300_COCO,
    "ssdlite320": tuple(
        Level(cells, None, 0.2 + 0.75 * k / 5, 0.2 + 0.75 * (k + 1) / 5 if k < 5 else 1.0, (2, 3))
        for k, cells in enumerate((20, 10, 5, 3, 2, 1))
    ),
}
_CLIPPED = ("torchvision_ssd300", "ssdlite320")  # sides of at most the image
_RETINANET = tuple((8 << k, tuple(int((32 << k) * 2 ** (third / 3)) for third in range(3))) for k in range(5))


def anchor_grid(
    cells: int | tuple[int, int],
    sizes: ArrayLike,
    *,
    step: float | tuple[float, float] | None = None,
    offset: float = 0.5,
    box_format: BoxFormat = "xyxy",
    dtype: DTypeLike = np.float32,
) -> NDArray[Any]:
    """Return the anchors of one feature map: the same boxes around the centre of every cell.

    Parameters
    ----------
    cells : int or (int, int)
        Cells along each side, or rows and columns.
    sizes : array_like, (K, 2)
        Width and height of the anchors of a cell.
    step : float or (float, float), optional
        From one centre to the next, or down and to the right. ``1 / cells`` unless given: shares of the image.
    offset : float
        Where the first centre lies, in steps.
    box_format : {"xyxy", "cxcywh", "xywh"}
        What the four numbers are.
    dtype : dtype
        Computed in float64, rounded to this.

    Returns
    -------
    ndarray, (rows * columns * K, 4)
        By row, column and size; nothing is clipped.

    Raises
    ------
    TypeError
        If an argument has a wrong type.
    ValueError
        If a shape or a value is wrong.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> sm.anchor_grid(2, [[0.5, 0.25]], box_format="cxcywh").tolist()
    [[0.25, 0.25, 0.5, 0.25], [0.75, 0.25, 0.5, 0.25], [0.25, 0.75, 0.5, 0.25], [0.75, 0.75, 0.5, 0.25]]
    """
    rows, columns = _pair("cells", cells)
    for count in (rows, columns):
        check_int("cells", count, lowest=1)
    steps = None if step is None else _pair("step", step)
    for length in steps or ():
        check_number("step", length, lowest=math.ulp(0), words="above 0, finite")
    check_number("offset", offset)
    check_choice("box_format", box_format, BOX_FORMATS)
    shapes = np.asarray(as_real_array("sizes", sizes), np.float64)
    if shapes.ndim != 2 or shapes.shape[1] != 2:
        refuse("sizes", "a (K, 2) array of widths and heights", f"shape {shapes.shape}")
    if not ((shapes >= 0) & (shapes < np.inf)).all():
        refuse("sizes", "finite widths and heights of at least 0", f"{shapes.min()}")
    boxes = np.empty((rows, columns, shapes.shape[0], 4))
    down, right = np.arange(rows) + offset, np.arange(columns) + offset
    down, right = (down / rows, right / columns) if steps is None else (down * steps[0], right * steps[1])
    boxes[..., 0] = right[:, np.newaxis]
    boxes[..., 1] = down[:, np.newaxis, np.newaxis]
    boxes[..., 2:] = shapes
    return _formatted(boxes.reshape(-1, 4), box_format, dtype)


def default_boxes(
    geometry: str = "ssd300",
    *,
    image_size: int | tuple[int, int] | None = None,
    box_format: BoxFormat = "xyxy",
    dtype: DTypeLike = np.float32,
) -> NDArray[Any]:
    """Return the anchors of a known detector.

    Parameters
    ----------
    geometry : str
        ``"ssd300"`` and ``"ssd512"``: the authors' models for PASCAL VOC, 8732 and 24564 anchors; ``"ssd300_coco"`` and
        ``"ssd512_coco"``: theirs for COCO. ``"torchvision_ssd300"``: the same as ``"ssd300_coco"``, but no side is
        longer than the image. ``"ssdlite320"``: torchvision's, 3234 anchors. ``"retinanet"``: torchvision's, for any
        `image_size`, 120,087 anchors for 800.
    image_size : int or (int, int), optional
        Height and width of the image: anchors in pixels. Shares of the image unless given; ``"retinanet"`` needs it.
    box_format, dtype
        As in `anchor_grid`.

    Returns
    -------
    ndarray, (A, 4)
        From the finest feature map to the coarsest, then by row, column and shape; none is clipped at the border.

    Raises
    ------
    TypeError
        If an argument has a wrong type.
    ValueError
        If the geometry is unknown, or the image has no size.

    Notes
    -----
    Shapes of a cell in an SSD: the small square, the square of the geometric mean of this and the next level's, then
    for each ratio the lying and the standing box. In a RetinaNet: three sizes for each of three ratios.

    References
    ----------
    weiliu89/caffe, branch ssd, ``examples/ssd/ssd_pascal.py``, ``ssd_coco.py`` and ``prior_box_layer.cpp``;
    pytorch/vision, ``models/detection/anchor_utils.py``, ``ssd.py``, ``ssdlite.py`` and ``retinanet.py``.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> anchors = sm.default_boxes("ssd300", box_format="cxcywh")
    >>> anchors.shape, anchors[0].round(4).tolist()
    ((8732, 4), [0.013299999758601189, 0.013299999758601189, 0.10000000149011612, 0.10000000149011612])
    """
    check_choice("geometry", geometry, GEOMETRIES)
    check_choice("box_format", box_format, BOX_FORMATS)
    height, width = (None, None) if image_size is None else _pair("image_size", image_size)
    if height is not None:
        for side in (height, width):
            check_int("image_size", side, lowest=1)
    if geometry == "retinanet":
        if height is None or width is None:
            refuse("image_size", "height and width in pixels, for a RetinaNet", "None")
        maps = [_retinanet_map(height, width, *level) for level in _RETINANET]
        return _formatted(np.concatenate(maps), box_format, dtype)
    maps = []
    for level in SSD_LEVELS[geometry]:
        sides = np.minimum(level.shapes, 1) if geometry in _CLIPPED else level.shapes
        maps.append(anchor_grid(level.cells, sides, step=level.step, box_format="cxcywh", dtype=np.float64))
    boxes = np.concatenate(maps)
    if height is not None:
        boxes *= np.array([width, height, width, height])
    return _formatted(boxes, box_format, dtype)


def _retinanet_map(height: int, width: int, stride: int, sizes: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the anchors of one feature map, as centres and sizes in pixels; torchvision rounds the corners."""
    rows, columns = -(-height // stride), -(-width // stride)
    halves = [(size / math.sqrt(ratio) / 2, size * math.sqrt(ratio) / 2) for ratio in (0.5, 1, 2) for size in sizes]
    sides, step = 2 * np.round(np.array(halves, np.float32)), (height // rows, width // columns)
    return anchor_grid((rows, columns), sides, step=step, offset=0, box_format="cxcywh", dtype=np.float64)


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    """Return two values, the same twice if there is one."""
    if isinstance(value, numbers.Real):
        return value, value
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        refuse(name, "one number, or two", f"{value!r}", TypeError)
    return value[0], value[1]


def _formatted(boxes: NDArray[np.float64], box_format: BoxFormat, dtype: DTypeLike) -> NDArray[Any]:
    """Return centres and sizes in another format, rounded once."""
    if np.dtype(dtype).kind != "f":
        refuse("dtype", "float16, float32 or float64", f"{np.dtype(dtype)}", TypeError)
    if box_format != "cxcywh":
        low = boxes[:, :2] - boxes[:, 2:] / 2
        last = boxes[:, 2:] if box_format == "xywh" else boxes[:, :2] + boxes[:, 2:] / 2
        boxes = np.concatenate([low, last], axis=1)
    return boxes.astype(dtype)
