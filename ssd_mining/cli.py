"""The command line: ``ssd-mining demo``, ``mine`` and ``warmup``.

The result goes to stdout, an error to stderr in one line. NumPy and Numba are imported inside the functions that
use them, so that ``--help`` is quick.
"""

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ssd_mining import Mining, MiningResult
    from ssd_mining.io import ArraySource

    Columns = dict[str, NDArray[Any]]  # per sample, of equal length

# What mining takes per anchor at the worst, beside its loss and its labels: two masks, and where every negative is
# kept, its place in the indices and what sorts them; a sample's counts and sums are less than one anchor more.
MINING_BYTES = 64

NORMALIZE = (
    "none",
    "batch",
    "anchors",
    "positives",
    "sample_positives",
    "clamped_sample_positives",
    "selected",
    "sample_selected",
)

EXAMPLES = """\
examples:
  ssd-mining demo
      write synthetic data and mine it
  ssd-mining mine losses.npy labels.npy --background 0
      mine losses (N, A) by class numbers (N, A), of which 0 is background
  ssd-mining mine run.npz:losses run.npz:one_hot --out mined
      mine by one-hot labels (N, A, C), the last class background, and keep the hard negatives
"""


class CommandError(Exception):
    """A command that fails with an exit code of its own."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        The words after ``ssd-mining``; those of this process unless given.

    Returns
    -------
    int
        The exit code: 0 fine, 2 usage, 3 bad data or output that cannot be written, 130 interrupted.

    Raises
    ------
    SystemExit
        From argparse: with code 0 after ``--help`` and ``--version``, with code 2 for words it does not know.
    """
    args = _parser().parse_args(argv)
    try:
        from ssd_mining.io import DataError

        args.run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        return 0
    except CommandError as error:
        return _failed(error.code, error)
    except FileExistsError as error:
        return _failed(2, f"{error}; name another with --out")
    except (DataError, MemoryError) as error:
        return _failed(3, error)
    except OSError as error:
        return _failed(3, f"{args.out}: expected a place to write to, got {error.strerror or error}")
    return 0


def _failed(code: int, message: object) -> int:
    print("ssd-mining: error:", " ".join(str(message).split()), file=sys.stderr)
    return code


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as error:
        # Python would write the rest again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise CommandError(3, f"stdout: expected a place to write to, got {error.strerror}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssd-mining",
        description="SSD hard-negative mining and the confidence loss, for losses in NumPy files.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_demo(commands.add_parser("demo", help="write a synthetic data set and mine it"))
    _add_mine(commands.add_parser("mine", help="mine the losses in a file"))
    commands.add_parser("warmup", help="compile the kernels ahead").set_defaults(run=_warmup, out="the cache")
    return parser


