"""The page of a comparison: what changed from report A to report B."""

import json

from ssd_mining.report import pictures
from ssd_mining.report.comparison import Changes, Comparison, number_of
from ssd_mining.report.page import Column, Fact, Page, Picture, Section, Sheet, columns_of, number, share
from ssd_mining.report.saved_report import SavedReport

_TITLES = {"positives": "Positives", "negatives": "Negatives", "kept": "Kept negatives", "samples": "Samples"}
_COLOURS = {"positives": pictures.POSITIVE, "kept": pictures.KEPT}


def change_page(comparison: Comparison, changes: Changes, a: SavedReport, b: SavedReport) -> Page:
    """Return the page of a comparison."""
    samples, churn = comparison.samples, comparison.churn
    facts = [
        _total_fact(comparison, "loss", "Confidence loss"),
        _total_fact(comparison, "positive_sum", "Loss of positives"),
        _total_fact(comparison, "negative_sum", "Loss of kept negatives"),
        _total_fact(comparison, "num_kept", "Kept negatives"),
        Fact("worse", "Samples that got worse", samples.worse, f"of {samples.both:,}"),
        Fact("better", "Samples that got better", samples.better),
    ]
    if churn is not None:
        note = f"{share(churn.overlap, 1)} of those that either mines"
        facts += [Fact("kept_both", "Negatives mined by both", churn.kept_both, note)]
    return Page(
        title="What changed",
        subtitle=[f"A: {a.summary['arguments']['values']}", f"B: {b.summary['arguments']['values']}"],
        facts=facts,
        sections=[_distribution_section(a, b), _sample_section(comparison, changes), _quantile_section(comparison)],
        made=json.dumps({"a": [a.name, a.summary["versions"]], "b": [b.name, b.summary["versions"]]}, indent=2),
    )


def _total_fact(comparison: Comparison, key: str, title: str) -> Fact:
    total = comparison.totals[key]
    sign = "+" if total.change > 0 else ""
    return Fact(key, title, total.b, f"{sign}{number(total.change)} from {number(total.a)}")


def _distribution_section(a: SavedReport, b: SavedReport) -> Section:
    before, after = a.summary["distributions"], b.summary["distributions"]
    shown = [
        Picture(
            pictures.moved_distribution(before[kind], after[kind], _COLOURS.get(kind, pictures.INK), kind),
            f"Losses of the {title.lower()} in A and B",
            f"{title}: A is the grey area, B the line.",
            "Neither has a finite loss above zero.",
        )
        for kind, title in _TITLES.items()
    ]
    return Section("the-shift", "How the losses moved", pictures=shown)


def _sample_section(comparison: Comparison, changes: Changes) -> Section:
    picture = Picture(
        pictures.change(changes.loss_a, changes.loss_b),
        "Loss of every sample in B, against its loss in A",
        "Every sample with a finite loss above zero in both; above the dashed line, it got worse.",
        "No sample has a finite loss above zero in both.",
    )
    return Section(
        "the-samples",
        "Sample by sample",
        ["A sample that got worse while the others got better was forgotten, or was never right."],
        [picture],
        [
            Sheet("worse", "What got worse most", columns_of(comparison.worse), "change"),
            Sheet("better", "What got better most", columns_of(comparison.better), "change", "ascending"),
        ],
    )


def _quantile_section(comparison: Comparison) -> Section:
    shares = [float(p) for p in comparison.quantiles["samples"]["a"]]
    columns = [Column("probability", "Share", shares)]
    for kind, title in _TITLES.items():
        for which in "ab":
            values = [number_of(value) for value in comparison.quantiles[kind][which].values()]
            columns += [Column(f"{kind}_{which}", f"{title}, {which.upper()}", values)]
    caption = "To 0.4 %: this share of the losses is at most so large"
    return Section(
        "the-quantiles", "Quantiles", tables=[Sheet("quantiles", caption, columns, "probability", "ascending")]
    )
