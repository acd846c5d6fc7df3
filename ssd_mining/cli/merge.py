"""``ssd-mining merge``: the shards of a report become the report."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_mining.cli.options import CommandError
from ssd_mining.cli.report import SHARD_FILE, add_output, check_page, finish

if TYPE_CHECKING:
    from ssd_mining.report.shards import Part


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.usage = "%(prog)s DIR [DIR ...] --out DIR [options]"
    parser.description = "Make the report that one run would have made from what --shard runs have written."
    parser.add_argument("shards", metavar="DIR", nargs="+", help="what report --shard I/N has written, in any order")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Check that the shards make up one data set, and write the report."""
    from ssd_mining.report import output
    from ssd_mining.report.shards import Part, merged

    check_page(args)
    output.refuse_used(args.out)
    shards = {name: Part.load(Path(name) / SHARD_FILE) for name in args.shards}
    _check(shards)
    finish(args, merged(sorted(shards.values(), key=lambda part: (part.start, part.stop))))


def _check(shards: "dict[str, Part]") -> None:
    """Refuse shards of different runs, and those that overlap or leave a gap."""
    (first, whole), *others = shards.items()
    for name, part in others:
        different = [key for key, value in whole.run.items() if part.run[key] != value]
        if different:
            expected = f"a shard of the same run as {first}, with {different[0]} {whole.run[different[0]]}"
            raise CommandError(3, f"{name}: expected {expected}, got {part.run[different[0]]}")
    reached, total = 0, whole.run["arguments"]["values_shape"][0]
    ordered = sorted(shards.items(), key=lambda item: (item[1].start, item[1].stop))
    for name, part in ordered:
        if part.start != reached:
            raise CommandError(3, f"{name}: expected a shard that begins with sample {reached}, got {part.start}")
        reached = part.stop
    if reached != total:
        raise CommandError(3, f"{ordered[-1][0]}: expected shards of all {total} samples, got none after {reached}")
