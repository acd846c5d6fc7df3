"""What the commands share: their errors, their words for the selection rule, their ways to print."""

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssd_mining import Mining
    from ssd_mining.cli.files import ArraySource

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


# Of the summary of a report: the one that writes it and the one that reads it agree.
REPORT_SCHEMA = 1

# What mining takes per anchor at the worst, beside its loss and its labels: two masks, and where every negative is
# kept, its place in the indices and what sorts them; a sample's counts and sums are less than one anchor more.
MINING_BYTES = 64


def mining_bytes(values: "ArraySource", labels: "ArraySource") -> int:
    """Return how much memory a sample takes that is read and mined."""
    return sum(source.outline[:1].nbytes for source in (values, labels)) + (values.shape[1] + 1) * MINING_BYTES


class CommandError(Exception):
    """A command that fails with an exit code of its own."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def say(text: str) -> None:
    """Print a result, all of it now."""
    try:
        print(text, flush=True)
    except OSError as error:
        # Python would write the rest again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise CommandError(3, f"stdout: expected a place to write to, got {error.strerror}") from error


def as_json(summary: dict[str, Any]) -> str:
    """Return JSON that every parser reads: NaN and infinity, which it has no words for, become null."""
    import json

    return json.dumps(json.loads(json.dumps(summary), parse_constant=lambda _: None), indent=2)


def versions() -> dict[str, str | None]:
    """Return the versions that results and their speed depend on."""
    import platform

    names = ("ssd_mining", "numpy", "numba", "llvmlite")
    return {"python": platform.python_version(), **{name: version_of(name) for name in names}}


def version_of(name: str) -> str | None:
    """Return the version of an installed package; None where there is none."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def at_least(lowest: int) -> Callable[[str], int]:
    """Return what parses a whole number of at least `lowest`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            msg = f"expected a whole number of at least {lowest}, got {text!r}"
            raise argparse.ArgumentTypeError(msg)
        return int(text)

    return parse


def share_or_count(text: str) -> float:
    """Parse a whole number, or a share below 1."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def add_selection(parser: argparse.ArgumentParser) -> Callable[..., argparse.Action]:
    """Add the fields of `Mining` that need nothing but losses and labels of a sample; return what adds another."""
    add = parser.add_argument_group("which negatives are kept").add_argument
    add("--background", metavar="C", type=int, help="background class; class numbers need it (one-hot: the last)")
    add("--neg-pos-ratio", metavar="R", type=float, help="negatives kept per positive (default 3)")
    add("--rounding", choices=("floor", "ceil"), help="how ratio times positives is rounded (default floor)")
    add("--extra-negatives", metavar="N", type=int, help="keep so many more per sample (default 0)")
    least = "keep at least so many, or below 1 that share of the anchors (default 0)"
    add("--min-negatives", metavar="N", type=share_or_count, help=least)
    when = ("always", "no_positives")
    add("--min-negatives-when", choices=when, help="when that minimum holds (default always)")
    add("--max-negatives", metavar="N", type=int, help="keep at most so many (default no limit)")
    ties = ("index", "strict", "all")
    add("--tie-policy", choices=ties, help="of equal losses at the cut, keep the first, none or all (default index)")
    add("--skip-hardest", metavar="N", type=int, help="pass over so many of the hardest (default 0)")
    add("--ignore-index", metavar="C", type=int, help="label of anchors to ignore (default none)")
    policies = ("raise", "propagate", "omit")
    add("--nan-policy", choices=policies, help="NaN is an error, ranks hardest, or is ignored (default raise)")
    rows = ("positive", "ignore", "raise")
    add("--all-zero", choices=rows, help="what an all-zero one-hot row means (default positive)")
    return add


def mining_of(args: argparse.Namespace, files: Mapping[str, str]) -> "Mining":
    """Return the selection rule that the options say."""
    from dataclasses import fields

    from ssd_mining import Mining

    with in_users_words(args, files):
        options = {field.name: getattr(args, field.name, None) for field in fields(Mining)}
        return Mining(**{name: value for name, value in options.items() if value is not None})


@contextlib.contextmanager
def in_users_words(args: argparse.Namespace, files: Mapping[str, str], start: int = 0) -> Iterator[None]:
    """Give an error of the library the names that the user typed, and its sample the number it has in the file.

    `files` are the names of the files, by the names of the arguments that they become; options of another name, too.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        name, _, rest = str(error).partition(": ")
        rest = re.sub(r"(?<=\(sample )\d+", lambda number: str(int(number[0]) + start), rest)
        if name in files:
            raise CommandError(2 if files[name].startswith("--") else 3, f"{files[name]}: {rest}") from error
        if name in vars(args):
            raise CommandError(2, f"--{name.replace('_', '-')}: {rest}") from error
        raise
