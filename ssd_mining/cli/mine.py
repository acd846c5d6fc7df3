"""``ssd-mining mine``: mine the losses in a file, block by block."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssd_mining import Mining, MiningResult
from ssd_mining.analysis.exact_sums import Totals
from ssd_mining.checks import refuse, warn
from ssd_mining.cli.labels import labels_of_boxes
from ssd_mining.cli.options import OptionError, mining_of
from ssd_mining.cli.program import command
from ssd_mining.cli.progress import progress
from ssd_mining.cli.rows import Summary, total_rows, worst_rows
from ssd_mining.engine.hazards import hazards_of
from ssd_mining.engine.run import Columns, call_of, empty_mined, joined, sample_losses, sample_table
from ssd_mining.files import output
from ssd_mining.files.blocks import counted_from, memory_beside_chunks
from ssd_mining.files.output import write_csv
from ssd_mining.files.sources import ArraySource, open_array
from ssd_mining.files.text import shown, write_text
from ssd_mining.inputs.batch import check_losses
from ssd_mining.kernels.loss_rules import divisor_of, loss_divisors, normalized_loss
from ssd_mining.kernels.records import NUM_KEPT, NUM_POS
from ssd_mining.mining import mined_result
from ssd_mining.mining_rule import Extras

# What mining takes per anchor at the worst, beside its loss and its labels: two masks, and where every negative is
# kept, its place in the indices and the keys that sort them. What is kept of a sample takes less than one anchor.
MINING_BYTES = 64
_LISTED = "sample", "confidence_loss", "num_pos", "num_kept"
FILES = {"per_sample.csv", "summary.json", "offsets.npy", "anchors.npy", "hard_negative_mask.npy"}


def run(args: argparse.Namespace) -> str:
    """Mine, write the files that are asked for, and return the summary."""
    if args.save and not args.out:
        raise OptionError(f"--save: expected --out DIR beside --save {args.save}, got none")
    with contextlib.ExitStack() as files:
        losses = files.enter_context(open_array(args.losses))
        if args.boxes is None and args.anchors is None:
            labels = files.enter_context(open_array(args.labels))
        else:
            labels = labels_of_boxes(args)
        mining = mining_of(args)
        if losses.ndim != 2:
            hint = f"logits go to `{command('report')}`" if losses.ndim == 3 else ""
            refuse("conf_loss", "(N, A) losses", f"shape {losses.shape}", hint=hint)
        check_losses(losses.outline, labels.outline, mining)
        stamps = losses.stamp(), labels.stamp()
        replaced = FILES if args.overwrite else ()
        folder = files.enter_context(output.atomic_directory(args.out, replaced)) if args.out else None
        with _keeper(folder, args.save, losses.shape[1]) as keep:
            columns, num_empty = _mine_blocks(args, mining, losses, labels, keep)
        losses.check_unchanged(stamps[0])
        labels.check_unchanged(stamps[1])
        is_pos_mask = labels.ndim == 2 and labels.dtype == np.bool_
        summary = _summary(args, labels, mining, columns, None if is_pos_mask else num_empty)
        for hazard in summary.hazards:
            warn(hazard)
        as_json = output.json_text(asdict(summary))
        if folder:
            write_csv(folder / "per_sample.csv", columns)
            write_text(folder / "summary.json", f"{as_json}\n")
    if args.json:
        return as_json
    return _mining_text(summary) + (f"\n\nwritten to {shown(args.out)}" if args.out else "")


@contextlib.contextmanager
def _keeper(folder: Path | None, save: str | None, num_anchors: int) -> Iterator[Callable[[MiningResult], None]]:
    """Yield a function that writes the hard negatives of every block, if they go anywhere."""
    if folder is None:
        yield lambda _: None
    elif save == "masks":
        with output.array_writer(folder / "hard_negative_mask.npy", np.bool_, (num_anchors,)) as append:
            yield lambda mined: append(mined.hard_negative_mask)
    else:
        with (
            output.array_writer(folder / "anchors.npy", np.int64) as append_anchors,
            output.array_writer(folder / "offsets.npy", np.int64) as append_offsets,
        ):
            end = np.zeros(1, np.int64)
            append_offsets(end)

            def keep(mined: MiningResult) -> None:
                offsets, anchors = mined.indices()
                append_anchors(anchors)
                append_offsets(offsets[1:] + end)
                end[0] += offsets[-1]

            yield keep


def mining_bytes(values: ArraySource, labels: ArraySource) -> int:
    """Return the memory that it takes to read and mine a sample."""
    return values.row_bytes + labels.row_bytes + (values.shape[1] + 1) * MINING_BYTES


def _mine_blocks(
    args: argparse.Namespace,
    mining: Mining,
    losses: ArraySource,
    labels: ArraySource,
    keep: Callable[[MiningResult], None],
) -> tuple[Columns, int]:
    """Mine a file block by block; return the columns of its samples, and its all-zero rows that became positives."""
    num_samples, per_sample = len(losses), mining_bytes(losses, labels)
    left = memory_beside_chunks(args.max_memory, per_sample, losses, labels)
    step = max(1, left // per_sample)
    if mining.scope != "sample" and step < num_samples:
        need = args.max_memory + -(left - num_samples * per_sample >> 20)
        expected = f"expected --max-memory {need}, for {mining.scope} takes the whole file at once"
        raise OptionError(f"--scope: {expected}, got {args.max_memory}")
    rng = np.random.default_rng(args.seed)  # one for all blocks: their sizes change no draw
    num_empty, call = 0, call_of("cpu", args.num_threads)

    def mine_block(start: int) -> Columns:  # a function, so that no block outlives it
        block = losses[start : start + step], labels[start : start + step]
        with counted_from(start):
            batch = check_losses(*block, mining, Extras(rng=rng))
            mined = mined_result(batch, call)
        keep(mined)
        nonlocal num_empty
        num_empty += batch.num_empty
        return mined.to_dict()

    with progress(num_samples, "samples") as advance:
        blocks = []
        for start in range(0, max(1, num_samples), step):  # a file without samples is one empty block
            blocks.append(mine_block(start))
            advance(blocks[-1]["num_pos"].size)
    columns = joined(blocks)
    return sample_table(columns, sample_losses(columns["positive_sum"], columns["negative_sum"])), num_empty


def _summary(
    args: argparse.Namespace, labels: ArraySource, mining: Mining, columns: Columns, num_empty: int | None
) -> Summary:
    """Sum up the columns; `num_empty` is None for a pos_mask, about which no hazard is known."""
    losses, num_anchors = columns["confidence_loss"], columns["num_pos"].size * labels.shape[1]
    num_pos, num_neg = int(columns["num_pos"].sum()), int(columns["num_neg"].sum())
    hazards: tuple[str, ...] = ()
    if num_empty is not None:
        hazards = hazards_of(
            mining.background,
            num_samples=losses.size,
            num_anchors=num_anchors,
            num_pos=num_pos,
            num_neg=num_neg,
            num_empty=num_empty,
            is_whole=True,
        )
    worst = np.argsort(np.where(np.isnan(losses), -np.inf, -losses), kind="stable")[: args.top]
    return Summary(
        losses=args.losses,
        labels=labels.name,
        num_samples=losses.size,
        num_without_pos=int((columns["num_pos"] == 0).sum()),
        num_anchors=num_anchors,
        num_pos=num_pos,
        num_neg=num_neg,
        num_kept=int(columns["num_kept"].sum()),
        positive_sum=_total(columns["positive_sum"]),
        negative_sum=_total(columns["negative_sum"]),
        loss_sum=_total(losses),
        loss=_loss(columns, args.normalize, num_anchors),
        normalize=args.normalize,
        top_samples={name: columns[name][worst].tolist() for name in _LISTED},
        mining=mining,
        hazards=hazards,
    )


def _total(values: NDArray[np.float64]) -> float:
    """Return the sum of values, rounded once."""
    totals = Totals()
    totals.add(values)
    return totals.sum_of()


def _loss(columns: Columns, normalize: str, num_anchors: int) -> float:
    """Return the loss that `confidence_loss` gives, of samples that were mined in blocks."""
    losses = columns["confidence_loss"]
    counts = empty_mined(losses.size, 0).counts
    counts[NUM_POS], counts[NUM_KEPT] = columns["num_pos"], columns["num_kept"]
    by = divisor_of(normalize, "clamp", losses.size, num_anchors)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN
        return normalized_loss(losses, loss_divisors(counts, by))


def _mining_text(summary: Summary) -> str:
    is_mean = summary.normalize == "batch"
    lines = total_rows(summary, "mean of the samples" if is_mean else f"normalize={summary.normalize}")
    worst = zip(*summary.top_samples.values(), strict=True)
    return "\n".join([*lines, *worst_rows("largest losses, nats", worst)])
