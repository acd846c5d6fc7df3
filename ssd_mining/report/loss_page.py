"""The page of a report: what `LossAnalysis` found, in the order of the questions."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.analysis.histogram import LossHistogram
from ssd_mining.analysis.result import AnalysisResult, Table
from ssd_mining.engine.run import Columns, sample_losses
from ssd_mining.report import pictures
from ssd_mining.report.page import Column, Fact, Page, Picture, Section, Sheet, columns_of, share
from ssd_mining.report.thumbnails import FIRST_SAMPLES, Images, gallery

NAMES = ("positives", "negatives", "kept", "samples")
MOST_CONFUSIONS = 50
CAUSES = {
    "unrecognised": "Unrecognised objects: the object that the model believes in least. Wrong classes come first.",
    "false_alarm": "False alarms: the model sees an object where none is labelled. Missing boxes come first.",
    "misplaced": "Misplaced boxes: the boxes are far from where the model puts them. Shifted boxes come first.",
}


def loss_page(
    result: AnalysisResult,
    columns: Columns,
    class_names: Sequence[str],
    arguments: Mapping[str, Any],
    versions: Mapping[str, str | None],
    images: Images | None = None,
) -> Page:
    """Return the page of one data set: what an analysis found in all, and its columns, (N,), of every sample.

    A class that has no name is called by its number. `arguments` say where the arrays are, if they are in files.
    """
    name_of = functools.partial(_class_name, names=class_names, background=result.spec["mining"]["background"])
    sections = [
        _causes_section(result),
        *([] if images is None else _gallery_sections(result, images, name_of)),
        _places_section(result, name_of),
        _distribution_section(result, columns),
        _sweep_section(result),
        _total_section(result, columns),
        _class_section(result, class_names, name_of),
        _level_section(result),
    ]
    made = {"versions": versions, "arguments": arguments, "spec": result.spec}
    files = [f"{arguments['values']} with labels {arguments['labels']}"] if "values" in arguments else []
    return Page(
        title="Loss report",
        subtitle=[
            *files,
            f"Losses are in nats. Of every sample, the {_rule(result.spec['mining'])}.",
        ],
        facts=_facts(result),
        sections=[section for section in sections if section is not None],
        made=json.dumps(made, indent=2),
    )


def _rule(mining: Mapping[str, Any]) -> str:
    bounds = [
        f"at {word} {mining[key]:g}"
        for key, word in (("min_negatives", "least"), ("max_negatives", "most"))
        if mining[key]
    ]
    return ", ".join([f"hardest negatives are kept, {mining['neg_pos_ratio']:g} for every positive", *bounds])


def _facts(result: AnalysisResult) -> list[Fact]:
    anchors, loss = max(1, result.num_anchors), result.loss_sum
    ignored = result.num_anchors - result.num_pos - result.num_neg
    kept = f"{share(result.num_kept, result.num_neg)} of the negatives"
    positive, negative = (f"{share(part, loss)} of all loss" for part in (result.positive_sum, result.negative_sum))
    return [
        Fact("loss", "Confidence loss", result.loss, "mean of the samples, in nats"),
        Fact("num_samples", "Samples", result.num_samples, f"{result.num_without_pos:,} without positives"),
        Fact("num_anchors", "Anchors", result.num_anchors, f"{ignored:,} ignored" if ignored else ""),
        Fact("num_pos", "Positives", result.num_pos, f"{share(result.num_pos, anchors)} of the anchors"),
        Fact("num_neg", "Negatives", result.num_neg, f"{share(result.num_neg, anchors)} of the anchors"),
        Fact("num_kept", "Kept negatives", result.num_kept, kept),
        Fact("positive_sum", "Loss of positives", result.positive_sum, positive),
        Fact("negative_sum", "Loss of kept negatives", result.negative_sum, negative),
    ]


def _causes_section(result: AnalysisResult) -> Section:
    tables = []
    for cause, worst in result.causes.items():
        first = worst.id[:FIRST_SAMPLES].tolist()
        beside = "num_false_alarms" if cause == "false_alarm" else "num_pos"
        titles = {each.name: each.metadata.get("title", each.name) for each in fields(worst)}
        columns = [Column("id", "Sample", first, is_number=False)]
        columns += [Column(key, titles[key], getattr(worst, key)[:FIRST_SAMPLES].tolist()) for key in (cause, beside)]
        tables.append(Sheet(cause, CAUSES[cause] if first else f"{CAUSES[cause]} None was found.", columns, cause))
    text = "Each list finds its own kind of fault: a wrong class, a missing box, a box in the wrong place."
    return Section("look-first", "Look at these samples first", [text], [], tables)


_MISPLACED = "Purple: boxes that are placed worst, with their localization loss. "


def _gallery_sections(result: AnalysisResult, images: Images, name_of: Callable[[int], str]) -> list[Section]:
    legend = (
        "Blue: labelled boxes. Pink: objects that are recognised least, with their loss in nats. "
        f"{_MISPLACED if result.top_boxes.sample.size else ''}Orange: false alarms, with their probability."
    )
    drawn = {cause: gallery(worst, result, images, name_of) for cause, worst in result.causes.items()}
    titles = {cause: CAUSES[cause].partition(":")[0] for cause in drawn}
    return [Section(f"see-{cause}", titles[cause], [legend], gallery=each) for cause, each in drawn.items() if each]


def _places_section(result: AnalysisResult, name_of: Callable[[int], str]) -> Section:
    def named(key: str, title: str, numbers: NDArray[np.int64]) -> list[Column]:
        if (numbers < 0).all():
            return []  # no class is known
        return [Column(key, title, [name_of(number) for number in numbers.tolist()], is_number=False)]

    def listed(table: Table) -> list[Column]:
        return [
            each
            for each in columns_of(table)
            if each.key not in ("num_folded", "object") or max(each.values, default=0) > 0
        ]

    objects, boxes = result.top_objects, result.top_boxes
    alarms, negatives = result.top_false_alarms, result.top_negatives
    positions, confusions = result.positions, result.confusions
    classes = [*named("class", "Class", objects.label), *named("taken", "Taken for", objects.taken_for)]
    free = "that overlap no object by 0.1 or more, and look like one"
    if "overlaps" not in result.beside:
        free = "that look like an object. No overlaps were given, so some may lie on one that is labelled"
    tables = [
        Sheet("top_objects", "The objects that are recognised least.", [*listed(objects), *classes], "loss"),
        Sheet(
            "top_false_alarms",
            f"The surest false alarms: negatives {free}.",
            [*listed(alarms), *named("class", "Taken for", alarms.label)],
            "probability",
        ),
        Sheet(
            "top_negatives",
            "The kept negatives with the largest losses.",
            [*listed(negatives), *named("class", "Taken for", negatives.label)],
            "loss",
        ),
    ]
    if boxes.sample.size:
        label = named("class", "Class", boxes.label)
        tables.insert(
            1, Sheet("top_boxes", "The objects whose boxes are placed worst.", [*listed(boxes), *label], "loss")
        )
    if positions.anchor.size:
        stuck = Column("stuck", "Stuck", ["yes" if each else "no" for each in positions.is_stuck], is_number=False)
        caption = (
            "Positions on the anchor axis that are among the worst of several samples. A stuck one is bad whatever the "
            "image shows; the lists above have it once."
        )
        tables.append(Sheet("positions", caption, [*columns_of(positions), stuck], "num_samples"))
    if confusions is not None and confusions.count.size:
        first = slice(0, MOST_CONFUSIONS)
        columns = [
            *named("from", "Labelled", confusions.label[first]),
            *named("to", "Taken for", confusions.taken_for[first]),
        ]
        columns += [replace(column, values=column.values[first]) for column in columns_of(confusions)]
        tables.append(
            Sheet("confusions", "What the positives and the kept negatives are taken for.", columns, "count")
        )
    stuck_ones = positions.anchor[positions.is_stuck].tolist()
    text = [f"Stuck anchors: {', '.join(map(str, stuck_ones))}."] if stuck_ones else []
    return Section("which-places", "The worst places in them", text, [], tables)


def rank_correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return Spearman's rank correlation of two columns, (n,); equal values share their mean rank, 0 if all are."""

    def ranks(values: NDArray[Any]) -> NDArray[np.float64]:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse])

    both = ranks(a), ranks(b)
    if a.size < 2 or min(np.ptp(each) for each in both) == 0:
        return 0.0
    return float(np.corrcoef(*both)[0, 1])


