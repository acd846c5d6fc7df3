"""``ssd-mining report``: what a data set of losses or logits has to tell, as tables and as a page."""

import argparse
import contextlib
from dataclasses import asdict
from pathlib import Path

from ssd_mining import LossAnalysis, Sigmoid, Softmax
from ssd_mining.analysis.loss_analysis import RATIOS
from ssd_mining.analysis.result import AnalysisResult
from ssd_mining.checks import DataError, install_command
from ssd_mining.cli.labels import MatchedLabels, labels_of_boxes
from ssd_mining.cli.options import OptionError, mining_of
from ssd_mining.cli.program import command
from ssd_mining.cli.progress import progress
from ssd_mining.cli.versions import versions
from ssd_mining.files import output
from ssd_mining.files.names import read_class_names, read_ids
from ssd_mining.files.output import write_csv
from ssd_mining.files.sources import ArraySource, open_array
from ssd_mining.files.text import shown, write_text
from ssd_mining.report import page, parts
from ssd_mining.report.loss_page import loss_page
from ssd_mining.report.saved_report import SCHEMA

SHARD_FILE = "shard.npz"
FILES = {"report.html", "summary.json", "per_sample.csv", "top_losses.csv", "top_anchors.csv"}
_CLASSIFICATIONS = {"softmax": Softmax, "sigmoid": Sigmoid}


def run(args: argparse.Namespace) -> str:
    """Analyse the data and write the report, or one shard of it; return the summary."""
    if args.shard and not args.out:
        raise OptionError("--shard: expected --out DIR beside it, got none")
    replaced = ({SHARD_FILE} if args.shard else FILES) if args.overwrite else ()
    if args.out:
        output.refuse_used(args.out, replaced)
    if not args.shard:
        check_page(args)
    with contextlib.ExitStack() as files:
        data = _opened(args, files)
        span = parts.shard_span(data.values.shape[0], *(args.shard or (1, 1)))
        identity = asdict(data.run), data.stamps, span
        folder = files.enter_context(parts.kept_parts(args.out, *identity)) if args.out else None
        whole = _analysed(args, data, span, folder)
        data.check_unchanged()
        if not args.shard:
            return finish(args, whole)
        with output.atomic_directory(args.out, replaced) as shard:
            whole.save(shard / SHARD_FILE)
    where = f"{span.stop - span.start:,} of {len(data.values):,} samples, from sample {span.start:,}"
    return f"{where}, written to {shown(args.out)}; see {command('merge', '--help')}"


def _analysed(args: argparse.Namespace, data: parts.DataSet, span: parts.Span, folder: Path | None) -> parts.Part:
    """Analyse the samples of a span, part by part; a folder keeps the finished ones, and may hold some already."""
    spans = parts.cut(span, data.values.row_bytes + data.labels.row_bytes)
    left = span.stop - span.start if folder is None else parts.samples_left(folder, spans)
    with progress(left, "samples") as advance:

        def compute(each: parts.Span) -> parts.Part:
            part = parts.analysed(data, each, advance)
            _check_class_names(args, len(data.run.class_names), part.analysis)
            return part

        try:
            return parts.merged(map(compute, spans) if folder is None else parts.resumed(folder, spans, compute))
        except KeyboardInterrupt:
            done = 0 if folder is None else span.stop - span.start - parts.samples_left(folder, spans)
            if done:
                msg = f"{done:,} samples are done and kept: the same command takes the run up from there"
                raise KeyboardInterrupt(msg) from None
            raise


def _check_class_names(args: argparse.Namespace, count: int, analysis: LossAnalysis) -> None:
    """Refuse too few names; of losses with class numbers, only the labels tell how many classes there are."""
    most = max(analysis.state.totals["class positives"].groups, default=-1)
    if 0 < count <= most:
        raise DataError(f"{args.class_names or args.boxes}: expected a name for each class, 0 to {most}, got {count}")


