"""Boxes in files: COCO's ``instances.json``, a directory of YOLO's text files, or arrays in an ``.npz``.

A JSON file is read piece by piece: one annotation exists at a time, and 64 bytes of each are kept.
"""

import contextlib
import json
import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from ssd_mining.checks import DataError
from ssd_mining.files.names import Name
from ssd_mining.files.sources import explained, open_array
from ssd_mining.files.text import EXACT, read_lines

_PIECE = 1 << 20  # characters of JSON that are read at a time
_CLASSES_FILE = "classes.txt"  # where labelImg writes the names of the classes, beside YOLO's files


class Annotations(NamedTuple):
    """The boxes of B samples, N in all."""

    boxes: NDArray[np.float64]  # (N, 4) x1, y1, x2, y2: shares of the image, or as the file says
    classes: NDArray[np.int64]  # (N,) from 1 on, or as the file says
    crowd: NDArray[np.bool_]  # (N,)
    offsets: NDArray[np.int64]  # (B + 1,)
    ids: list[Name] | None  # (B,): what the samples are called; None: they have no names
    class_names: list[str]  # from class 0 on; empty: unknown
    sizes: NDArray[np.int64] | None = None  # (B, 2) width and height of the images
    files: list[str] | None = None  # (B,) where the images are; "": not said

    def chosen(self, samples: Sequence[int]) -> "Annotations":
        """Return some samples, in this order."""
        places = np.array(samples, np.int64)
        sizes = np.diff(self.offsets)[places]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        rows = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - self.offsets[places], sizes)
        return self._replace(
            boxes=self.boxes[rows],
            classes=self.classes[rows],
            crowd=self.crowd[rows],
            offsets=offsets,
            ids=None if self.ids is None else [self.ids[sample] for sample in samples],
            sizes=None if self.sizes is None else self.sizes[places],
            files=None if self.files is None else [self.files[sample] for sample in samples],
        )


def read_annotations(name: str, ids: Sequence[Name] | None = None) -> Annotations:
    """Read boxes: of the samples in the file in its order, or of those called `ids`, in this order.

    `name` ends with ``.json`` or ``.npz``, or is that of a directory of text files.
    """
    path = Path(name)
    if path.suffix == ".json":
        found = read_coco(name)
    elif path.suffix == ".npz":
        found = read_arrays(name)
    elif path.is_dir():
        return read_yolo(name, ids)
    else:
        expected = "instances.json, a directory of YOLO's text files, or arrays in .npz"
        advice = 'numpy.savez("boxes.npz", boxes=..., classes=..., box_offsets=...) writes the last'
        raise DataError(f"{name}: expected {expected}, got none; {advice}")
    if ids is None:
        return found
    if found.ids is None:
        raise DataError(f"{name}: expected samples with names, for --ids, got {found.offsets.size - 1:,} without")
    places = {str(each): place for place, each in enumerate(found.ids)}
    missing = next((each for each in ids if str(each) not in places), None)
    if missing is not None:
        raise DataError(f"{name}: expected the sample {missing!r} of --ids, got none of this name")
    return found.chosen([places[str(each)] for each in ids])


def files_of(name: str) -> set[Path]:
    """Return the files that hold the boxes."""
    path = Path(name)
    return set(path.glob("*.txt")) if path.is_dir() else {path}


# COCO


def read_coco(name: str) -> Annotations:
    """Read the boxes, the crowds, the images and the categories of ``instances.json``.

    Images are samples, in the order of the file. Classes are the categories in the order of their ids, from 1 on.
    """
    images: dict[int, int] = {}
    sizes, files, categories = array("d"), list[str](), dict[int, str]()
    # Images may come after the annotations, so an annotation is kept as it is: image, category, box, crowd.
    kept, seen = array("d"), set[str]()
    entries: dict[str, Callable[[str, Any], None]] = {
        "images": lambda where, entry: _keep_image(where, entry, images, sizes, files),
        "categories": lambda where, entry: _keep_category(where, entry, categories),
        "annotations": lambda where, entry: kept.extend(_annotation(where, entry)),
    }
    with explained(name), Path(name).open(encoding="utf-8-sig", errors=EXACT) as file:
        for key, number, entry in _entries(file, name, tuple(entries), seen):
            entries[key](f"{name}: {key}[{number}]", entry)
    for key in entries:
        if key not in seen:
            raise DataError(f"{name}: expected a list {key!r} in it, got none")
    table = np.frombuffer(kept).reshape(-1, 7) if kept else np.empty((0, 7))
    image, crowd = table[:, 0].astype(np.int64), table[:, 6] != 0
    classes = {category: number for number, category in enumerate(sorted(categories), 1)}
    sample = _looked_up(name, "image_id", "image", image, images)
    label = _looked_up(name, "category_id", "category", table[:, 1].astype(np.int64), classes)
    order = np.argsort(sample, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(sample, minlength=len(images)))])
    image_sizes = np.frombuffer(sizes).reshape(-1, 2) if sizes else np.empty((0, 2))
    shape = image_sizes[sample]
    boxes = np.concatenate([table[:, 2:4] / shape, (table[:, 2:4] + table[:, 4:6]) / shape], axis=1)
    names = ["background", *(categories[category] for category in sorted(categories))]
    per_box = boxes[order], label[order], crowd[order]
    return Annotations(*per_box, offsets.astype(np.int64), list(images), names, image_sizes.astype(np.int64), files)