class _Version(argparse.Action):
    """Like argparse's own, but the version is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import ssd_mining

        print(parser.prog, ssd_mining.__version__)
        parser.exit()


def _at_least(lowest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            msg = f"expected a whole number of at least {lowest}, got {text!r}"
            raise argparse.ArgumentTypeError(msg)
        return int(text)

    return parse


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write synthetic losses and labels with the geometry of SSD300, then mine them."
    add = parser.add_argument
    add("--out", metavar="DIR", default="ssd-mining-demo", help="a new directory (default %(default)s)")
    add("--samples", metavar="N", type=_at_least(1), default=64, help="how many (default %(default)s)")
    add("--seed", metavar="N", type=_at_least(0), default=0, help="seed of the data (default %(default)s)")
    parser.set_defaults(run=_demo)


def _add_mine(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s LOSSES LABELS [options]"
    parser.description = "Keep the hardest negatives of every sample, and sum up the losses."
    add = parser.add_argument
    add("losses", metavar="LOSSES", help="(N, A) losses in nats: file.npy, or file.npz:key")
    add("labels", metavar="LABELS", help="(N, A) class numbers or bools, true where positive; or (N, A, C) one-hot")

    add = parser.add_argument_group("which negatives are kept").add_argument
    add("--background", metavar="C", type=int, help="background class; class numbers need it (one-hot: the last)")
    add("--neg-pos-ratio", metavar="R", type=float, help="negatives kept per positive (default 3)")
    add("--min-negatives", metavar="N", type=int, help="keep at least so many per sample (default 0)")
    when = ("always", "no_positives")
    add("--min-negatives-when", choices=when, help="for which samples that minimum holds (default always)")
    add("--max-negatives", metavar="N", type=int, help="keep at most so many per sample (default no limit)")
    add("--ignore-index", metavar="C", type=int, help="label of anchors to ignore (default none)")
    policies = ("raise", "propagate", "omit")
    add("--nan-policy", choices=policies, help="NaN is an error, ranks hardest, or is ignored (default raise)")
    rows = ("positive", "ignore", "raise")
    add("--all-zero", choices=rows, help="what an all-zero one-hot row means (default positive)")

    add = parser.add_argument_group("how it is computed").add_argument
    add("--normalize", choices=NORMALIZE, default="batch", help="divisor of the batch loss (default batch)")
    add("--num-threads", metavar="N", type=int, help="threads to use (default all)")
    memory = "data to hold at a time, unless one sample is more (default %(default)s)"
    add("--max-memory", metavar="MIB", type=_at_least(1), default=256, help=memory)

    add = parser.add_argument_group("what is shown and written").add_argument
    add("--top", metavar="N", type=_at_least(0), default=5, help="worst samples to list (default %(default)s)")
    add("--json", action="store_true", help="print the summary as JSON instead of a table")
    add("--out", metavar="DIR", help="new directory for per_sample.csv, summary.json and what --save says")
    saved = "hard negatives as offsets.npy and anchors.npy, or as hard_negative_mask.npy (default indices)"
    add("--save", choices=("indices", "masks"), help=saved)
    parser.set_defaults(run=_mine)


def _demo(args: argparse.Namespace) -> None:
    import shlex
    from pathlib import Path

    from ssd_mining import io, synthetic

    out = Path(args.out)
    words = ["mine", str(out / "losses.npy"), str(out / "labels.npy"), "--background", "0"]
    command = shlex.join(["ssd-mining", *words])
    with io.atomic_directory(out) as folder:
        _write_demo(folder, args.samples, args.seed)
        readme = synthetic.README.format(samples=args.samples, seed=args.seed)
        (folder / "README.txt").write_text(readme, encoding="utf-8")
    _say(f"Synthetic data (seed {args.seed}), which no detector ever saw, written to {args.out}. Mined, it gives:\n")
    mine = _parser().parse_args(words)
    mine.run(mine)
    keep = shlex.join(["--out", str(out / "mined")])
    _say(f"\nMine it yourself, and keep the hard negatives:\n\n  {command} {keep}")


def _write_demo(folder: "Path", num_samples: int, seed: int) -> None:
    import numpy as np

    from ssd_mining import synthetic
    from ssd_mining.io import array_writer

    boxes = synthetic.default_boxes()
    with (
        array_writer(folder / "losses.npy", np.float32, boxes.shape[:1]) as append_losses,
        array_writer(folder / "labels.npy", np.uint8, boxes.shape[:1]) as append_labels,
        array_writer(folder / "default_boxes.npy", np.float64, (4,)) as append_boxes,
    ):
        append_boxes(boxes)
        for index in range(num_samples):
            drawn = synthetic.sample(seed, index)
            append_losses(drawn.conf_loss[np.newaxis])
            append_labels(drawn.labels[np.newaxis])


def _warmup(_: argparse.Namespace) -> None:
    from ssd_mining import warmup

    done = warmup()
    _say(f"compiled {done.compiled} kernels, found {done.loaded} in the cache, in {done.seconds:.1f} s")


def _mine(args: argparse.Namespace) -> None:
    from dataclasses import fields

    from ssd_mining import Mining, _inputs, io

    if args.save and not args.out:
        raise CommandError(2, f"--save: expected --out DIR beside --save {args.save}, got none")
    with contextlib.ExitStack() as files:
        with _in_users_words(args):
            options = {field.name: getattr(args, field.name) for field in fields(Mining)}
            mining = Mining(**{name: value for name, value in options.items() if value is not None})
        losses, labels = (files.enter_context(io.open_array(name)) for name in (args.losses, args.labels))
        with _in_users_words(args):
            _inputs.check(losses.outline, labels.outline, mining)
        folder = files.enter_context(io.atomic_directory(args.out)) if args.out else None
        with _keeper(folder, args.save, losses.shape[1]) as keep:
            columns = _mine_blocks(args, mining, (losses, labels), keep)
        summary = _summary(args, mining, columns, losses.shape[1])
        if folder:
            io.write_csv(folder / "per_sample.csv", columns)
            (folder / "summary.json").write_text(_json(summary) + "\n", encoding="utf-8")
    _say(_json(summary) if args.json else _table(summary))
    if args.out and not args.json:
        _say(f"\nwritten to {args.out}")


@contextlib.contextmanager
def _in_users_words(args: argparse.Namespace, start: int = 0) -> Iterator[None]:
    """Give an error of the library the names that the user typed, and its sample the number it has in the file."""
    try:
        yield
    except (TypeError, ValueError) as error:
        name, _, rest = str(error).partition(": ")
        rest = re.sub(r"(?<=\(sample )\d+", lambda number: str(int(number[0]) + start), rest)
        files = {"conf_loss": args.losses, "labels": args.labels}
        if name in files:
            raise CommandError(3, f"{files[name]}: {rest}") from error
        if name in vars(args):
            raise CommandError(2, f"--{name.replace('_', '-')}: {rest}") from error
        raise


@contextlib.contextmanager
def _keeper(folder: "Path | None", save: str | None, num_anchors: int) -> Iterator[Callable[["MiningResult"], None]]:
    """Yield what is done with the result of every block: its hard negatives are written, if anywhere."""
    import numpy as np

    from ssd_mining.io import array_writer

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

    num_samples, num_anchors = sources[0].shape
    stored = sum(source.outline[:1].nbytes for source in sources)  # bytes of a sample
    step = max(1, (args.max_memory << 20) // (stored + (num_anchors + 1) * MINING_BYTES))

    def mine_block(start: int) -> "Columns":  # a function, so that no block outlives it
        losses, labels = (source.read(step) for source in sources)
        with _in_users_words(args, start):
            mined = mine_hard_negatives(losses, labels, mining=mining, num_threads=args.num_threads)
        keep(mined)
        return mined.to_dict()

    blocks = [mine_block(start) for start in range(0, max(1, num_samples), step)]  # of no samples, an empty one
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


def _json(summary: dict[str, Any]) -> str:
    """Return JSON that every parser reads: NaN and infinity, which it has no words for, become null."""
    import json

    return json.dumps(json.loads(json.dumps(summary), parse_constant=lambda _: None), indent=2)


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
