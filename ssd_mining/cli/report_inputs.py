"""The files that ``report`` reads, opened and checked before the first of their values is."""

import argparse
import contextlib
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ssd_mining import LossAnalysis, Sigmoid, Softmax
from ssd_mining.cli.files import ArraySource, open_array, read_class_names, read_ids, stamp
from ssd_mining.cli.options import CommandError, in_users_words, mining_of, versions
from ssd_mining.engine.threads import most_threads
from ssd_mining.inputs.batch import BLOCK_ELEMENTS, SHORTEST_ROW

# What an analysis takes per anchor at the worst, where all are selected, beside the blocks that are read.
ANALYSIS_BYTES = 40
WORKER_MIB = 32  # of the memory that may be used, for every thread: one that has less does not pay
MOST_BYTES = 32 << 20  # of a block: what is larger leaves the caches of the processor
BLOCKS_HELD = 3  # beside those that are analysed: one is read, one waits, one is about to be freed

_CLASSIFICATIONS = {"softmax": Softmax, "sigmoid": Sigmoid}
_FILES = ("values", "labels", "ids", "class_names")


@dataclass(frozen=True)
class Inputs:
    """The files of a run, opened, and what was asked for."""

    values: ArraySource  # (N, A) losses or (N, A, C) logits
    labels: ArraySource
    ids: NDArray[Any] | None  # (N,)
    settings: dict[str, Any]  # of `LossAnalysis`
    num_workers: int  # how many blocks are analysed at a time, each by one thread
    users_words: dict[str, str]  # what the user calls the arguments of the library
    run: dict[str, Any]  # what was asked for, as JSON can hold it
    stamps: list[Any]  # where the files are, their sizes and times

    @property
    def row_bytes(self) -> int:
        """What a sample takes in the files."""
        return sum(source.outline[:1].nbytes for source in (self.values, self.labels))

    def block_rows(self, max_memory: int) -> int:
        """Return how many samples to read at a time, as MiB allow it; whole chunks of the files, if that can be.

        An analysis works on `BLOCK_ELEMENTS` anchors at a time: what is read is as much, or a multiple of it.
        """
        num_anchors, memory = self.values.shape[1], max_memory << 20
        inner = max(1, BLOCK_ELEMENTS // max(num_anchors, SHORTEST_ROW))
        held = BLOCKS_HELD + self.num_workers
        read, worked_on = held * self.row_bytes, self.num_workers * (num_anchors + 1) * ANALYSIS_BYTES
        if memory >= inner * (read + worked_on):
            most = min(memory - inner * worked_on, held * MOST_BYTES) // max(1, read)
            step = max(1, most // inner) * inner
        else:
            step = max(1, memory // (read + worked_on))
        chunk = max(source.chunks[0] if source.chunks else 1 for source in (self.values, self.labels))
        return step - step % chunk if step >= chunk else step


def opened(args: argparse.Namespace, files: contextlib.ExitStack) -> Inputs:
    """Open and check everything that can be checked without a pass over the data."""
    users_words = {"conf_loss": args.values, "logits": args.values, "labels": args.labels, "ratios": "--ratio-sweep"}
    mining = mining_of(args, users_words)
    values, labels = (files.enter_context(open_array(name)) for name in (args.values, args.labels))
    _check_shapes(args, values, labels)
    ids = None if args.ids is None else read_ids(args.ids, len(values))
    class_names = [] if args.class_names is None else read_class_names(args.class_names)
    if class_names and values.ndim == 3 and len(class_names) != values.shape[2]:
        expected = f"a name for each of {values.shape[2]} classes"
        raise CommandError(3, f"{args.class_names}: expected {expected}, got {len(class_names)}")
    settings = {"mining": mining, **_settings(args, values)}
    with in_users_words(args, users_words):
        analysis = LossAnalysis(**settings)
        analysis.update(values.outline[:0], labels.outline[:0])
    run = {
        "version": versions()["ssd_mining"],
        "arguments": _arguments(args, values, labels),
        "spec": analysis.spec.to_dict(),
        "class_names": class_names,
    }
    num_workers = max(1, min(most_threads(args.num_threads), args.max_memory // WORKER_MIB))
    stamps = [stamp(name) for name in (args.values, args.labels, args.ids) if name]
    return Inputs(values, labels, ids, settings, num_workers, users_words, run, stamps)


def _check_shapes(args: argparse.Namespace, values: ArraySource, labels: ArraySource) -> None:
    if values.ndim not in (2, 3):
        raise CommandError(3, f"{args.values}: expected (N, A) losses or (N, A, C) logits, got shape {values.shape}")
    if values.ndim == 2 and args.classification:
        raise CommandError(2, f"--classification: expected none beside losses, got {args.classification}")
    if len(labels) != len(values):
        expected = f"labels of the {len(values):,} samples of {args.values}"
        raise CommandError(3, f"{args.labels}: expected {expected}, got those of {len(labels):,}")


def _settings(args: argparse.Namespace, values: ArraySource) -> dict[str, Any]:
    return {
        "ratios": args.ratio_sweep,
        "levels": args.levels,
        "top": args.top,
        "classification": _CLASSIFICATIONS[args.classification or "softmax"]() if values.ndim == 3 else None,
        "num_threads": 1,
    }


def _arguments(args: argparse.Namespace, values: ArraySource, labels: ArraySource) -> dict[str, Any]:
    arguments: dict[str, Any] = {name: getattr(args, name) for name in _FILES}
    for name, source in (("values", values), ("labels", labels)):
        arguments |= {f"{name}_shape": list(source.shape), f"{name}_dtype": source.dtype.str}
    return arguments
