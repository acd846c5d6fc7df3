"""The pictures of a report: drawn by matplotlib, returned as SVG whose colours and letters are those of the page.

Every colour is a number that stands for a name, and is replaced by that name when all is drawn: the page decides what
it looks like in the light and in the dark. The same numbers give the same bytes.
"""

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.analysis.histogram import LossHistogram
from ssd_mining.analysis.result import ClassTable, LevelTable, RatioTable, TopSamples

# What stands for a colour of the page while matplotlib draws.
INK, FAINT, POSITIVE, NEGATIVE, KEPT = "#010203", "#020304", "#030405", "#040506", "#050607"
_NAMES = {INK: "ink", FAINT: "faint", POSITIVE: "positive", NEGATIVE: "negative", KEPT: "kept"}

WIDTH, HEIGHT = 5.0, 3.1  # inches: 360 units wide, so that letters of 11 are read on a telephone too
LEAST_LOSS = 1e-8  # of the axis; float32 losses from logits reach down to 1e-45, where nothing is learnt
MOST_POINTS = 2000  # samples that are drawn one by one
MOST_BARS = 20

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # it comes with matplotlib, and is wider than what the page will use
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "patch.linewidth": 0,
}


@contextlib.contextmanager
def _drawing(name: str, height: float = HEIGHT) -> Iterator[tuple[Any, list[str]]]:
    """Yield axes to draw on, and a list that holds the SVG afterwards."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    svg: list[str] = []
    defaults: dict[Any, Any] = dict(mpl.rcParamsDefault)  # not what the user has set
    with mpl.rc_context(defaults | _STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure.add_subplot(), svg
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg.append(_of_the_page(file.getvalue()))


def _of_the_page(svg: str) -> str:
    """Return an SVG that can stand in a page: no prologue, no size of its own, the page's colours and letters."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--letters)", svg)
    for colour, name in _NAMES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg.strip()


def distributions(losses: Mapping[str, LossHistogram]) -> str | None:
    """Draw how many positives, negatives and kept negatives have which loss; None where no loss is above zero."""
    shown = (("negatives", NEGATIVE, 0.25), ("kept", KEPT, 0.45), ("positives", POSITIVE, 0.25))
    bins = {name: losses[name].log_bins() for name, *_ in shown}
    edges = [edges for edges, _ in bins.values() if edges.size]
    if not edges:
        return None
    with _drawing("distributions") as (axes, svg):
        axes.set(xscale="log", yscale="log", xlabel="loss (nats)", ylabel="anchors")
        for name, colour, alpha in shown:
            if bins[name][0].size:
                title = "kept negatives" if name == "kept" else name
                label = f"{title} ({short(losses[name].count)})"
                axes.stairs(bins[name][1], bins[name][0], fill=True, color=colour, alpha=alpha, baseline=0.5)
                axes.stairs(bins[name][1], bins[name][0], color=colour, label=label, linewidth=1.5, baseline=0.5)
        axes.set_xlim(max(LEAST_LOSS, min(e[0] for e in edges)), max(e[-1] for e in edges))
        axes.set_ylim(0.5, 1.5 * max(int(counts.max()) for _, counts in bins.values() if counts.size))
        axes.figure.legend(loc="outside upper right", ncols=3, columnspacing=1, handlelength=1, fontsize=9.5)
        _short_ticks(axes.xaxis, axes.yaxis)
    return svg[0]