def _opened(args: argparse.Namespace, files: contextlib.ExitStack) -> parts.DataSet:
    """Open the files, and check everything that can be checked without a pass over the data."""
    values = files.enter_context(open_array(args.values))
    if args.boxes is None and args.anchors is None:
        labels = files.enter_context(open_array(args.labels))
    else:
        labels = labels_of_boxes(args)
    mining = mining_of(args)
    _check_shapes(args, values, labels)
    stamps = [source.stamp() for source in (values, labels)]
    if isinstance(labels, MatchedLabels):
        ids, class_names = labels.objects.ids, labels.objects.class_names
    else:
        ids, class_names = None if args.ids is None else read_ids(args.ids, len(values)), []
    if args.class_names is not None:
        class_names = read_class_names(args.class_names)
    if class_names and values.ndim == 3 and len(class_names) != values.shape[2]:
        expected = f"a name for each of {values.shape[2]} classes"
        raise DataError(f"{args.class_names or args.boxes}: expected {expected}, got {len(class_names)}")
    analysis = LossAnalysis(
        mining=mining,
        ratios=args.ratio_sweep or RATIOS,
        levels=args.levels,
        top=args.top,
        classification=_CLASSIFICATIONS[args.classification or "softmax"]() if values.ndim == 3 else None,
        num_threads=1,
    )
    analysis.spec.checked(values.outline[:0], labels.outline[:0])
    spec = analysis.spec.to_dict()
    arguments = parts.Arguments(
        values=args.values,
        labels=labels.name,
        boxes=args.boxes,
        ids=args.ids,
        class_names=args.class_names,
        values_shape=list(values.shape),
        values_dtype=values.dtype.str,
        labels_shape=list(labels.shape),
        labels_dtype=labels.dtype.str,
    )
    num_workers = parts.num_workers(args.num_threads, args.max_memory)
    return parts.DataSet(
        values=values,
        labels=labels,
        ids=ids,
        analysis=analysis,
        num_workers=num_workers,
        block_rows=parts.block_rows(values, labels, num_workers, args.max_memory),
        run=parts.Run(
            version=versions()["ssd_mining"],
            arguments=arguments,
            spec=spec,
            class_names=class_names,
            content=parts.content_of(values, labels, ids),
        ),
        stamps=stamps,
    )


def _check_shapes(args: argparse.Namespace, values: ArraySource, labels: ArraySource) -> None:
    if values.ndim not in (2, 3):
        raise DataError(f"{args.values}: expected (N, A) losses or (N, A, C) logits, got shape {values.shape}")
    if values.ndim == 2 and args.classification:
        raise OptionError(f"--classification: expected none beside losses, got {args.classification}")
    for of_values, of_labels, what in zip(values.shape, labels.shape, ("samples", "anchors"), strict=False):
        if of_labels != of_values:
            expected = f"labels of the {of_values:,} {what} of {args.values}"
            raise DataError(f"{labels.name}: expected {expected}, got those of {of_labels:,}")


def check_page(args: argparse.Namespace, name: str = "report.html") -> None:
    """Refuse to begin a page that the installed packages cannot make."""
    missing = [] if args.no_page or not args.out else page.missing_packages()
    if missing:
        hint = f"{install_command(*missing)}, or leave the page out with --no-page"
        raise OptionError(f"{name}: expected {' and '.join(missing)}, to make it, got none installed; {hint}")


def finish(args: argparse.Namespace, whole: parts.Part) -> str:
    """Write the report of all parts, if it goes anywhere; return its summary."""
    result = whole.analysis.result()
    tables = {"top_losses.csv": result.top_samples.to_dict(), "top_anchors.csv": result.top_anchors.to_dict()}
    arguments = asdict(whole.run.arguments)
    as_json = output.json_text({"schema": SCHEMA, "versions": versions(), "arguments": arguments, **result.to_dict()})
    if not args.out:
        return as_json if args.json else _report_text(result)
    with output.atomic_directory(args.out, FILES if args.overwrite else ()) as folder:
        for name, columns in ({"per_sample.csv": whole.columns} | tables).items():
            write_csv(folder / name, columns)
        write_text(folder / "summary.json", f"{as_json}\n")
        if not args.no_page:
            html = page.render(loss_page(result, whole.columns, whole.run, versions()))
            write_text(folder / "report.html", html)
    page_or_not = "" if args.no_page else f"; open {shown(Path(args.out) / 'report.html')}"
    return as_json if args.json else f"{_report_text(result)}\n\nwritten to {shown(args.out)}{page_or_not}"


def _report_text(result: AnalysisResult) -> str:
    anchors = max(1, result.num_anchors)
    lines = [
        f"{'samples':26}{result.num_samples:>14,}",
        f"{'samples without positives':26}{result.num_without_pos:>14,}",
        f"{'positives':26}{result.num_pos:>14,}{result.num_pos / anchors:>10.2%}",
        f"{'negatives':26}{result.num_neg:>14,}{result.num_neg / anchors:>10.2%}",
        f"{'kept negatives':26}{result.num_kept:>14,}{result.num_kept / anchors:>10.2%}",
        f"{'loss of positives':26}{result.positive_sum:>14,.7g}  nats",
        f"{'loss of kept negatives':26}{result.negative_sum:>14,.7g}  nats",
        f"{'confidence loss':26}{result.loss:>14,.7g}  nats per sample",
    ]
    worst = result.top_samples
    if worst.loss.size:
        lines += ["", f"{'worst samples':>24}{'confidence loss':>18}{'positives':>12}{'kept negatives':>17}"]
    for i in range(min(5, worst.loss.size)):
        name = shown(worst.id[i])
        name = name if len(name) <= 24 else f"...{name[-21:]}"
        lines += [f"{name:>24}{worst.loss[i]:>18,.4f}{worst.num_pos[i]:>12,}{worst.num_kept[i]:>17,}"]
    return "\n".join(lines)
