"""``ssd-mining match``: from boxes in a file to the labels of the anchors."""

import argparse
import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining import Matching, MatchResult
from ssd_mining.cli.labels import MATCHING_BYTES, MatchedLabels, matched_labels
from ssd_mining.cli.progress import progress
from ssd_mining.files import output
from ssd_mining.files.annotations import Annotations
from ssd_mining.files.text import fitted, shown, write_text

FILES = {"labels.npy", "matched.npy", "overlaps.npy", "ids.txt", "class_names.txt"}
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# The sizes of objects: the square root of the area, as a share of the side of the image.
SIZES = {"below 1/16": 1 / 16, "1/16 to 1/8": 1 / 8, "1/8 to 1/4": 1 / 4, "1/4 to 1/2": 1 / 2, "1/2 and more": np.inf}


@dataclass(frozen=True)
class SizeRow:
    """The objects of a size: how many have no anchor, one, two to four, more; and quantiles of their best overlaps."""

    size: str
    objects: int
    none: int
    one: int
    two_to_four: int
    more: int
    best_iou: list[float]  # at `QUANTILES`


@dataclass(frozen=True)
class Unmatched:
    """An object without an anchor."""

    sample: str
    number: int  # in its sample
    label: int
    box: list[float]
    best_iou: float


@dataclass(frozen=True)
class Summary:
    """What ``match`` says."""

    boxes: str
    anchors: str
    matching: Matching
    samples: int
    samples_without_objects: int
    anchors_per_sample: int
    objects: int
    crowds: int
    positives: int
    ignored: int
    background: int
    quantiles: tuple[float, ...]
    by_size: list[SizeRow]
    num_unmatched: int
    unmatched: list[Unmatched]
    class_names: list[str]


@dataclass(frozen=True)
class Found:
    """What is known of the objects, when all samples are matched."""

    num_anchors_of: NDArray[np.int64]
    best_iou: NDArray[np.float64]
    positives: int
    ignored: int


def run(args: argparse.Namespace) -> str:
    """Match, write the files that are asked for, and return the summary."""
    if args.out and args.out.endswith(".npy") and Path(args.out).exists() and not args.overwrite:
        msg = f"{args.out}: expected a new name, got one that is in use"
        raise FileExistsError(msg)
    source = matched_labels(args)
    with _keeper(args.out, FILES if args.overwrite else (), source) as keep:
        found = _matched(args, source, keep)
    summary = _summary(args, source, found)
    if args.json:
        return output.json_text(asdict(summary))
    return _matching_text(summary) + (f"\n\nwritten to {shown(args.out)}" if args.out else "")


@contextlib.contextmanager
def _keeper(
    out: str | None, replaced: Collection[str], source: MatchedLabels
) -> Iterator[Callable[[MatchResult], None]]:
    """Yield a function that writes a block of results: labels to a file, or all of them to a new directory."""
    width = source.shape[1:]
    if out is None:
        yield lambda _: None
    elif out.endswith(".npy"):
        with output.atomic_file(Path(out)) as partial, output.array_writer(partial, source.dtype, width) as append:
            yield lambda result: append(result.labels.astype(source.dtype))
    else:
        with output.atomic_directory(out, replaced) as folder:
            with (
                output.array_writer(folder / "labels.npy", source.dtype, width) as append_labels,
                output.array_writer(folder / "matched.npy", np.int32, width) as append_matched,
                output.array_writer(folder / "overlaps.npy", np.float32, width) as append_overlaps,
            ):

                def keep(result: MatchResult) -> None:
                    append_labels(result.labels.astype(source.dtype))
                    append_matched(result.matched.astype(np.int32))
                    append_overlaps(result.overlaps)

                yield keep
            for name, lines in (("class_names", source.objects.class_names), ("ids", source.objects.ids)):
                if lines is not None and len(lines):
                    write_text(folder / f"{name}.txt", "".join(f"{line}\n" for line in lines))


