"""``ssd-mining report``: what a data set of losses or logits has to tell, as tables and as a page."""

import argparse
import contextlib
import functools
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssd_mining import LossAnalysis, Sigmoid, Softmax
from ssd_mining.analysis.loss_analysis import RATIOS
from ssd_mining.analysis.result import AnalysisResult
from ssd_mining.checks import DataError, install_command
from ssd_mining.cli.labels import MATCHING_BYTES, MatchedLabels, labels_of_boxes
from ssd_mining.cli.options import OptionError, mining_of
from ssd_mining.cli.program import command
from ssd_mining.cli.progress import progress
from ssd_mining.cli.rows import total_rows, worst_rows
from ssd_mining.files import output
from ssd_mining.files.names import Name, read_class_names, read_ids
from ssd_mining.files.sources import ArraySource, open_array
from ssd_mining.files.text import shown
from ssd_mining.report import page, parts
from ssd_mining.report.loss_report import FILES, LossReport, tables_of
from ssd_mining.report.versions import versions

SHARD_FILE = "shard.npz"
NEVER = 2.0  # no overlap is as large
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
            return finish(args, whole, data.labels)
        with output.atomic_directory(args.out, replaced) as shard:
            whole.save(shard / SHARD_FILE)
    where = f"{span.stop - span.start:,} of {len(data.values):,} samples, from sample {span.start:,}"
    return f"{where}, written to {shown(args.out)}; see {command('merge', '--help')}"


def _analysed(args: argparse.Namespace, data: parts.DataSet, span: parts.Span, folder: Path | None) -> parts.Part:
    """Analyse the samples of a span, part by part; a folder keeps the finished ones, and may hold some already."""
    spans = parts.cut(span, sum(source.row_bytes for source in data.sources.values()))
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
    mining, match, anchor_bytes = mining_of(args), None, 0
    beside = {name: files.enter_context(open_array(path)) for name, path in _beside(args).items()}
    sources = [values, labels, *beside.values()]
    _check_shapes(args, sources)
    stamps = [source.stamp() for source in sources]
    if "overlaps" in beside or isinstance(labels, MatchedLabels):
        # The labels say which anchors are ignored; the overlaps say which negatives are free.
        mining = replace(mining, neg_overlap=NEVER)
    if isinstance(labels, MatchedLabels):
        match, anchor_bytes = functools.partial(_matched, labels), MATCHING_BYTES
    ids, class_names = _names(args, values, labels)
    analysis = LossAnalysis(
        mining=mining,
        ratios=args.ratio_sweep or RATIOS,
        levels=args.levels,
        top=args.top,
        beta=1.0 if args.beta is None else args.beta,
        classification=_CLASSIFICATIONS[args.classification or "softmax"]() if values.ndim == 3 else None,
        num_threads=1,
    )
    analysis.spec.checked(values.outline[:0], labels.outline[:0])
    spec = analysis.spec.to_dict()
    arguments = parts.Arguments(
        values=args.values,
        labels=labels.name,
        boxes=args.boxes,
        beside=_beside(args),
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
        beside=beside,
        match=match,
        ids=ids,
        analysis=analysis,
        num_workers=num_workers,
        block_rows=parts.block_rows(sources, num_workers, args.max_memory, anchor_bytes),
        run=parts.Run(
            version=versions()["ssd_mining"],
            arguments=arguments,
            spec=spec,
            class_names=class_names,
            content=parts.content_of(sources, ids),
        ),
        stamps=stamps,
    )


def _names(args: argparse.Namespace, values: ArraySource, labels: ArraySource) -> tuple[list[Name] | None, list[str]]:
    """Return what the samples and the classes are called."""
    if isinstance(labels, MatchedLabels):
        ids, class_names = labels.objects.ids, labels.objects.class_names
    else:
        ids, class_names = None if args.ids is None else read_ids(args.ids, len(values)), []
    if args.class_names is not None:
        class_names = read_class_names(args.class_names)
    if class_names and values.ndim == 3 and len(class_names) != values.shape[2]:
        expected = f"a name for each of {values.shape[2]} classes"
        raise DataError(f"{args.class_names or args.boxes}: expected {expected}, got {len(class_names)}")
    return ids, class_names