def _keep_image(where: str, entry: Any, images: dict[int, int], sizes: "array[float]", files: list[str]) -> None:
    identity, width, height = (_whole(where, entry, key) for key in ("id", "width", "height"))
    if min(width, height) < 1:
        raise DataError(f"{where}: expected a width and a height of at least 1, got {width} and {height}")
    if images.setdefault(identity, len(images)) != len(images) - 1:
        raise DataError(f"{where}: expected another id for every image, got {identity} again")
    sizes.extend((width, height))
    files.append(str(entry.get("file_name") or ""))


def _keep_category(where: str, entry: Any, categories: dict[int, str]) -> None:
    identity = _whole(where, entry, "id")
    if identity in categories:
        raise DataError(f"{where}: expected another id for every category, got {identity} again")
    categories[identity] = str(entry.get("name", identity))


def _annotation(where: str, entry: Any) -> tuple[float, ...]:
    image, category = _whole(where, entry, "image_id"), _whole(where, entry, "category_id")
    box = entry.get("bbox")
    numbers = isinstance(box, list) and len(box) == 4 and all(type(each) in (int, float) for each in box)
    if not numbers or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
        raise DataError(f"{where}: expected a bbox of x, y, width and height, got {json.dumps(box)[:60]}")
    return image, category, *box, bool(entry.get("iscrowd", 0))


def _whole(where: str, entry: Any, key: str) -> int:
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not int or abs(value) > 1 << 53:  # a float64 holds it
        got = json.dumps(value if isinstance(entry, dict) else entry)[:60]
        raise DataError(f"{where}: expected a whole number as its {key!r}, got {got}")
    return value


def _looked_up(
    name: str, key: str, what: str, values: NDArray[np.int64], places: dict[int, int]
) -> NDArray[np.int64]:
    """Return the place of every value; `DataError` if one is not there."""
    known = np.array(sorted(places), np.int64)
    where = np.searchsorted(known, values).clip(max=max(0, known.size - 1))
    unknown = np.flatnonzero(known[where] != values) if known.size else np.arange(values.size)
    if unknown.size:
        first = int(unknown[0])
        raise DataError(f"{name}: annotations[{first}]: expected the id of a known {what}, got {key} {values[first]}")
    found: NDArray[np.int64] = np.array([places[each] for each in known.tolist()], np.int64)[where]
    return found


def _entries(file: TextIO, name: str, wanted: tuple[str, ...], seen: set[str]) -> Iterator[tuple[str, int, Any]]:
    """Yield the entries of the lists `wanted` of a JSON object, one by one; the other values are skipped."""
    reader = _JsonReader(file, name)
    if reader.peek() == "[":
        expected = f"an object with the lists {', '.join(map(repr, wanted))}"
        raise DataError(f"{name}: expected {expected}, got a list; lists hold detections, which are no labels")
    reader.expect("{")
    while reader.peek() != "}":
        key = reader.value()
        reader.expect(":")
        if key in wanted and reader.peek() == "[":
            seen.add(key)
            reader.expect("[")
            number = 0
            while reader.peek() != "]":
                yield key, number, reader.value()
                number += 1
                if reader.peek() != "]":
                    reader.expect(",")
            reader.expect("]")
        else:
            reader.value()
        if reader.peek() != "}":
            reader.expect(",")


