"""The page of a report: what `LossAnalysis` found, as one HTML file that needs nothing beside itself."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining import pictures
from ssd_mining.tables import AnalysisResult

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Fact:
    """One number, with its place in `summary.json`."""

    key: str
    title: str
    value: float
    note: str = ""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    key: str
    title: str
    is_number: bool = True


@dataclass(frozen=True)
class Sheet:
    """A table; its rows are pairs of a column and a value."""

    name: str
    caption: str
    columns: Sequence[Column]
    values: Mapping[str, Sequence[Any]]
    sorted_by: str = ""
    sorted: str = "descending"

    @property
    def rows(self) -> list[list[tuple[Column, Any]]]:
        """The rows."""
        values = zip(*(self.values[column.key] for column in self.columns), strict=True)
        return [list(zip(self.columns, row, strict=True)) for row in values]


@dataclass(frozen=True)
class Picture:
    """A picture, or what is said where there is nothing to draw."""

    svg: str | None
    title: str
    caption: str
    missing: str


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    name: str
    title: str
    text: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Sheet] = ()


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    title: str
    subtitle: Sequence[str]
    facts: Sequence[Fact]
    sections: Sequence[Section]
    made: str = field(default="")


def render(page: Page) -> str:
    """Return the page as HTML.

    Raises
    ------
    ImportError
        If jinja2 is not installed.
    """
    from importlib.resources import files

    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)
    environment.filters.update(number=number, exact=exact)
    source = (files("ssd_mining") / "templates" / "report.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(page=page)


def number(value: float) -> str:
    """Write a number for people: whole ones in full, others with 4 digits."""
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def exact(value: float) -> str:
    """Write a number for programs, all of its digits, as JavaScript reads it."""
    text = repr(value)
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)


def loss_page(result: AnalysisResult, columns: Columns, summary: Mapping[str, Any]) -> Page:
    """Return the page of one data set.

    Parameters
    ----------
    result : AnalysisResult
        What the analysis found.
    columns : mapping of str to ndarray, (N,)
        What it said of every sample.
    summary : mapping
        What `summary.json` holds: from here come the arguments and the versions.
    """
    arguments = summary["arguments"]
    sections = [
        _distribution_section(result),
        _balance_section(columns),
        _sweep_section(result),
        _worst_section(result),
        _class_section(result),
        _level_section(result),
    ]
    return Page(
        title="Loss report",
        subtitle=[
            f"{arguments['values']} with labels {arguments['labels']}",
            f"Losses are in nats. Of every sample, the {_rule(result.spec['mining'])}.",
        ],
        facts=_facts(result),
        sections=[section for section in sections if section is not None],
        made=json.dumps({name: summary[name] for name in ("versions", "arguments", "spec")}, indent=2),
    )


def _rule(mining: Mapping[str, Any]) -> str:
    bounds = [
        f"at {word} {mining[key]:g}"
        for key, word in (("min_negatives", "least"), ("max_negatives", "most"))
        if mining[key]
    ]
    return ", ".join([f"hardest negatives are kept, {mining['neg_pos_ratio']:g} for every positive", *bounds])


def _facts(result: AnalysisResult) -> list[Fact]:
    anchors, ignored = max(1, result.num_anchors), result.num_anchors - result.num_pos - result.num_neg
    return [
        Fact("loss", "Confidence loss", result.loss, "mean of the samples, in nats"),
        Fact("num_samples", "Samples", result.num_samples, f"{result.num_without_pos:,} without positives"),
        Fact("num_anchors", "Anchors", result.num_anchors, f"{ignored:,} ignored" if ignored else ""),
        Fact("num_pos", "Positives", result.num_pos, f"{share(result.num_pos, anchors)} of the anchors"),
        Fact("num_neg", "Negatives", result.num_neg, f"{share(result.num_neg, anchors)} of the anchors"),
        Fact("num_kept", "Kept negatives", result.num_kept, f"{share(result.num_kept, result.num_neg)} of the negatives"),
        Fact("positive_sum", "Loss of positives", result.positive_sum, f"{share(result.positive_sum, result.loss_sum)} of all loss"),
        Fact("negative_sum", "Loss of kept negatives", result.negative_sum, f"{share(result.negative_sum, result.loss_sum)} of all loss"),
    ]  # fmt: skip


def share(part: float, whole: float) -> str:
    """Write a share as a percentage; a dash where there is nothing to share."""
    ratio = part / whole if whole else math.nan
    return f"{100 * ratio:.3g} %" if math.isfinite(ratio) else "–"


def _distribution_section(result: AnalysisResult) -> Section:
    losses = result.distributions
    names = ("positives", "negatives", "kept_negatives", "samples")
    probabilities = list(losses["samples"].to_dict()["quantiles"])
    quantiles = {name: [losses[name].quantile(float(p)) for p in probabilities] for name in names}
    unseen = {
        kind: sum(getattr(losses[name], f"num_{kind}") for name in names[:2]) for kind in ("zero", "negative", "inf", "nan")
    }
    words = {"zero": "zero", "negative": "below zero", "inf": "infinite", "nan": "NaN"}
    left_out = ", ".join(f"{count:,} {words[kind]}" for kind, count in unseen.items() if count)
    caption = "How many anchors have which loss; both axes are logarithmic."
    return Section(
        "distributions",
        "Where the loss is",
        ["Mining helps where the kept negatives are the right-hand tail of the negatives, and about as hard as the positives."],
        [
            Picture(
                pictures.distributions(losses),
                "Loss distributions of positives, negatives and kept negatives",
                f"{caption} Not drawn: {left_out}." if left_out else caption,
                "There is no loss above zero to draw.",
            )
        ],
        [
            Sheet(
                "quantiles",
                "Quantiles of the losses, to 0.4 %: so many of them are at most",
                [Column("probability", "Share"), *(Column(name, name.replace("_", " ").capitalize()) for name in names)],
                {"probability": [float(p) for p in probabilities], **quantiles},
                "probability",
                "ascending",
            )
        ],
    )  # fmt: skip


def _balance_section(columns: Columns) -> Section:
    loss = columns["confidence_loss"]
    finite = np.sort(loss[np.isfinite(loss)])[::-1]
    text = []
    if finite.size >= 20 and finite.sum() > 0:
        tenth = finite.size // 10
        text = [f"The worst tenth of the samples has {share(float(finite[:tenth].sum()), float(finite.sum()))} of the loss."]
    return Section(
        "balance",
        "Positives against kept negatives",
        text,
        [
            Picture(
                pictures.balance(columns["positive_sum"], columns["negative_sum"]),
                "Loss of kept negatives against loss of positives, sample by sample",
                "Each sample by the loss of its positives and of its kept negatives; above the dashed line, "
                "negatives have more to say. Samples without either are not drawn.",
                "No sample has both positives and kept negatives.",
            )
        ],
    )


def _sweep_section(result: AnalysisResult) -> Section | None:
    sweep, used = result.ratio_sweep, result.spec["mining"]["neg_pos_ratio"]
    if sweep is None:
        return None
    return Section(
        "ratios",
        "What another ratio would do",
        ["Where the line is flat, further negatives are easy: they cost time and teach little."],
        [
            Picture(
                pictures.ratio_sweep(sweep, used),
                "Confidence loss by negatives kept per positive",
                "The confidence loss of the data set for every ratio.",
                "There is no finite loss to draw.",
            )
        ],
        [
            Sheet(
                "ratio_sweep",
                "Negatives kept per positive",
                [
                    Column("ratio", "Ratio"),
                    Column("num_kept", "Kept negatives"),
                    Column("negative_sum", "Their loss"),
                    Column("loss", "Confidence loss"),
                ],
                lists(sweep.to_dict()),
                "ratio",
                "ascending",
            )
        ],
    )


def _worst_section(result: AnalysisResult) -> Section:
    samples, anchors = result.top_samples, result.top_anchors
    role = np.where(anchors.is_positive, "positive", "kept negative")
    label = ["" if number < 0 else str(number) for number in anchors.label.tolist()]
    return Section(
        "worst",
        "The worst samples",
        ["Look at these first: a wrong label costs as much as a hard example, and looks the same from here."],
        [
            Picture(
                pictures.worst(samples),
                "Loss of the worst samples, by positives and kept negatives",
                f"The worst {min(pictures.MOST_BARS, samples.loss.size)} samples.",
                "There are no samples with a finite loss.",
            )
        ],
        [
            Sheet(
                "top_samples",
                f"The {samples.loss.size:,} worst samples",
                [
                    Column("id", "Sample", is_number=False),
                    Column("loss", "Loss"),
                    Column("positive_sum", "Of positives"),
                    Column("negative_sum", "Of kept negatives"),
                    Column("num_pos", "Positives"),
                    Column("num_kept", "Kept negatives"),
                ],
                lists(samples.to_dict()),
                "loss",
            ),
            Sheet(
                "top_anchors",
                f"The {anchors.loss.size:,} worst anchors",
                [
                    Column("id", "Sample", is_number=False),
                    Column("anchor", "Anchor"),
                    Column("loss", "Loss"),
                    Column("role", "Role", is_number=False),
                    Column("class", "Class", is_number=False),
                ],
                lists({**anchors.to_dict(), "role": role}) | {"class": label},
                "loss",
            ),
        ],
    )


def _class_section(result: AnalysisResult) -> Section | None:
    table = result.classes
    if table is None:
        return None
    names = ["not named" if label < 0 else f"class {label}" for label in table.label.tolist()]
    from_logits = result.spec["classification"] is not None
    taken = "A kept negative counts for the foreground class with its largest logit."
    columns = [Column("label", "Class"), Column("num_pos", "Positives"), Column("positive_sum", "Their loss")]
    columns += [Column("num_kept", "Negatives taken for it"), Column("negative_sum", "Their loss")] * from_logits
    order = np.argsort(-(table.positive_sum + table.negative_sum), kind="stable")
    return Section(
        "classes",
        "Classes",
        [taken if from_logits else "With logits instead of losses, this would also say what negatives are taken for."],
        [
            Picture(
                pictures.classes(table, names),
                "Loss by class, of positives and of the negatives taken for it",
                f"The {min(len(names), pictures.MOST_BARS)} classes that cost most.",
                "No class has a loss.",
            )
        ],
        [
            Sheet(
                "classes_table",
                "Losses by class",
                columns,
                lists({name: column[order] for name, column in table.to_dict().items()}),
                "" if from_logits else "positive_sum",
            )
        ],
    )


def _level_section(result: AnalysisResult) -> Section | None:
    table = result.levels
    if table is None:
        return None
    return Section(
        "levels",
        "Feature maps",
        [],
        [
            Picture(
                pictures.levels(table),
                "Loss by feature map, of positives and kept negatives",
                "The feature maps, in the order of their anchors.",
                "No feature map has a finite loss above zero.",
            )
        ],
        [
            Sheet(
                "levels_table",
                "Losses by feature map",
                [
                    Column("first_anchor", "First anchor"),
                    Column("num_anchors", "Anchors"),
                    Column("num_pos", "Positives"),
                    Column("num_neg", "Negatives"),
                    Column("num_kept", "Kept negatives"),
                    Column("positive_sum", "Loss of positives"),
                    Column("negative_sum", "Loss of kept negatives"),
                ],
                lists(table.to_dict()),
                "first_anchor",
                "ascending",
            )
        ],
    )


def lists(columns: Mapping[str, NDArray[Any]]) -> dict[str, list[Any]]:
    """Return columns as lists of Python's own numbers and strings."""
    return {name: column.tolist() for name, column in columns.items()}


def missing_packages() -> Iterable[str]:
    """Yield the packages that a page needs and that are not installed."""
    from importlib.util import find_spec

    return (name for name in ("jinja2", "matplotlib") if find_spec(name) is None)
