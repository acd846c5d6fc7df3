"""``ssd-mining compare``: what changed between two reports, those of two checkpoints for example."""

import argparse
import contextlib
from typing import TYPE_CHECKING, Any

from ssd_mining.cli.options import CommandError, as_json, at_least, mining_bytes, say
from ssd_mining.cli.report import check_page

if TYPE_CHECKING:
    from ssd_mining.report.saved_report import Earlier

SCHEMA = 1


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.usage = "%(prog)s A B [options]"
    parser.description = "Say what changed from report A to report B: losses, samples, and which negatives are mined."
    option = parser.add_argument
    option("a", metavar="A", help="the directory of a report")
    option("b", metavar="B", help="that of another, of the same samples")
    option("--top", metavar="K", type=at_least(0), default=50, help="samples that got worse, and better (default 50)")

    option = parser.add_argument_group("which negatives are mined").add_argument
    option("--no-churn", action="store_true", help="leave this out; it reads the arrays that were analysed again")
    pair = ("LOSSES-or-LOGITS", "LABELS")
    option("--inputs-a", nargs=2, metavar=pair, help="where those of A are now (default as its summary.json says)")
    option("--inputs-b", nargs=2, metavar=pair, help="where those of B are now")
    memory = "data to hold at a time, unless one sample is more (default %(default)s)"
    option("--max-memory", metavar="MIB", type=at_least(1), default=256, help=memory)
    option("--num-threads", metavar="N", type=at_least(1), help="threads to use (default all)")

    option = parser.add_argument_group("what is shown and written").add_argument
    option("--json", action="store_true", help="print the comparison as JSON instead of a table")
    option("--out", metavar="DIR", help="a new directory for comparison.json, changes.csv and comparison.html")
    option("--no-page", action="store_true", help="leave out comparison.html, which needs matplotlib and jinja2")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Compare, print, and write what is asked for."""
    from ssd_mining.report import change_page as shift
    from ssd_mining.report import output, page
    from ssd_mining.report import saved_report as earlier

    if args.out:
        check_page(args, "comparison.html")
        output.refuse_used(args.out)
    a, b = earlier.load(args.a, args.inputs_a), earlier.load(args.b, args.inputs_b)
    matched = earlier.match(a, b)
    changes = shift.changes(a.columns, b.columns, *matched)
    compared = {"schema": SCHEMA, **shift.compared(a.summary, b.summary, changes, args.top)}
    compared |= {"a": args.a, "b": args.b, "churn": None if args.no_churn else _churn(args, (a, b), matched)}
    compared["samples"] |= {"only_a": a.size - matched[0].size, "only_b": b.size - matched[1].size}
    if args.out:
        with output.atomic_directory(args.out) as folder:
            output.write_csv(folder / "changes.csv", changes)
            (folder / "comparison.json").write_text(as_json(compared) + "\n", encoding="utf-8")
            if not args.no_page:
                html = page.render(shift.comparison_page(compared, changes, a.summary, b.summary))
                (folder / "comparison.html").write_text(html, encoding="utf-8")
    say(as_json(compared) if args.json else _table(compared))
    if args.out and not args.json:
        say(f"\nwritten to {args.out}")


def _churn(args: argparse.Namespace, reports: "tuple[Earlier, Earlier]", matched: Any) -> dict[str, Any]:
    """Mine the arrays of both reports again, and count the negatives that both keep, and one."""
    from ssd_mining.cli.progress import progress

    a, b = reports
    if not (matched[0] == matched[1]).all() or a.size != b.size:
        raise CommandError(
            2, "--no-churn: expected it, for the samples of A and B are not in the same order, got none"
        )
    kept = {"a": 0, "b": 0, "both": 0}
    num_changed = 0
    with contextlib.ExitStack() as files:
        sources = [report.opened(files) for report in reports]
        shapes = [values.shape[:2] for values, _ in sources]
        if shapes[0] != shapes[1]:
            raise CommandError(3, f"{b.values}: expected anchors as in {a.values} {shapes[0]}, got {shapes[1]}")
        step = max(
            1,
            (args.max_memory << 20) // sum(mining_bytes(*pair) for pair in sources),
        )
        advance = files.enter_context(progress(a.size, "samples"))
        for start in range(0, a.size, step):
            masks = [
                report.mask(*pair, slice(start, start + step), args.num_threads)
                for report, pair in zip(reports, sources, strict=True)
            ]
            for name, mask in (("a", masks[0]), ("b", masks[1]), ("both", masks[0] & masks[1])):
                kept[name] += int(mask.sum())
            num_changed += int((masks[0] != masks[1]).any(axis=1).sum())
            advance(masks[0].shape[0])
    either = kept["a"] + kept["b"] - kept["both"]
    overlap = kept["both"] / either if either else 1.0
    return {f"kept_{name}": count for name, count in kept.items()} | {
        "overlap": overlap,
        "changed_samples": num_changed,
    }


def _table(compared: dict[str, Any]) -> str:
    lines = [f"{'':26}{'A':>14}{'B':>14}{'change':>14}"]
    for name, title in (
        ("loss", "confidence loss"),
        ("num_pos", "positives"),
        ("num_kept", "kept negatives"),
        ("positive_sum", "loss of positives"),
        ("negative_sum", "loss of kept negatives"),
    ):
        a, b, change = (compared["totals"][name][which] for which in ("a", "b", "change"))
        lines += [f"{title:26}{a:>14,.7g}{b:>14,.7g}{change:>+14,.7g}"]
    samples, churn = compared["samples"], compared["churn"]
    lines += ["", *(f"{title:26}{samples[key]:>14,}" for key, title in (
        ("both", "samples in both"), ("worse", "got worse"), ("better", "got better"), ("equal", "as before"),
        ("only_a", "only in A"), ("only_b", "only in B"),
    ))]  # fmt: skip
    if churn is not None:
        lines += ["", f"{'mined in A':26}{churn['kept_a']:>14,}", f"{'mined in B':26}{churn['kept_b']:>14,}"]
        lines += [f"{'mined in both':26}{churn['kept_both']:>14,}{churn['overlap']:>14.1%} of either"]
    worse = compared["worse"]
    if worse["id"]:
        lines += ["", f"{'samples that got worse':>24}{'A':>16}{'B':>14}{'change':>14}"]
    for row in list(zip(*(worse[key] for key in ("id", "loss_a", "loss_b", "change")), strict=True))[:5]:
        lines += [f"{str(row[0])[-24:]:>24}{row[1]:>16,.4f}{row[2]:>14,.4f}{row[3]:>+14,.4f}"]
    return "\n".join(lines)
