"""``ssd-mining report``: what a data set of losses or logits has to tell, as tables and as a page."""

import argparse
import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ssd_mining.cli.options import (
    REPORT_SCHEMA,
    CommandError,
    add_selection,
    as_json,
    at_least,
    in_users_words,
    say,
    versions,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ssd_mining.cli.report_inputs import Inputs
    from ssd_mining.report.shards import Columns, Part, Rows

SHARD_FILE = "shard.npz"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.usage = "%(prog)s LOSSES-or-LOGITS LABELS --out DIR [options]"
    parser.description = (
        "Analyse the losses of a whole data set: what is hard, how hard, and what mining makes of it."
    )
    option = parser.add_argument
    option("values", metavar="LOSSES-or-LOGITS", help="(N, A) losses in nats, or (N, A, C) logits")
    option("labels", metavar="LABELS", help="(N, A) class numbers, or bools for losses; or (N, A, C) one-hot")
    option("--ids", metavar="FILE", help="what the samples are called: text, a line for each, or an array of names")

    option = parser.add_argument_group("what is analysed").add_argument
    option("--top", metavar="K", type=at_least(0), default=50, help="worst samples and anchors (default %(default)s)")
    option(
        "--levels", metavar="N,N,...", type=_sizes, help="anchors of each feature map, in order, for a table by level"
    )
    ratios = "negatives per positive to compare (default 1,2,3,5,10)"
    option("--ratio-sweep", metavar="R,R,...", type=_ratios, default=(1.0, 2.0, 3.0, 5.0, 10.0), help=ratios)
    names = "what the classes are called: text, a line for each, from class 0"
    option("--class-names", metavar="FILE", help=names)
    option("--classification", choices=("softmax", "sigmoid"), help="the loss of logits (default softmax)")
    add_selection(parser)

    option = parser.add_argument_group("how it is computed").add_argument
    option("--num-threads", metavar="N", type=at_least(1), help="threads to use (default all)")
    memory = "data to hold at a time, unless one sample is more (default %(default)s)"
    option("--max-memory", metavar="MIB", type=at_least(1), default=256, help=memory)
    option("--shard", metavar="I/N", type=_shard, help="analyse part I of N only, for ssd-mining merge")
    add_output(parser)
    parser.set_defaults(run=run)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options of what is written, which `merge` has too."""
    option = parser.add_argument_group("what is shown and written").add_argument
    option("--out", metavar="DIR", required=True, help="a new directory for the report")
    option("--no-page", action="store_true", help="leave out report.html, which needs matplotlib and jinja2")
    option("--json", action="store_true", help="print the summary as JSON instead of a table")


def _numbers(text: str, kind: Callable[[str], Any], what: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(word) for word in text.split(","))
    except ValueError:
        msg = f"expected {what} with commas between them, got {text!r}"
        raise argparse.ArgumentTypeError(msg) from None


def _sizes(text: str) -> tuple[int, ...]:
    return _numbers(text, int, "whole numbers")


def _ratios(text: str) -> tuple[float, ...]:
    return _numbers(text, float, "numbers")


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        msg = f"expected I/N with I from 1 to N, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(number), int(count)


def run(args: argparse.Namespace) -> None:
    """Analyse the data, print a summary, and write the report, or one shard of it."""
    from ssd_mining.cli import report_inputs as inputs
    from ssd_mining.report import output
    from ssd_mining.report import shards as parts

    if not args.shard:
        check_page(args)
    output.refuse_used(args.out)
    with contextlib.ExitStack() as files:
        given = inputs.opened(args, files)
        rows = parts.shard_rows(len(given.values), args.shard or (1, 1))
        with parts.workshop(args.out, [given.run, given.stamps, rows]) as folder:
            whole = parts.merged(_parts(args, given, parts.cut(*rows, given.row_bytes), folder))
            if args.shard:
                with output.atomic_directory(args.out) as shard:
                    whole.save(shard / SHARD_FILE)
            else:
                finish(args, whole)
    if args.shard:
        where = f"{rows[1] - rows[0]:,} of {len(given.values):,} samples, from sample {rows[0]:,}"
        say(f"{where}, written to {args.out}; see ssd-mining merge --help")


def _parts(args: argparse.Namespace, given: "Inputs", cuts: "Sequence[Rows]", folder: "Path") -> "Iterator[Part]":
    from ssd_mining.cli.progress import progress
    from ssd_mining.report import shards as parts

    left = sum(stop - start for start, stop in cuts if not parts.part_file(folder, (start, stop)).exists())
    with progress(left, "samples") as advance:
        yield from parts.computed(folder, cuts, lambda rows: _analysed(args, given, rows, advance))


def _analysed(args: argparse.Namespace, given: "Inputs", rows: "Rows", advance: Callable[[int], None]) -> "Part":
    """Analyse some rows, as many blocks at a time as there are threads."""
    import numpy as np

    from ssd_mining import LossAnalysis, read_blocks
    from ssd_mining.report.shards import Part

    workers, (start, stop) = given.num_workers, rows
    idle = [LossAnalysis(**given.settings) for _ in range(workers)]  # each in the hands of one thread at a time

    def add(first: int, block: "Sequence[NDArray[Any]]") -> "Columns":
        ids = None if given.ids is None else given.ids[first : first + len(block[0])]
        analysis = idle.pop()
        try:
            with in_users_words(args, given.users_words, first):
                return analysis.update(*block, first_sample=first, ids=ids)
        finally:
            idle.append(analysis)

    columns = []
    step = given.block_rows(args.max_memory)
    blocks = read_blocks(given.values, given.labels, rows=step, start=start, stop=stop)
    for of_block in in_turn(workers, add, blocks):
        columns.append(of_block)
        advance(of_block["sample"].size)
    if start == stop:
        columns.append(add(start, (given.values[:0], given.labels[:0])))
    whole = functools.reduce(LossAnalysis.merge, idle)
    return Part(
        given.run, start, stop, whole, {name: np.concatenate([c[name] for c in columns]) for name in columns[0]}
    )


def in_turn(
    workers: int, function: Callable[..., "Columns"], calls: Iterable[tuple[Any, ...]]
) -> "Iterator[Columns]":
    """Yield what a function returns of calls, in their order; so many threads work, and one call waits for them."""
    with ThreadPoolExecutor(workers, "analysis") as pool:
        due: deque[Future[Columns]] = deque()
        for call in calls:
            due.append(pool.submit(function, *call))
            del call  # or its block would be there still when another has been read
            if len(due) > workers:
                yield due.popleft().result()
        while due:
            yield due.popleft().result()


def check_page(args: argparse.Namespace, name: str = "report.html") -> None:
    """Refuse to begin what could not be finished: a page without the packages that make it."""
    from ssd_mining.report import page

    missing = [] if args.no_page else list(page.missing_packages())
    if missing:
        hint = "pip install 'ssd_mining[report]', or leave the page out with --no-page"
        raise CommandError(2, f"{name}: expected {' and '.join(missing)}, to make it, got none installed; {hint}")


def finish(args: argparse.Namespace, whole: "Part") -> None:
    """Write the report of all parts, and print its summary."""
    from ssd_mining.report import loss_page as report
    from ssd_mining.report import output, page

    result = whole.analysis.result()
    summary = {
        "schema": REPORT_SCHEMA,
        "versions": versions(),
        "arguments": whole.run["arguments"],
        **result.to_dict(),
    }
    with output.atomic_directory(args.out) as folder:
        output.write_csv(folder / "per_sample.csv", whole.columns)
        output.write_csv(folder / "top_losses.csv", result.top_samples.to_dict())
        output.write_csv(folder / "top_anchors.csv", result.top_anchors.to_dict())
        (folder / "summary.json").write_text(as_json(summary) + "\n", encoding="utf-8")
        if not args.no_page:
            html = page.render(report.loss_page(result, whole.columns, summary, whole.run["class_names"]))
            (folder / "report.html").write_text(html, encoding="utf-8")
    say(as_json(summary) if args.json else f"{_table(summary)}\n\nwritten to {args.out}")


def _table(summary: dict[str, Any]) -> str:
    anchors = max(1, summary["num_anchors"])
    lines = [f"{'samples':26}{summary['num_samples']:>14,}"]
    lines += [f"{'samples without positives':26}{summary['num_without_pos']:>14,}"]
    for name, title in (("num_pos", "positives"), ("num_neg", "negatives"), ("num_kept", "kept negatives")):
        lines += [f"{title:26}{summary[name]:>14,}{summary[name] / anchors:>10.2%}"]
    for name, title in (("positive_sum", "loss of positives"), ("negative_sum", "loss of kept negatives")):
        lines += [f"{title:26}{summary[name]:>14,.7g}  nats"]
    lines += [f"{'confidence loss':26}{summary['loss']:>14,.7g}  nats per sample"]
    worst = summary["top_samples"]
    if worst["loss"]:
        lines += ["", f"{'worst samples':>24}{'confidence loss':>18}{'positives':>12}{'kept negatives':>17}"]
    for i in range(min(5, len(worst["loss"]))):
        name, loss = str(worst["id"][i]), worst["loss"][i]
        name = name if len(name) <= 24 else f"...{name[-21:]}"
        lines += [f"{name:>24}{loss:>18,.4f}{worst['num_pos'][i]:>12,}{worst['num_kept'][i]:>17,}"]
    return "\n".join(lines)
