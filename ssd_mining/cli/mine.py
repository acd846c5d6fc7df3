"""``ssd-mining mine``: mine the losses in a file, block by block."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ssd_mining.cli.options import (
    NORMALIZE,
    CommandError,
    add_selection,
    as_json,
    at_least,
    in_users_words,
    mining_bytes,
    mining_of,
    say,
)
from ssd_mining.cli.progress import progress

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ssd_mining import Mining, MiningResult
    from ssd_mining.cli.files import ArraySource

    Columns = dict[str, NDArray[Any]]  # per sample, of equal length


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.usage = "%(prog)s LOSSES LABELS [options]"
    parser.description = "Keep the hardest negatives of every sample, and sum up the losses."
    option = parser.add_argument
    option("losses", metavar="LOSSES", help="(N, A) losses in nats: file.npy, or file.npz:key")
    option(
        "labels", metavar="LABELS", help="(N, A) class numbers or bools, true where positive; or (N, A, C) one-hot"
    )

    option = add_selection(parser)
    scopes = ("sample", "batch", "batch_of_sample_quotas", "smallest_sample_quota")
    option("--scope", choices=scopes, help="what shares a quota; all but sample need the whole file (default sample)")
    option("--pool-size", metavar="X", type=float, help="draw from a pool X times as large as the quota (default 1)")
    option("--seed", metavar="N", type=at_least(0), default=0, help="seed of these draws (default %(default)s)")
    option = parser.add_argument_group("how it is computed").add_argument
    option("--normalize", choices=NORMALIZE, default="batch", help="divisor of the batch loss (default batch)")
    option("--num-threads", metavar="N", type=at_least(1), help="threads to use (default all)")
    memory = "data to hold at a time, unless one sample is more (default %(default)s)"
    option("--max-memory", metavar="MIB", type=at_least(1), default=256, help=memory)

    option = parser.add_argument_group("what is shown and written").add_argument
    option("--top", metavar="N", type=at_least(0), default=5, help="worst samples to list (default %(default)s)")
    option("--json", action="store_true", help="print the summary as JSON instead of a table")
    option("--out", metavar="DIR", help="new directory for per_sample.csv, summary.json and what --save says")
    saved = "hard negatives as offsets.npy and anchors.npy, or as hard_negative_mask.npy (default indices)"
    option("--save", choices=("indices", "masks"), help=saved)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Mine, print the summary, and write what is asked for."""
    from ssd_mining.cli import files as io
    from ssd_mining.inputs.batch import check_losses
    from ssd_mining.report import output

    if args.save and not args.out:
        raise CommandError(2, f"--save: expected --out DIR beside --save {args.save}, got none")
    with contextlib.ExitStack() as files:
        mining = mining_of(args, _files(args))
        losses, labels = (files.enter_context(io.open_array(name)) for name in (args.losses, args.labels))
        with in_users_words(args, _files(args)):
            check_losses(losses.outline, labels.outline, mining)
        folder = files.enter_context(output.atomic_directory(args.out)) if args.out else None
        with _keeper(folder, args.save, losses.shape[1]) as keep:
            columns = _mine_blocks(args, mining, (losses, labels), keep)
        summary = _summary(args, mining, columns, losses.shape[1])
        if folder:
            output.write_csv(folder / "per_sample.csv", columns)
            (folder / "summary.json").write_text(as_json(summary) + "\n", encoding="utf-8")
    say(as_json(summary) if args.json else _table(summary))
    if args.out and not args.json:
        say(f"\nwritten to {args.out}")


def _files(args: argparse.Namespace) -> dict[str, str]:
    return {"conf_loss": args.losses, "labels": args.labels}


@contextlib.contextmanager
def _keeper(folder: "Path | None", save: str | None, num_anchors: int) -> Iterator[Callable[["MiningResult"], None]]:
    """Yield what is done with the result of every block: its hard negatives are written, if anywhere."""
    import numpy as np

    from ssd_mining.report.output import array_writer

    if folder is None:
        yield lambda _: None
    elif save == "masks":
        with array_writer(folder / "hard_negative_mask.npy", np.bool_, (num_anchors,)) as append:
            yield lambda mined: append(mined.hard_negative_mask)
    else:
        with (
            array_writer(folder / "anchors.npy", np.int64) as append_anchors,
            array_writer(folder / "offsets.npy", np.int64) as append_offsets,
        ):
            end = np.zeros(1, np.int64)
            append_offsets(end)

            def keep(mined: "MiningResult") -> None:
                offsets, anchors = mined.indices()
                append_anchors(anchors)
                append_offsets(offsets[1:] + end)
                end[0] += offsets[-1]

            yield keep


