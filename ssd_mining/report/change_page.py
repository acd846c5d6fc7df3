"""What changed between two reports, sample by sample and in all, and the page that shows it."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.report import pictures
from ssd_mining.report.page import Column, Fact, Page, Picture, Section, Sheet, number, share

Columns = Mapping[str, NDArray[Any]]
Summary = Mapping[str, Any]

_TOTALS = ("loss", "num_pos", "num_neg", "num_kept", "positive_sum", "negative_sum")
_KINDS = {
    "positives": ("Positives", pictures.POSITIVE),
    "negatives": ("Negatives", pictures.INK),
    "kept": ("Kept negatives", pictures.KEPT),
    "samples": ("Samples", pictures.INK),
}


def changes(a: Columns, b: Columns, in_a: NDArray[np.int64], in_b: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return a row for every sample that is in both.

    Returns
    -------
    dict of str to ndarray, (n,)
        ``id`` or ``sample``, ``loss_a``, ``loss_b``, and ``change``: 0 where both are the same infinity or NaN, else
        infinite where one of them is NaN, which is the worst loss there is.
    """
    key = "id" if "id" in a else "sample"
    before, after = a["confidence_loss"][in_a], b["confidence_loss"][in_b]
    with np.errstate(invalid="ignore"):
        change = after - before
    was_nan, is_nan = np.isnan(before), np.isnan(after)
    change[is_nan & ~was_nan], change[was_nan & ~is_nan] = np.inf, -np.inf
    change[(before == after) | (was_nan & is_nan)] = 0
    return {key: a[key][in_a], "loss_a": before, "loss_b": after, "change": change}


def compared(a: Summary, b: Summary, changed: Columns, top: int) -> dict[str, Any]:
    """Return the comparison, as JSON can hold it."""
    key, change = next(iter(changed)), changed["change"]
    worst = np.argsort(-change, kind="stable")
    tables = {"worse": worst[change[worst] > 0][:top], "better": worst[change[worst] < 0][::-1][:top]}
    return {
        "totals": {
            name: {"a": _number(a[name]), "b": _number(b[name]), "change": _number(b[name]) - _number(a[name])}
            for name in _TOTALS
        },
        "samples": {
            "both": int(change.size),
            "worse": int((change > 0).sum()),
            "better": int((change < 0).sum()),
            "equal": int((change == 0).sum()),
        },
        "quantiles": {
            kind: {which: report["distributions"][kind]["quantiles"] for which, report in (("a", a), ("b", b))}
            for kind in _KINDS
        },
        **{
            name: {"id" if column == key else column: changed[column][rows].tolist() for column in changed}
            for name, rows in tables.items()
        },
    }


def _number(value: float | None) -> float:
    """Return a number of a summary, whose NaN and infinity became None."""
    return float("nan") if value is None else value


def comparison_page(compared: Mapping[str, Any], changed: Columns, a: Summary, b: Summary) -> Page:
    """Return the page of a comparison."""
    churn = compared["churn"]
    facts = [
        _fact(compared, "loss", "Confidence loss"),
        _fact(compared, "positive_sum", "Loss of positives"),
        _fact(compared, "negative_sum", "Loss of kept negatives"),
        _fact(compared, "num_kept", "Kept negatives"),
        Fact("worse", "Samples that got worse", compared["samples"]["worse"], f"of {compared['samples']['both']:,}"),
        Fact("better", "Samples that got better", compared["samples"]["better"]),
    ]
    if churn is not None:
        note = f"{share(churn['overlap'], 1)} of those that either mines"
        facts += [Fact("kept_both", "Negatives mined by both", churn["kept_both"], note)]
    return Page(
        title="What changed",
        subtitle=[f"A: {a['arguments']['values']}", f"B: {b['arguments']['values']}"],
        facts=facts,
        sections=[_shift_section(a, b), _sample_section(compared, changed), _quantile_section(compared)],
        made=json.dumps({"a": [compared["a"], a["versions"]], "b": [compared["b"], b["versions"]]}, indent=2),
    )


def _fact(compared: Mapping[str, Any], key: str, title: str) -> Fact:
    total = compared["totals"][key]
    sign = "+" if total["change"] > 0 else ""
    return Fact(key, title, total["b"], f"{sign}{number(total['change'])} from {number(total['a'])}")


def _shift_section(a: Summary, b: Summary) -> Section:
    shown = [
        Picture(
            pictures.shift(a["distributions"][kind], b["distributions"][kind], colour, kind),
            f"Losses of the {title.lower()} in A and B",
            f"{title}: A is the grey area, B the line.",
            "Neither has a finite loss above zero.",
        )
        for kind, (title, colour) in _KINDS.items()
    ]
    return Section("the-shift", "How the losses moved", [], shown)


def _quantile_section(compared: Mapping[str, Any]) -> Section:
    quantiles = compared["quantiles"]
    columns = [Column("probability", "Share")]
    values: dict[str, list[Any]] = {"probability": [float(p) for p in quantiles["samples"]["a"]]}
    for kind, (title, _) in _KINDS.items():
        for which in "ab":
            columns += [Column(f"{kind}_{which}", f"{title}, {which.upper()}")]
            values[f"{kind}_{which}"] = [_number(value) for value in quantiles[kind][which].values()]
    caption = "To 0.4 %: this share of the losses is at most so large"
    table = Sheet("quantiles", caption, columns, values, "probability", "ascending")
    return Section("the-quantiles", "Quantiles", [], [], [table])


def _sample_section(compared: Mapping[str, Any], changed: Columns) -> Section:
    columns = [
        Column("id", "Sample", is_number=False),
        Column("loss_a", "Loss in A"),
        Column("loss_b", "Loss in B"),
        Column("change", "Change"),
    ]
    return Section(
        "the-samples",
        "Sample by sample",
        ["A sample that got worse while the others got better was forgotten, or was never right."],
        [
            Picture(
                pictures.change(changed["loss_a"], changed["loss_b"]),
                "Loss of every sample in B, against its loss in A",
                "Every sample with a finite loss above zero in both; above the dashed line, it got worse.",
                "No sample has a finite loss above zero in both.",
            )
        ],
        [
            Sheet("worse", "What got worse most", columns, compared["worse"], "change"),
            Sheet("better", "What got better most", columns, compared["better"], "change", "ascending"),
        ],
    )
