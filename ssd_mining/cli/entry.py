"""The command line: ``ssd-mining`` and its commands.

The result goes to stdout, an error to stderr in one line. A command is imported, and NumPy and Numba with it, when it
runs, so that ``--help`` is quick.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ssd_mining.cli import options
from ssd_mining.files.text import say

EXAMPLES = """\
examples:
  ssd-mining demo
      write synthetic data and mine it
  ssd-mining match instances.json ssd300 --rule torchvision --out labels.npy
      label the default boxes of SSD300 with the objects of COCO's annotations
  ssd-mining mine losses.npy labels.npy --background 0
      mine losses (N, A) by class numbers (N, A), where 0 is background
  ssd-mining mine run.npz:losses run.npz:one_hot --out mined
      mine by one-hot labels (N, A, C), the last class background, and keep the hard negatives
  ssd-mining report logits.zarr:val labels.zarr:val --background 0 --out report
      analyse a whole data set of logits (N, A, C): tables, and a page of pictures
"""


class _Command(NamedTuple):
    help: str
    add_options: Callable[[options.Parser], None]


COMMANDS = {
    "demo": _Command("write a synthetic data set and mine it", options.demo),
    "match": _Command("label anchors with the objects in a file", options.match),
    "mine": _Command("mine the losses in a file", options.mine),
    "report": _Command("analyse a whole data set; write tables and a page", options.report),
    "merge": _Command("make one report of its shards", options.merge),
    "compare": _Command("say what changed between two reports", options.compare),
    "recipes": _Command("say which known system would print a loss", options.recipes),
    "doctor": _Command("say what this machine and this installation have", options.doctor),
    "warmup": _Command("compile the kernels ahead", options.warmup),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command of some words, those of this process unless given; return the exit code.

    The codes are 0 fine, 2 usage, 3 bad data or output that cannot be written, 130 interrupted. argparse raises
    SystemExit: with code 0 after ``--help`` and ``--version``, with code 2 for words that it does not know.
    """
    args = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        return _ended(args)


def _ended(args: argparse.Namespace) -> int:
    """Run a command, print what it says, and return the exit code."""
    try:
        from ssd_mining.checks import DataError, HazardWarning, InputError, InputTypeError

        warnings.simplefilter("error" if getattr(args, "strict", False) else "always", HazardWarning)
        return _say(_run(args))
    except KeyboardInterrupt as stop:
        say(f"ssd-mining: interrupted; {str(stop) or 'nothing was written'}", sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        return 0
    except options.OptionError as error:
        return _failed(2, error)
    except FileExistsError as error:
        return _failed(2, f"{error}; name another with --out{'' if args.overwrite else ', or add --overwrite'}")
    except (InputError, InputTypeError) as error:
        culprit = options.in_users_words(args, error)
        if culprit is None:
            raise
        return _failed(*culprit)
    except (DataError, HazardWarning, MemoryError) as error:
        return _failed(3, error)
    except OSError as error:
        return _failed(3, f"{args.out}: expected a place to write to, got {error.strerror or error}")


def _failed(code: int, message: object) -> int:
    say(f"ssd-mining: error: {' '.join(str(message).split())}", sys.stderr)
    return code


def _warn(message: Warning | str, *_: object, **_also: object) -> None:
    """Say a warning of ours, or of a package, in one line; not what packages say to those who program with them."""
    if not isinstance(message, DeprecationWarning | PendingDeprecationWarning):
        say(f"ssd-mining: warning: {' '.join(str(message).split())}", sys.stderr)


def _say(text: str) -> int:
    """Print the result, all of it now; return the exit code."""
    try:
        say(text, sys.stdout)
    except OSError as error:
        # Python would write the rest again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        return _failed(3, f"stdout: expected a place to write to, got {error.strerror}")
    return 0


def _run(args: argparse.Namespace) -> str:
    """Run the command; return what it has to say. Each is imported by its name, or a frozen program would lack it."""
    match args.command:
        case "demo":
            from ssd_mining.cli.demo import run
        case "match":
            from ssd_mining.cli.match import run
        case "mine":
            from ssd_mining.cli.mine import run
        case "report":
            from ssd_mining.cli.report import run
        case "merge":
            from ssd_mining.cli.merge import run
        case "compare":
            from ssd_mining.cli.compare import run
        case "recipes":
            from ssd_mining.cli.recipes import run
        case "doctor":
            from ssd_mining.cli.doctor import run
        case _:
            from ssd_mining.cli.warmup import run
    return run(args)


def _parser() -> options.Parser:
    parser = options.Parser(
        prog="ssd-mining",
        description="SSD hard-negative mining and the confidence loss, for losses and logits in files.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(
        metavar="COMMAND", required=True, dest="command", parser_class=options.CommandParser
    )
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help).add_options = command.add_options
    return parser


class _Version(argparse.Action):
    """Like argparse's own, but the version is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import ssd_mining

        say(f"{parser.prog} {ssd_mining.__version__}", sys.stdout)
        parser.exit()