class _JsonReader:
    """Reads JSON from a file, of which it holds one piece and the value that is being read."""

    def __init__(self, file: TextIO, name: str) -> None:
        self._file, self._name = file, name
        self._text, self._at, self._before = "", 0, 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """Return the next character that is not a space."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in " \t\r\n":
                    return self._text[self._at]
                self._at += 1
            if not self._more(_PIECE):
                raise DataError(f"{self._name}: expected more JSON, got the end of the file")

    def expect(self, character: str) -> None:
        """Step over a character, which must come next."""
        if self.peek() != character:
            raise self._broken(f"{character!r}", repr(self._text[self._at]))
        self._at += 1

    def value(self) -> Any:
        """Read the next value."""
        self.peek()
        size = _PIECE
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._more(size):
                    raise self._broken("sound JSON", error.msg) from None
            except RecursionError:
                raise self._broken("sound JSON", "lists in lists without an end") from None
            else:
                if end < len(self._text) or not self._more(size):  # a number might go on
                    self._at = end
                    return value
            size *= 2  # a value of many pieces is not read again for each

    def _more(self, size: int) -> bool:
        """Read another piece, and forget what has been read before this value."""
        piece = self._file.read(size)
        self._before += self._at
        self._text, self._at = self._text[self._at :] + piece, 0
        return piece != ""

    def _broken(self, expected: str, got: str) -> DataError:
        return DataError(f"{self._name}: expected {expected} at character {self._before + self._at:,}, got {got}")


# YOLO, and arrays


def read_yolo(name: str, ids: Sequence[Name] | None) -> Annotations:
    """Read a directory of text files, one for each sample: a line ``class cx cy w h`` for each box, in shares.

    The samples are called as the files, without ``.txt``, and sorted by name; or `ids`, where one without a file has no
    box. The first class, 0, becomes 1. The lines of ``classes.txt`` are the names of the classes.
    """
    folder = Path(name)
    with explained(name):
        stems = sorted(path.stem for path in folder.glob("*.txt") if path.name != _CLASSES_FILE)
    chosen = stems if ids is None else [Path(str(each)).stem for each in ids]
    if not set(chosen) & set(stems):
        raise DataError(f"{name}: expected a text file for each sample, got none")
    present, rows, sizes = set(stems), array("d"), [0]
    for stem in chosen:
        count = 0
        if stem in present:
            file = folder / f"{stem}.txt"
            for number, line in enumerate(_lines(file), 1):
                if line.strip():
                    rows.extend(_yolo_line(f"{file}: line {number}", line))
                    count += 1
        sizes.append(count)
    table = np.frombuffer(rows).reshape(-1, 5) if rows else np.empty((0, 5))
    low, half = table[:, 1:3], table[:, 3:5] / 2
    names: list[str] = []
    if (folder / _CLASSES_FILE).exists():
        names = ["background", *_lines(folder / _CLASSES_FILE)]
    return Annotations(
        np.concatenate([low - half, low + half], axis=1),
        table[:, 0].astype(np.int64) + 1,
        np.zeros(len(table), np.bool_),
        np.cumsum(sizes),
        list(chosen if ids is None else ids),
        names,
    )


def _lines(path: Path) -> list[str]:
    with explained(str(path)):
        return read_lines(path)


def _yolo_line(where: str, line: str) -> list[float]:
    with contextlib.suppress(ValueError):
        numbers = [float(word) for word in line.split()]
        label = numbers[0] if numbers else math.nan
        if len(numbers) == 5 and all(map(math.isfinite, numbers)) and label == int(label) >= 0 <= min(numbers[3:]):
            return numbers
    raise DataError(f"{where}: expected a class and cx, cy, w and h, got {line.strip()[:60]!r}")


def read_arrays(name: str) -> Annotations:
    """Read the arrays ``boxes`` (N, 4), ``classes`` (N,), ``box_offsets`` (B + 1,) and perhaps ``crowd`` of an .npz."""
    arrays: dict[str, Any] = {}
    with explained(name), np.load(name, allow_pickle=False) as file:
        present = set(file.files)
    for key in ("boxes", "classes", "box_offsets", "crowd"):
        if key in present or key != "crowd":
            with open_array(f"{name}:{key}") as source:
                arrays[key] = source[:]
    boxes, offsets = arrays["boxes"], arrays["box_offsets"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "iuf":
        raise DataError(f"{name}:boxes: expected numbers (N, 4), got dtype {boxes.dtype} of shape {boxes.shape}")
    is_rising = offsets.ndim == 1 and offsets.dtype.kind in "iu" and offsets.size and offsets[0] == 0
    if not (is_rising and offsets[-1] == len(boxes) and (np.diff(offsets.astype(np.int64)) >= 0).all()):
        raise DataError(f"{name}:box_offsets: expected numbers that never fall, from 0 to the {len(boxes)} boxes")
    for key, kinds in (("classes", "iu"), ("crowd", "b")):
        if key in arrays and (arrays[key].shape != boxes.shape[:1] or arrays[key].dtype.kind not in kinds):
            got = f"dtype {arrays[key].dtype} of shape {arrays[key].shape}"
            raise DataError(f"{name}:{key}: expected one for each of {len(boxes)} boxes, got {got}")
    crowd = arrays.get("crowd", np.zeros(len(boxes), np.bool_))
    return Annotations(boxes, arrays["classes"].astype(np.int64), crowd, offsets.astype(np.int64), None, [])
