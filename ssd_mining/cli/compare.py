"""``ssd-mining compare``: what changed between two reports, those of two checkpoints for example."""

import argparse
import contextlib
from dataclasses import asdict
from pathlib import Path

from ssd_mining.checks import DataError
from ssd_mining.cli.mine import mining_bytes
from ssd_mining.cli.options import OptionError
from ssd_mining.cli.program import command
from ssd_mining.cli.progress import progress
from ssd_mining.cli.report import SHARD_FILE, check_page
from ssd_mining.files import output
from ssd_mining.files.blocks import memory_beside_chunks
from ssd_mining.files.output import write_csv
from ssd_mining.files.text import fitted, shown, write_text
from ssd_mining.report import page, saved_report
from ssd_mining.report.change_page import change_page
from ssd_mining.report.comparison import Churn, Comparison, Paired, changes_of, compared, paired
from ssd_mining.report.saved_report import SavedReport

FILES = {"comparison.json", "changes.csv", "comparison.html"}


def run(args: argparse.Namespace) -> str:
    """Compare, write the files that are asked for, and return the comparison."""
    replaced = FILES if args.overwrite else ()
    if args.out:
        output.refuse_used(args.out, replaced)
    check_page(args, "comparison.html")
    for name in (args.a, args.b):
        if (Path(name) / SHARD_FILE).exists():
            raise DataError(f"{name}: expected a report, got a shard of one; see {command('merge', '--help')}")
    a, b = saved_report.load(args.a, args.inputs_a), saved_report.load(args.b, args.inputs_b)
    pairs = paired(a, b)
    changes = changes_of(a, b, pairs)
    churn = None if args.no_churn else _churn(args, a, b, pairs)
    comparison = compared(a, b, changes, args.top, churn)
    as_json = output.json_text(comparison.to_dict())
    if args.out:
        with output.atomic_directory(args.out, replaced) as folder:
            columns = changes.to_dict()
            if not a.has_names:
                columns = {"sample": columns.pop("id"), **columns}
            write_csv(folder / "changes.csv", columns)
            write_text(folder / "comparison.json", f"{as_json}\n")
            if not args.no_page:
                html = page.render(change_page(comparison, changes, a, b))
                write_text(folder / "comparison.html", html)
    if args.json:
        return as_json
    return _comparison_text(comparison) + (f"\n\nwritten to {shown(args.out)}" if args.out else "")


def _churn(args: argparse.Namespace, a: SavedReport, b: SavedReport, pairs: Paired) -> Churn:
    """Mine the arrays of both reports again, and count the negatives that both keep, and one."""
    if not (pairs.in_a == pairs.in_b).all() or a.size != b.size:
        raise OptionError("--no-churn: expected it, for the samples of A and B are not in the same order, got none")
    kept_a = kept_b = kept_both = changed_samples = 0
    with contextlib.ExitStack() as files:
        of_a, of_b = a.opened(files), b.opened(files)
        shape_a, shape_b = of_a.values.shape[:2], of_b.values.shape[:2]
        if shape_a != shape_b:
            raise DataError(f"{b.values}: expected anchors as in {a.values} {shape_a}, got {shape_b}")
        per_sample = mining_bytes(*of_a) + mining_bytes(*of_b)
        step = max(1, memory_beside_chunks(args.max_memory, per_sample, *of_a, *of_b) // per_sample)
        advance = files.enter_context(progress(a.size, "samples"))
        for start in range(0, a.size, step):
            rows = slice(start, start + step)
            in_a, in_b = a.mask(of_a, rows, args.num_threads), b.mask(of_b, rows, args.num_threads)
            kept_a += int(in_a.sum())
            kept_b += int(in_b.sum())
            kept_both += int((in_a & in_b).sum())
            changed_samples += int((in_a != in_b).any(axis=1).sum())
            advance(in_a.shape[0])
    either = kept_a + kept_b - kept_both
    return Churn(kept_a, kept_b, kept_both, kept_both / either if either else 1.0, changed_samples)


def _comparison_text(comparison: Comparison) -> str:
    lines = [f"{'':26}{'A':>14}{'B':>14}{'change':>14}"]
    for name, title in (
        ("loss", "confidence loss"),
        ("num_pos", "positives"),
        ("num_kept", "kept negatives"),
        ("positive_sum", "loss of positives"),
        ("negative_sum", "loss of kept negatives"),
    ):
        total = comparison.totals[name]
        lines += [f"{title:26}{total.a:>14,.7g}{total.b:>14,.7g}{total.change:>+14,.7g}"]
    titles = ("samples in both", "got worse", "got better", "as before", "only in A", "only in B")
    counts = asdict(comparison.samples).values()
    lines += ["", *(f"{title:26}{count:>14,}" for title, count in zip(titles, counts, strict=True))]
    churn = comparison.churn
    if churn is not None:
        lines += ["", f"{'mined in A':26}{churn.kept_a:>14,}", f"{'mined in B':26}{churn.kept_b:>14,}"]
        lines += [f"{'mined in both':26}{churn.kept_both:>14,}{churn.overlap:>14.1%} of either"]
    worse = comparison.worse
    if worse.id.size:
        lines += ["", f"{'samples that got worse':>24}{'A':>16}{'B':>14}{'change':>14}"]
    for i in range(min(5, worse.id.size)):
        name = fitted(worse.id[i], 24)
        lines += [f"{name:>24}{worse.loss_a[i]:>16,.4f}{worse.loss_b[i]:>14,.4f}{worse.change[i]:>+14,.4f}"]
    return "\n".join(lines)
