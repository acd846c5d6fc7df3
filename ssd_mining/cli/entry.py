"""The command line: ``ssd-mining`` and its commands.

The result goes to stdout, an error to stderr in one line. NumPy and Numba are imported inside the functions that
use them, so that ``--help`` is quick.
"""

import argparse
import sys
from collections.abc import Sequence

from ssd_mining.cli import compare, demo, doctor, merge, mine, report
from ssd_mining.cli.options import CommandError, say

EXAMPLES = """\
examples:
  ssd-mining demo
      write synthetic data and mine it
  ssd-mining mine losses.npy labels.npy --background 0
      mine losses (N, A) by class numbers (N, A), of which 0 is background
  ssd-mining mine run.npz:losses run.npz:one_hot --out mined
      mine by one-hot labels (N, A, C), the last class background, and keep the hard negatives
  ssd-mining report logits.zarr:val labels.zarr:val --background 0 --out report
      analyse a whole data set of logits (N, A, C): tables, and a page of pictures
"""


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
        from ssd_mining.cli.files import DataError

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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssd-mining",
        description="SSD hard-negative mining and the confidence loss, for losses and logits in files.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    shown = commands.add_parser("demo", help="write a synthetic data set and mine it")
    demo.add(shown)
    shown.set_defaults(run=_demo)
    mine.add(commands.add_parser("mine", help="mine the losses in a file"))
    report.add(commands.add_parser("report", help="analyse a whole data set; write tables and a page"))
    merge.add(commands.add_parser("merge", help="make one report of its shards"))
    compare.add(commands.add_parser("compare", help="say what changed between two reports"))
    doctor.add(commands.add_parser("doctor", help="say what this machine and this installation have"))
    commands.add_parser("warmup", help="compile the kernels ahead").set_defaults(run=_warmup, out="the cache")
    return parser


class _Version(argparse.Action):
    """Like argparse's own, but the version is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import ssd_mining

        print(parser.prog, ssd_mining.__version__)
        parser.exit()


def _demo(args: argparse.Namespace) -> None:
    import shlex
    from pathlib import Path

    out = Path(args.out)
    demo.write(out, args.samples, args.seed)
    words = ["mine", str(out / "losses.npy"), str(out / "labels.npy"), "--background", "0"]
    command = shlex.join(["ssd-mining", *words])
    say(f"Synthetic data (seed {args.seed}), which no detector ever saw, written to {args.out}. Mined, it gives:\n")
    mined = _parser().parse_args(words)
    mined.run(mined)
    keep = shlex.join(["--out", str(out / "mined")])
    say(f"\nMine it yourself, and keep the hard negatives:\n\n  {command} {keep}")


def _warmup(_: argparse.Namespace) -> None:
    from ssd_mining import warmup

    done = warmup(logit_dtypes=("float32", "float64"), analysis=True)
    say(f"compiled {done.compiled} kernels, found {done.loaded} in the cache, in {done.seconds:.1f} s")
