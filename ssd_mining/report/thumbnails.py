"""Small pictures of the samples to look at first, with boxes drawn on them, to stand in a page."""

import base64
import contextlib
import glob
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_mining.analysis.result import AnalysisResult, TopSamples
from ssd_mining.files.text import shown

FIRST_SAMPLES = 20  # so many of each cause are listed and drawn
SIDE = 360  # the longer side, in pixels: 60 pictures of a page take about 1 MB
_QUALITY = 70
# Seen on any picture: a line of colour in a wider one of white.
COLOURS = {"labelled": "#1676c9", "worst": "#d6006c", "misplaced": "#7a3cc2", "alarm": "#e8590c"}


class Mark(NamedTuple):
    """A box to draw: its corners in shares of the image, what it is, and what is written at it."""

    corners: NDArray[Any]  # (4,) x1, y1, x2, y2
    kind: str  # of `COLOURS`
    text: str = ""


class Thumbnail(NamedTuple):
    """A picture that holds all of its bytes, or why there is none."""

    name: str
    uri: str
    alt: str
    note: str


Size = tuple[int, int]  # width, height, in pixels
ORIENTATION = 0x0112  # of EXIF; above 4, width and height are exchanged


class Images(NamedTuple):
    """Where the images of the samples are, and what can be drawn on them."""

    folder: Path
    boxes: Mapping[int, NDArray[Any]]  # (n, 4) the labelled boxes of a sample, by its number
    anchors: NDArray[Any] | None  # (A, 4)
    in_pixels: bool  # boxes and anchors are in pixels of the images, and not in shares of them
    sizes: Mapping[int, Size]  # of the images, by sample, as far as they are known without looking
    files: Mapping[int, str]  # of samples that are not called as their images

    def name_of(self, sample: int, name: object) -> str:
        """Return what the image of a sample is called; `name`: what the sample is called."""
        return self.files.get(sample) or str(name)

    def size_of(self, sample: int, name: object) -> Size | None:
        """Return the size of an image; None if nobody knows it."""
        from PIL import Image

        with contextlib.suppress(*_unreadable()), Image.open(_path(self.folder, self.name_of(sample, name))) as file:
            turned = file.getexif().get(ORIENTATION, 1) > 4
            return (file.height, file.width) if turned else (file.width, file.height)
        return self.sizes.get(sample)


def gallery(
    worst: TopSamples, result: AnalysisResult, images: Images, name_of: Callable[[int], str]
) -> list[Thumbnail]:
    """Draw some samples, with the boxes that are labelled, recognised least, placed worst, and missing."""
    drawn = []
    for sample, name in zip(worst.sample[:FIRST_SAMPLES].tolist(), worst.id[:FIRST_SAMPLES].tolist(), strict=True):
        boxes = images.boxes.get(sample, np.empty((0, 4)))
        marks = [Mark(corners, "labelled") for corners in boxes]
        for kind, objects in (("worst", result.top_objects), ("misplaced", result.top_boxes)):
            for row in np.flatnonzero(objects.sample == sample).tolist():
                number, anchor = int(objects.object[row]), int(objects.anchor[row])
                text = f"{name_of(int(objects.label[row]))} {objects.loss[row]:.2f}"
                if 0 <= number < len(boxes):
                    marks.append(Mark(boxes[number], kind, text))
                elif images.anchors is not None:
                    marks.append(Mark(images.anchors[anchor], kind, text))
        alarms = result.top_false_alarms
        for row in np.flatnonzero(alarms.sample == sample).tolist() if images.anchors is not None else ():
            text = f"{name_of(int(alarms.label[row]))} {alarms.probability[row]:.2f}"
            marks.append(Mark(images.anchors[alarms.anchor[row]], "alarm", text))  # type: ignore[index]
        size = images.sizes.get(sample, (SIDE, SIDE))
        drawn.append(
            thumbnail(images.name_of(sample, name), images.folder, marks, in_pixels=images.in_pixels, size=size)
        )
    return drawn


def thumbnail(
    name: str, folder: Path, marks: Sequence[Mark], *, in_pixels: bool = False, size: Size = (SIDE, SIDE)
) -> Thumbnail:
    """Draw boxes on an image of a folder; if it is missing or broken, on an empty canvas of this size, and say so."""
    from PIL import Image, ImageDraw

    note = ""
    try:
        image, size = _opened(_path(folder, name))
    except _unreadable() as error:
        width, height = (max(1, side * SIDE // max(size)) for side in size)
        image = Image.new("RGB", (width, height), "#808890")
        note = "not found" if isinstance(error, FileNotFoundError) else f"not readable: {error}"
    scale = np.array(image.size * 2) / (np.array(size * 2) if in_pixels else 1)
    draw = ImageDraw.Draw(image)
    for mark in marks:
        corners = np.clip(np.asarray(mark.corners, np.float64) * scale, -4, np.array(image.size * 2) + 4)
        box = [float(x) for x in corners]
        draw.rectangle(box, outline="white", width=4)
        draw.rectangle(box, outline=COLOURS[mark.kind], width=2)
    for mark in marks:
        if mark.text:
            x, y = (float(v) for v in np.clip(np.asarray(mark.corners)[:2] * scale[:2], 0, np.array(image.size) - 12))
            left, top, right, bottom = draw.textbbox((x + 2, y + 1), mark.text)
            draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=COLOURS[mark.kind])
            draw.text((x + 2, y + 1), mark.text, fill="white")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return Thumbnail(name, uri, _described(name, marks), f"{shown(name)}: {note}" if note else "")


def _unreadable() -> tuple[type[Exception], ...]:
    """Return what Pillow raises of files that it cannot read."""
    from PIL import Image

    return OSError, ValueError, SyntaxError, Image.DecompressionBombError


def _path(folder: Path, name: str) -> Path:
    """Return the file of a sample, whose name may lack the ending, as those of YOLO do."""
    path = folder / name
    if path.exists() or path.suffix:
        return path
    return next(iter(sorted(path.parent.glob(f"{glob.escape(path.name)}.*"))), path)


def _opened(path: Path) -> tuple[Any, tuple[int, int]]:
    """Return an image as people see it, small and in colours, and its whole size."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        size = image.size
        if image.mode.startswith(("I", "F")):  # of 16 bits or more: from the darkest to the lightest
            values = np.asarray(image, np.float64)
            span = np.ptp(values) or 1.0
            image = Image.fromarray(((values - values.min()) / span * 255).astype(np.uint8))
        image.thumbnail((SIDE, SIDE))
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return image.convert("RGB"), size


def _described(name: str, marks: Sequence[Mark]) -> str:
    """Say what is seen, for people who do not see it."""
    counts = {kind: sum(mark.kind == kind for mark in marks) for kind in COLOURS}
    words = {
        "labelled": ("labelled box", "es"),
        "worst": ("unrecognised object", "s"),
        "misplaced": ("misplaced box", "es"),
        "alarm": ("false alarm", "s"),
    }
    told = [f"{count} {words[kind][0]}{words[kind][1] * (count > 1)}" for kind, count in counts.items() if count]
    texts = [mark.text for mark in marks if mark.text]
    return f"{shown(name)} with {', '.join(told) or 'no boxes'}" + (f": {', '.join(texts)}" if texts else "")