def _matched(args: argparse.Namespace, source: MatchedLabels, keep: Callable[[MatchResult], None]) -> Found:
    """Match all samples, block by block."""
    step = max(1, (args.max_memory << 20) // max(1, source.shape[1] * MATCHING_BYTES))
    blocks, counts = [], np.zeros(2, np.int64)
    with progress(len(source), "samples") as advance:
        for start in range(0, max(1, len(source)), step):  # without samples, there is one empty block
            result = source.match(start, min(start + step, len(source)))
            keep(result)
            counts += (result.matched >= 0).sum(), (result.matched == -2).sum()
            blocks.append((result.num_anchors_of, result.best_iou))
            advance(result.labels.shape[0])
    num_anchors_of, best_iou = (np.concatenate(columns) for columns in zip(*blocks, strict=True))
    return Found(num_anchors_of, best_iou, *counts.tolist())


def _summary(args: argparse.Namespace, source: MatchedLabels, found: Found) -> Summary:
    objects, (samples, anchors) = source.objects, source.shape
    sides = np.sqrt(np.prod(objects.boxes[:, 2:] - objects.boxes[:, :2], axis=1))
    counted, by_size, low = ~objects.crowd, [], 0.0
    for name, high in SIZES.items():
        by_size.append(_size_row(name, found, counted & (low <= sides) & (sides < high)))
        low = high
    missed = np.flatnonzero(counted & (found.num_anchors_of == 0))
    return Summary(
        boxes=args.boxes,
        anchors=args.anchors,
        matching=source.matching,
        samples=samples,
        samples_without_objects=int((np.diff(objects.offsets) == 0).sum()),
        anchors_per_sample=anchors,
        objects=int(counted.sum()),
        crowds=int(objects.crowd.sum()),
        positives=found.positives,
        ignored=found.ignored,
        background=samples * anchors - found.positives - found.ignored,
        quantiles=QUANTILES,
        by_size=[*by_size, _size_row("all", found, counted)],
        num_unmatched=missed.size,
        unmatched=[_unmatched(objects, found, box) for box in missed[: args.top].tolist()],
        class_names=objects.class_names,
    )


def _size_row(name: str, found: Found, chosen: NDArray[np.bool_]) -> SizeRow:
    counts, best = found.num_anchors_of[chosen], found.best_iou[chosen]
    one, few = int((counts == 1).sum()), int(((counts >= 2) & (counts <= 4)).sum())
    none, more = int((counts == 0).sum()), int((counts >= 5).sum())
    quantiles = np.quantile(best, QUANTILES).tolist() if best.size else []
    return SizeRow(name, counts.size, none, one, few, more, quantiles)


def _unmatched(objects: Annotations, found: Found, box: int) -> Unmatched:
    sample = int(np.searchsorted(objects.offsets, box, "right")) - 1
    named: Any = sample if objects.ids is None else objects.ids[sample]
    number = box - int(objects.offsets[sample])
    return Unmatched(
        str(named), number, int(objects.classes[box]), objects.boxes[box].tolist(), float(found.best_iou[box])
    )


def _matching_text(summary: Summary) -> str:
    lines, anchors = [], max(1, summary.samples * summary.anchors_per_sample)
    for name in ("samples", "samples_without_objects", "anchors_per_sample", "objects", "crowds"):
        lines += [f"{name.replace('_', ' '):26}{getattr(summary, name):>14,}"]
    for name in ("positives", "ignored", "background"):
        count = getattr(summary, name)
        lines += [f"{name:26}{count:>14,}{count / anchors:>10.2%}"]
    titles = "".join(f"{f'{share:.0%}':>7}" for share in summary.quantiles)
    by_anchors = f"{'by anchors: 0':>15}{'1':>8}{'2-4':>8}{'5+':>8}"
    lines += ["", f"{'side of the object':18}{'objects':>9}{by_anchors}{'best IoU,':>11}{titles}"]
    for row in summary.by_size:
        numbers = f"{row.none:>15,}{row.one:>8,}{row.two_to_four:>8,}{row.more:>8,}"
        overlaps = "".join(f"{overlap:>7.2f}" for overlap in row.best_iou)
        lines += [f"{row.size:18}{row.objects:>9,}{numbers}{'':>11}{overlaps}"]
    if summary.unmatched:
        lines += ["", f"{summary.num_unmatched:,} objects without an anchor"]
        lines += [f"{'sample':>24}{'object':>8}{'class':>7}{'best IoU':>10}   x1, y1, x2, y2"]
    for missed in summary.unmatched:
        corners = ", ".join(f"{corner:.4g}" for corner in missed.box)
        place = f"{fitted(missed.sample, 24):>24}{missed.number:>8}{missed.label:>7}"
        lines += [f"{place}{missed.best_iou:>10.3f}   {corners}"]
    return "\n".join(lines)