def _mine_blocks(
    args: argparse.Namespace,
    mining: "Mining",
    sources: tuple["ArraySource", "ArraySource"],
    keep: Callable[["MiningResult"], None],
) -> "Columns":
    """Mine a file block by block; return what is said of each of its samples."""
    import numpy as np

    from ssd_mining import mine_hard_negatives

    num_samples, per_sample = len(sources[0]), mining_bytes(*sources)
    step = max(1, (args.max_memory << 20) // per_sample)
    if mining.scope != "sample" and step < num_samples:
        need = -(-num_samples * per_sample >> 20)
        expected = f"expected --max-memory {need}, for {mining.scope} takes the whole file at once"
        raise CommandError(2, f"--scope: {expected}, got {args.max_memory}")
    rng = np.random.default_rng(args.seed)  # one for all blocks: their sizes change no draw

    def mine_block(start: int) -> "Columns":  # a function, so that no block outlives it
        losses, labels = (source[start : start + step] for source in sources)
        with in_users_words(args, _files(args), start):
            mined = mine_hard_negatives(losses, labels, mining=mining, num_threads=args.num_threads, rng=rng)
        keep(mined)
        return mined.to_dict()

    with progress(num_samples, "samples") as advance:
        blocks = []
        for start in range(0, max(1, num_samples), step):  # of no samples, an empty one
            blocks.append(mine_block(start))
            advance(blocks[-1]["num_pos"].size)
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, as in confidence_loss
        columns["confidence_loss"] = columns["positive_sum"] + columns["negative_sum"]
    columns["threshold"] = columns.pop("threshold")  # last
    return {"sample": np.arange(num_samples), **columns}


def _summary(args: argparse.Namespace, mining: "Mining", columns: "Columns", num_anchors: int) -> dict[str, Any]:
    from dataclasses import asdict

    import numpy as np

    from ssd_mining.losses import loss_divisors, normalized_loss

    losses, num_pos, num_kept = columns["confidence_loss"], columns["num_pos"], columns["num_kept"]
    counts = num_pos, num_kept, losses.size * num_anchors
    with np.errstate(invalid="ignore", over="ignore"):  # as in confidence_loss
        mean, batch = (
            normalized_loss(losses, loss_divisors(*counts, normalize=normalize))
            for normalize in ("batch", args.normalize)
        )
    worst = np.argsort(np.where(np.isnan(losses), -np.inf, -losses), kind="stable")[: args.top]
    shown = ("sample", "confidence_loss", "num_pos", "num_kept")
    num_positives, num_negatives = int(num_pos.sum()), int(columns["num_neg"].sum())
    return {
        "losses": args.losses,
        "labels": args.labels,
        "samples": losses.size,
        "samples_without_positives": int((num_pos == 0).sum()),
        "anchors_per_sample": num_anchors,
        "positives": num_positives,
        "negatives": num_negatives,
        "ignored": losses.size * num_anchors - num_positives - num_negatives,
        "kept_negatives": int(num_kept.sum()),
        "mean_confidence_loss": mean,
        "batch_loss": batch,
        "normalize": args.normalize,
        "worst_samples": [{name: columns[name][sample].item() for name in shown} for sample in worst],
        "mining": asdict(mining),
    }


def _table(summary: dict[str, Any]) -> str:
    anchors = max(1, summary["samples"] * summary["anchors_per_sample"])
    lines = []
    for name in ("samples", "samples_without_positives", "anchors_per_sample"):
        lines += [f"{name.replace('_', ' '):26}{summary[name]:>14,}"]
    for name in ("positives", "negatives", "ignored", "kept_negatives"):
        lines += [f"{name.replace('_', ' '):26}{summary[name]:>14,}{summary[name] / anchors:>10.2%}"]
    lines += [
        f"{'mean confidence loss':26}{summary['mean_confidence_loss']:>14,.7g}  nats per sample",
        f"{'batch loss':26}{summary['batch_loss']:>14,.7g}  nats, normalize={summary['normalize']}",
    ]
    if summary["worst_samples"]:
        lines += ["", f"{'worst samples':>13}{'confidence loss':>18}{'positives':>12}{'kept negatives':>17}"]
    for sample, loss, num_pos, num_kept in (row.values() for row in summary["worst_samples"]):
        lines += [f"{sample:>13}{loss:>18,.4f}{num_pos:>12,}{num_kept:>17,}"]
    return "\n".join(lines)