def ratio_sweep(table: RatioTable, used: float) -> str | None:
    """Draw the loss against the negatives kept per positive, and mark the ratio that was used."""
    if not (np.isfinite(table.loss) & (table.loss > 0)).any():
        return None
    with _drawing("ratios") as (axes, svg):
        axes.plot(table.ratio, table.loss, color=KEPT, marker="o", markersize=5)
        axes.axvline(used, color=FAINT, linestyle=(0, (3, 3)), linewidth=1)
        axes.annotate(
            f"used: {used:g}",
            (used, 1),
            (4, -4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
        )
        axes.set(xlabel="negatives kept per positive", ylabel="confidence loss (nats)", xlim=(0, None))
        axes.set_ylim(0, 1.12 * float(table.loss[np.isfinite(table.loss)].max()))
        _short_ticks(axes.xaxis, axes.yaxis)
    return svg[0]


def balance(positive_sum: NDArray[Any], negative_sum: NDArray[Any]) -> str | None:
    """Draw what kept negatives cost every sample, against what its positives do; None where no sample has both."""
    return _against("balance", (positive_sum, "positives (nats)"), (negative_sum, "kept negatives (nats)"))


def change(before: NDArray[Any], after: NDArray[Any]) -> str | None:
    """Draw what every sample loses in B, against what it loses in A; None where no sample loses in both."""
    return _against("change", (before, "A: loss (nats)"), (after, "B: loss (nats)"))


def _against(name: str, across: tuple[NDArray[Any], str], up: tuple[NDArray[Any], str]) -> str | None:
    """Draw samples by two numbers, those above zero, and where the two are equal."""
    both = (across[0] > 0) & (up[0] > 0) & np.isfinite(across[0]) & np.isfinite(up[0])
    if not both.any():
        return None
    x, y = across[0][both], up[0][both]
    with _drawing(name) as (axes, svg):
        axes.set(xscale="log", yscale="log", xlabel=across[1], ylabel=up[1])
        if x.size <= MOST_POINTS:
            axes.scatter(x, y, s=14 if x.size > 30 else 36, color=KEPT, alpha=0.6, linewidth=0)
        else:
            from matplotlib.colors import LinearSegmentedColormap

            shades = LinearSegmentedColormap.from_list("", [(*_rgb(KEPT), 0.12), (*_rgb(KEPT), 1.0)])
            axes.hexbin(x, y, gridsize=36, xscale="log", yscale="log", mincnt=1, bins="log", cmap=shades, linewidth=0)
        low, high = min(x.min(), y.min()) / 1.3, max(x.max(), y.max()) * 1.3
        axes.plot([low, high], [low, high], color=FAINT, linestyle=(0, (3, 3)), linewidth=1)
        axes.annotate("equal", (high, high), (-4, -2), textcoords="offset points", ha="right", va="top")
        axes.set(xlim=(low, high), ylim=(low, high))
        _short_ticks(axes.xaxis, axes.yaxis)
    return svg[0]


def shift(before: Mapping[str, Any], after: Mapping[str, Any], colour: str, kind: str) -> str | None:
    """Draw one distribution of A and of B, as `LossHistogram.to_dict` tells them; None where neither has a loss."""
    bins = [(np.array(d["log_bins"]["edges"]), np.array(d["log_bins"]["counts"])) for d in (before, after)]
    if not any(edges.size for edges, _ in bins):
        return None
    with _drawing(f"shift {kind}") as (axes, svg):
        axes.set(
            xscale="log", yscale="log", xlabel="loss (nats)", ylabel="samples" if kind == "samples" else "anchors"
        )
        for (edges, counts), label, colours in zip(bins, "AB", ((FAINT, 0.3), (colour, 0.0)), strict=True):
            if edges.size:
                axes.stairs(counts, edges, fill=True, color=colours[0], alpha=colours[1], baseline=0.5)
                axes.stairs(counts, edges, color=colours[0], label=label, linewidth=1.5, baseline=0.5)
        axes.set_xlim(max(LEAST_LOSS, min(e[0] for e, _ in bins if e.size)), max(e[-1] for e, _ in bins if e.size))
        axes.set_ylim(0.5, 1.5 * max(int(counts.max()) for _, counts in bins if counts.size))
        axes.figure.legend(loc="outside upper right", ncols=2, handlelength=1)
        _short_ticks(axes.xaxis, axes.yaxis)
    return svg[0]


def worst(samples: TopSamples) -> str | None:
    """Draw the losses of the worst samples, and which part of them is their positives'."""
    chosen = np.flatnonzero(np.isfinite(samples.loss) & (samples.loss > 0))[:MOST_BARS]
    if not chosen.size:
        return None
    with _drawing("worst", 0.9 + 0.21 * chosen.size) as (axes, svg):
        _two_bars(axes, samples.positive_sum[chosen], samples.negative_sum[chosen])
        axes.set_yticks(range(chosen.size), [_shortened(name) for name in samples.id[chosen]])
    return svg[0]


def classes(table: ClassTable, names: list[str]) -> str | None:
    """Draw what the classes cost, those that cost most: their positives, and the negatives taken for them."""
    total = table.positive_sum + table.negative_sum
    chosen = np.argsort(-np.where(np.isfinite(total), total, np.inf), kind="stable")[:MOST_BARS]
    chosen = chosen[np.isfinite(total[chosen]) & (total[chosen] > 0)]
    if not chosen.size:
        return None
    with _drawing("classes", 0.9 + 0.21 * chosen.size) as (axes, svg):
        _two_bars(axes, table.positive_sum[chosen], table.negative_sum[chosen])
        axes.set_yticks(range(chosen.size), [_shortened(names[i]) for i in chosen])
    return svg[0]


def levels(table: LevelTable) -> str | None:
    """Draw what the feature maps cost: their positives, and their kept negatives."""
    total = table.positive_sum + table.negative_sum
    if not (np.isfinite(total).all() and (total > 0).any()):
        return None
    with _drawing("levels", 0.9 + 0.24 * total.size) as (axes, svg):
        _two_bars(axes, table.positive_sum, table.negative_sum)
        labels = [f"{i}: {short(count)} anchors" for i, count in enumerate(table.num_anchors.tolist())]
        axes.set_yticks(range(total.size), labels)
    return svg[0]


def _two_bars(axes: Any, positive: NDArray[Any], negative: NDArray[Any]) -> None:
    """Draw lying bars, the first on top: what positives cost, and kept negatives after it."""
    places = np.arange(positive.size)
    axes.barh(places, positive, color=POSITIVE, height=0.72, label="positives")
    if negative.any():
        axes.barh(places, negative, left=positive, color=KEPT, height=0.72, label="kept negatives")
    axes.set_xlabel("loss (nats)")
    axes.set_ylim(positive.size - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.figure.legend(loc="outside upper right", ncols=2)
    _short_ticks(axes.xaxis)


def _short_ticks(*every_axis: Any) -> None:
    """Label an axis in few letters, at few places: of a logarithmic one that is short, at 1, 2 and 5 too."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in every_axis:
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 20 * low else (1,), numticks=7))
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axis.set_minor_formatter(NullFormatter())


def short(value: float) -> str:
    """Write a number in a few letters: 12k, 0.05, 1e-6."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if limit <= abs(value) < 1e12:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}".replace("e-0", "e-").replace("e+", "e")


def _shortened(name: object) -> str:
    text = str(name)
    return text if len(text) <= 16 else f"…{text[-15:]}"


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
