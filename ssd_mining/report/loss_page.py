"""The page of a report: what `LossAnalysis` found, in the order of the questions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from ssd_mining.analysis.histogram import LossHistogram
from ssd_mining.analysis.result import AnalysisResult
from ssd_mining.engine.run import Columns, sample_losses
from ssd_mining.report import pictures
from ssd_mining.report.page import Column, Fact, Page, Picture, Section, Sheet, columns_of, share
from ssd_mining.report.parts import Run

NAMES = ("positives", "negatives", "kept", "samples")


def loss_page(result: AnalysisResult, columns: Columns, run: Run, versions: Mapping[str, str | None]) -> Page:
    """Return the page of one data set: what an analysis found in all, and its columns, (N,), of every sample.

    A class that has no name in the run is called by its number.
    """
    sections = [
        _distribution_section(result, columns),
        _sweep_section(result),
        _worst_section(result, run.class_names),
        _class_section(result, run.class_names),
        _level_section(result),
    ]
    made = {"versions": versions, "arguments": asdict(run.arguments), "spec": result.spec}
    return Page(
        title="Loss report",
        subtitle=[
            f"{run.arguments.values} with labels {run.arguments.labels}",
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


def _distribution_section(result: AnalysisResult, columns: Columns) -> Section:
    losses = result.distributions
    not_drawn = _not_drawn(losses)
    caption = "How many anchors have which loss."
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
        "Quantiles, to 0.4 %: this share of the losses is at most so large",
        [
            Column("probability", "Share", shares),
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


def _worst_section(result: AnalysisResult, class_names: Sequence[str]) -> Section:
    samples, anchors = result.top_samples, result.top_anchors
    role = np.where(anchors.is_positive, "positive", "kept negative").tolist()
    label = ["" if number < 0 else _class_name(number, class_names) for number in anchors.label.tolist()]
    picture = Picture(
        pictures.worst(samples),
        "Loss of the worst samples, by positives and kept negatives",
        f"The worst samples with a finite loss, {pictures.MOST_BARS} at most.",
        "No sample has a loss.",
    )
    anchor_columns = [
        *columns_of(anchors),
        Column("role", "Role", role, is_number=False),
        Column("class", "Class", label, is_number=False),
    ]
    anchor_caption = f"The {anchors.loss.size:,} worst anchors" if anchors.loss.size else "No anchor was selected"
    sample_caption = f"The {samples.loss.size:,} worst samples" if samples.loss.size else "There are no samples"
    return Section(
        "the-worst",
        "The worst samples",
        ["Look at these first: a wrong label costs as much as a hard example, and looks the same from here."],
        [picture],
        [
            Sheet("top_anchors", anchor_caption, anchor_columns, "loss"),
            Sheet("top_samples", sample_caption, columns_of(samples), "loss"),
        ],
    )


def _class_section(result: AnalysisResult, class_names: Sequence[str]) -> Section | None:
    table = result.classes
    if table is None:
        return None
    from_logits = result.spec["classification"] is not None
    names = [_class_name(number, class_names) for number in table.label.tolist()]
    picture = Picture(
        pictures.classes(table, names),
        "Loss by class, of positives and of the negatives taken for it",
        f"The classes that cost most, {pictures.MOST_BARS} at most.",
        "No class has a loss.",
    )
    number, *others = columns_of(table)
    if not from_logits:
        others = [column for column in others if column.key in ("num_pos", "positive_sum")]
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


def _class_name(number: int, names: Sequence[str]) -> str:
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
    sheet = Sheet("levels", "Losses by feature map", columns_of(table), "first_anchor", "ascending")
    return Section("by-level", "Feature maps", [], [picture], [sheet])
