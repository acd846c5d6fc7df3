"""``ssd-mining merge``: the shards of a report become the report."""

import argparse
from dataclasses import asdict
from pathlib import Path

from ssd_mining.checks import DataError
from ssd_mining.cli.report import SHARD_FILE, check_page, finish
from ssd_mining.files import output
from ssd_mining.report.loss_report import FILES
from ssd_mining.report.parts import Part, merged


def run(args: argparse.Namespace) -> str:
    """Check that the shards make up one data set, write the report, and return its summary."""
    if args.out:
        output.refuse_used(args.out, FILES if args.overwrite else ())
    check_page(args)
    for name in args.shards:
        if not (Path(name) / SHARD_FILE).exists() and (Path(name) / "summary.json").exists():
            raise DataError(
                f"{name}: expected what report --shard writes, got a finished report: nothing is to merge"
            )
    shards = {name: Part.load(Path(name) / SHARD_FILE) for name in args.shards}
    return finish(args, merged(_in_order(shards)))


def _in_order(shards: dict[str, Part]) -> list[Part]:
    """Return shards by their samples; refuse those of different runs, and those that overlap or leave a gap."""
    first, whole = next(iter(shards.items()))
    run = asdict(whole.run)
    for name, part in shards.items():
        for key, value in asdict(part.run).items():
            if value != run[key] and key == "content":
                raise DataError(
                    f"{name}: expected a shard of the same data as {first}, got one of files that changed"
                )
            if value != run[key]:
                expected = f"a shard of the same run as {first}, with {key} {run[key]}"
                raise DataError(f"{name}: expected {expected}, got {value}")
    reached, total = 0, whole.run.arguments.values_shape[0]
    ordered = sorted(shards.items(), key=lambda shard: shard[1].span)
    for name, part in ordered:
        if part.span.start != reached:
            raise DataError(f"{name}: expected a shard that begins with sample {reached}, got {part.span.start}")
        reached = part.span.stop
    if reached != total:
        raise DataError(f"{ordered[-1][0]}: expected shards of all {total} samples, got none after {reached}")
    return [part for _, part in ordered]