def _distribution_section(result: AnalysisResult, columns: Columns) -> Section:
    losses = result.distributions
    not_drawn = _not_drawn(losses)
    caption = "How many anchors have a loss between one value and twice that."
    anchors = Picture(
        pictures.distributions(losses),
        "Loss distributions of positives, negatives and kept negatives",
        f"{caption} Not drawn: {not_drawn}." if not_drawn else caption,
        "There is no finite loss above zero to draw.",
    )
    samples = Picture(
        pictures.balance(columns["positive_sum"], columns["negative_sum"]),
        "Loss of kept negatives against loss of positives, sample by sample",
        "Every sample with both, by the loss of its positives and of its kept negatives; above the dashed line, "
        "negatives have more to say.",
        "No sample has both positives and kept negatives.",
    )
    quantiles = {name: losses[name].to_dict()["quantiles"] for name in NAMES}
    shares = [float(p) for p in quantiles["samples"]]
    table = Sheet(
        "quantiles",
        "How large the losses are, to 0.4 %: in the row of 0.9, nine of ten are at most this large.",
        [
            Column("probability", "Share of the losses", shares),
            *(Column(name, name.capitalize(), list(quantiles[name].values())) for name in NAMES),
        ],
        "probability",
        "ascending",
    )
    advice = (
        "Mining helps where the kept negatives are the hard end of the negatives, about as hard as the positives."
    )
    return Section("all-losses", "Where the loss is", [advice, *_worst_tenth(columns)], [anchors, samples], [table])