def _beside(args: argparse.Namespace) -> dict[str, str]:
    """Return the files that tell more than losses and labels, by the name of the argument that they become."""
    given = {name: getattr(args, name) for name in ("matched", "overlaps", "loc_pred", "loc_target")}
    files = {name: path for name, path in given.items() if path is not None}
    of_boxes = files.keys() & {"matched", "overlaps", "loc_target"}
    if args.boxes is not None and of_boxes:
        option = f"--{min(of_boxes).replace('_', '-')}"
        raise OptionError(f"{option}: expected none beside --boxes, which give it, got both")
    if args.images is not None and args.boxes is None:
        raise OptionError("--images: expected --boxes and --anchors beside it, got none")
    if args.boxes is None and ("loc_pred" in files) != ("loc_target" in files):
        missing, other = ("pred", "target") if "loc_target" in files else ("target", "pred")
        raise OptionError(f"--loc-{missing}: expected a file beside --loc-{other}, got none")
    return files


def _matched(labels: MatchedLabels, first: int, given: dict[str, Any]) -> dict[str, Any]:
    """Return what the boxes of the samples of a block give."""
    return labels.told(first, first + len(given["values"]), located="loc_pred" in given)


def _check_shapes(args: argparse.Namespace, sources: list[ArraySource]) -> None:
    values, *others = sources
    if values.ndim not in (2, 3):
        raise DataError(f"{args.values}: expected (N, A) losses or (N, A, C) logits, got shape {values.shape}")
    if values.ndim == 2 and args.classification:
        raise OptionError(f"--classification: expected none beside losses, got {args.classification}")
    for source in others:
        what = "labels" if source is others[0] else "rows"
        for of_values, own, of in zip(values.shape, source.shape, ("samples", "anchors"), strict=False):
            if own != of_values:
                expected = f"{what} of the {of_values:,} {of} of {args.values}"
                raise DataError(f"{source.name}: expected {expected}, got those of {own:,}")


def check_page(args: argparse.Namespace, name: str = "report.html") -> None:
    """Refuse to begin a page that the installed packages cannot make."""
    missing = [] if args.no_page or not args.out else page.missing_packages()
    if missing:
        hint = f"{install_command(*missing)}, or leave the page out with --no-page"
        raise OptionError(f"{name}: expected {' and '.join(missing)}, to make it, got none installed; {hint}")


def finish(args: argparse.Namespace, whole: parts.Part, labels: ArraySource | None = None) -> str:
    """Write the report of all parts, if it goes anywhere; return its summary. Boxes of `labels` are drawn on images."""
    report = LossReport.of(whole.analysis, whole.columns, whole.run.class_names, asdict(whole.run.arguments))
    result, images = report.result(), None
    if isinstance(labels, MatchedLabels) and args.images is not None:
        objects, tables = labels.objects, [table.to_dict() for table in tables_of(result).values()]
        listed = [columns["sample"] for columns in tables if "sample" in columns]
        samples = np.unique(np.concatenate(listed)).tolist()
        report.boxes = {i: objects.boxes[objects.offsets[i] : objects.offsets[i + 1]] for i in samples}
        report.anchors, images = labels.corners, args.images
        if objects.sizes is not None:
            report.sizes = {i: (int(objects.sizes[i, 0]), int(objects.sizes[i, 1])) for i in samples}
        if objects.files is not None:
            report.files = {i: objects.files[i] for i in samples}
    if args.out:
        report.write(args.out, images=images, page=not args.no_page, overwrite=args.overwrite)
    if args.json:
        return output.json_text(report.summary())
    text = _report_text(result)
    page_or_not = "" if args.no_page else f"; open {shown(Path(str(args.out)) / 'report.html')}"
    return f"{text}\n\nwritten to {shown(args.out)}{page_or_not}" if args.out else text


def _report_text(result: AnalysisResult) -> str:
    lines = total_rows(result, "mean of the samples")
    for name, worst in {**result.causes, "confidence_loss": result.top_samples}.items():
        columns = worst.id, getattr(worst, name), worst.num_pos, worst.num_kept
        lines += worst_rows(_TITLES[name], zip(*(column[:3].tolist() for column in columns), strict=True))
    return "\n".join(lines)


_TITLES = {
    "unrecognised": "unrecognised objects, nats",
    "false_alarm": "false alarms, probability",
    "misplaced": "misplaced boxes, nats",
    "confidence_loss": "largest losses, nats",
}