def _not_drawn(losses: Mapping[str, LossHistogram]) -> str:
    """Say which losses have no place on a logarithmic axis, and how many they are."""
    drawn = [losses["positives"], losses["negatives"]]
    counts = {
        "zero": sum(d.num_zero for d in drawn),
        f"above zero, but below {pictures.short(pictures.LEAST_LOSS)}": sum(
            int(d.counts[(d.values > 0) & (d.values < pictures.LEAST_LOSS)].sum()) for d in drawn
        ),
        "below zero": sum(d.num_negative for d in drawn),
        "infinite": sum(d.num_inf for d in drawn),
        "NaN": sum(d.num_nan for d in drawn),
    }
    return ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)


def _worst_tenth(columns: Columns) -> list[str]:
    """Say how much of the loss the worst tenth of the samples has, where there are enough to say so."""
    loss = columns["confidence_loss"]
    finite = np.sort(loss[np.isfinite(loss)])[::-1]
    if finite.size < 20 or finite.sum() <= 0:
        return []
    part = share(float(finite[: finite.size // 10].sum()), float(finite.sum()))
    return [f"The worst tenth of the samples has {part} of the loss."]


def _sweep_section(result: AnalysisResult) -> Section | None:
    sweep = result.ratio_sweep
    if sweep is None:
        return None
    picture = Picture(
        pictures.ratio_sweep(sweep, result.spec["mining"]["neg_pos_ratio"]),
        "Confidence loss by negatives kept per positive",
        "The confidence loss of the data set for every ratio.",
        "There is no finite loss above zero to draw.",
    )
    return Section(
        "by-ratio",
        "What another ratio would do",
        ["Where the line is flat, further negatives are easy: they cost time and teach little."],
        [picture],
        [Sheet("ratio_sweep", "Negatives kept per positive", columns_of(sweep), "ratio", "ascending")],
    )


def _total_section(result: AnalysisResult, columns: Columns) -> Section:
    samples = result.top_samples
    picture = Picture(
        pictures.worst(samples),
        "Loss of the samples with the largest loss, by positives and kept negatives",
        f"The samples with the largest finite loss, {pictures.MOST_BARS} at most.",
        "No sample has a loss.",
    )
    count = samples.sample.size
    caption = f"The {count:,} samples with the largest loss." if count else "There are no samples."
    without = set() if "misplaced" in result.causes else {"misplaced"}
    shown = [column for column in columns_of(samples) if column.key not in without]
    text = ["This is what was trained on. It is large where many objects are, so it does not say what is wrong."]
    if count > 2:
        measured = rank_correlation(columns["confidence_loss"], columns["num_pos"])
        text.append(f"Its rank correlation with the number of positives is {measured:.2f} here.")
    sheet = Sheet("top_samples", caption, shown, "confidence_loss")
    return Section("the-worst", "The largest losses", text, [picture], [sheet])


def _class_section(
    result: AnalysisResult, class_names: Sequence[str], name_of: Callable[[int], str]
) -> Section | None:
    table = result.classes
    if table is None:
        return None
    from_logits = result.spec["classification"] is not None
    names = [name_of(number) for number in table.label.tolist()]
    picture = Picture(
        pictures.classes(table, names),
        "Loss by class, of positives and of the negatives taken for it",
        f"The classes that cost most, {pictures.MOST_BARS} at most.",
        "No class has a loss.",
    )
    number, *others = [column for column in columns_of(table) if _is_known(result, column)]
    if not from_logits:
        others = [column for column in others if column.key not in ("num_kept", "negative_sum")]
    columns = [number, *others]
    if class_names:
        columns = [Column("name", "Class", names, is_number=False), replace(number, title="Number"), *others]
    order = np.argsort(-sample_losses(table.positive_sum, table.negative_sum), kind="stable").tolist()
    columns = [replace(column, values=[column.values[row] for row in order]) for column in columns]
    text = (
        "A kept negative counts for the foreground class with its largest logit."
        if from_logits
        else "With logits instead of losses, this would also say what negatives are taken for."
    )
    sheet = Sheet("classes", "Losses by class", columns, "" if from_logits else "positive_sum")
    return Section("by-class", "Classes", [text], [picture], [sheet])


def _is_known(result: AnalysisResult, column: Column) -> bool:
    return column.key != "localization_sum" or result.localization_sum is not None


def _class_name(number: int, names: Sequence[str], background: int | None) -> str:
    if number == background:
        return "background"
    if 0 <= number < len(names):
        return names[number]
    return f"class {number}" if number >= 0 else "not named"


def _level_section(result: AnalysisResult) -> Section | None:
    table = result.levels
    if table is None:
        return None
    picture = Picture(
        pictures.levels(table),
        "Loss by feature map, of positives and kept negatives",
        "The feature maps, in the order of their anchors.",
        "No feature map has a finite loss above zero.",
    )
    columns = [column for column in columns_of(table) if _is_known(result, column)]
    sheet = Sheet("levels", "Losses by feature map", columns, "first_anchor", "ascending")
    return Section("by-level", "Feature maps", [], [picture], [sheet])
