"""The pictures of a report: drawn by matplotlib, returned as SVG whose colours and letters are those of the page.

While matplotlib draws, a number stands for each colour of the page; its name replaces it afterwards, so that the page
decides how it looks in the light and in the dark. The same data give the same bytes.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_mining.analysis.histogram import LossHistogram
from ssd_mining.analysis.result import ClassTable, LevelTable, RatioTable, TopSamples
from ssd_mining.engine.run import sample_losses
from ssd_mining.files.text import shown

# What stands for a colour of the page while matplotlib draws.
INK, FAINT, POSITIVE, NEGATIVE, KEPT = "#010203", "#020304", "#030405", "#040506", "#050607"
_NAMES = {INK: "ink", FAINT: "faint", POSITIVE: "positive", NEGATIVE: "negative", KEPT: "kept"}

WIDTH, HEIGHT = 5.0, 3.1  # inches: 360 units wide, so that letters of 11 are read on a telephone too
LEAST_LOSS = 1e-8  # of the axis; float32 losses from logits reach down to 1e-45, where nothing is learnt
MOST_POINTS = 2000  # samples that are drawn one by one
MOST_BARS = 20

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
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
    defaults: dict[Any, Any] = dict(mpl.rcParamsDefault)  # in place of what the user has set
    with mpl.rc_context(defaults | _STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        # The letters are those of the reader's system, not of the font in which matplotlib measures them.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
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


class _Histogram(NamedTuple):
    """A histogram for a logarithmic axis, and how it is drawn."""

    edges: NDArray[Any]  # (m + 1,); (0,): there is nothing to draw
    counts: NDArray[Any]  # (m,)
    label: str
    colour: str
    alpha: float  # of the area below the line


def distributions(losses: Mapping[str, LossHistogram]) -> str | None:
    """Draw how many positives, negatives and kept negatives have which loss; None where no loss is above zero."""
    shown = [
        _Histogram(*losses[name].log_bins(), f"{title} ({short(losses[name].count)})", colour, alpha)
        for name, title, colour, alpha in (
            ("negatives", "negatives", NEGATIVE, 0.25),
            ("kept", "kept negatives", KEPT, 0.45),
            ("positives", "positives", POSITIVE, 0.25),
        )
    ]
    return _histograms("distributions", "anchors", shown, ncols=3, columnspacing=1, fontsize=9.5)


def moved_distribution(before: Mapping[str, Any], after: Mapping[str, Any], colour: str, kind: str) -> str | None:
    """Draw one distribution of A and of B, as `LossHistogram.to_dict` tells them; None where neither has a loss."""
    shown = [
        _Histogram(np.array(told["log_bins"]["edges"]), np.array(told["log_bins"]["counts"]), label, tint, alpha)
        for told, label, tint, alpha in ((before, "A", FAINT, 0.3), (after, "B", colour, 0.0))
    ]
    return _histograms(f"shift {kind}", "samples" if kind == "samples" else "anchors", shown, ncols=2)


def _histograms(name: str, ylabel: str, every: list[_Histogram], **legend: float) -> str | None:
    shown = [each for each in every if each.edges.size]
    if not shown:
        return None
    with _drawing(name) as (axes, svg):
        axes.set(xscale="log", yscale="log", xlabel="loss (nats)", ylabel=f"{ylabel} per factor of two")
        for edges, counts, label, colour, alpha in shown:
            density = density_of(edges, counts)
            axes.stairs(density, edges, fill=True, color=colour, alpha=alpha, baseline=0.5)
            axes.stairs(density, edges, color=colour, label=label, linewidth=1.5, baseline=0.5)
        axes.set_xlim(max(LEAST_LOSS, min(each.edges[0] for each in shown)), max(each.edges[-1] for each in shown))
        axes.set_ylim(0.5, 1.5 * max(float(density_of(each.edges, each.counts).max()) for each in shown))
        axes.figure.legend(loc="outside upper right", handlelength=1, **legend)
        _short_ticks(axes.xaxis, axes.yaxis)
    return svg[0]


def density_of(edges: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return counts per factor of two, which is what a logarithmic axis shows.

    Bins of one width within a factor of two are of different widths there: their counts alone would show a saw.
    """
    return np.asarray(counts / np.log2(edges[1:] / edges[:-1]))


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
    """Draw the loss of the kept negatives of every sample against that of its positives; None where none has both."""
    return _scatter("balance", positive_sum, negative_sum, xlabel="positives (nats)", ylabel="kept negatives (nats)")


def change(before: NDArray[Any], after: NDArray[Any]) -> str | None:
    """Draw the loss of every sample in B against its loss in A; None where no sample has a loss in both."""
    return _scatter("change", before, after, xlabel="A: loss (nats)", ylabel="B: loss (nats)")


def _scatter(name: str, x: NDArray[Any], y: NDArray[Any], **labels: str) -> str | None:
    """Draw samples by two numbers, those above zero, and the line where the two are equal."""
    both = (x > 0) & (y > 0) & np.isfinite(x) & np.isfinite(y)
    if not both.any():
        return None
    x, y = x[both], y[both]
    with _drawing(name) as (axes, svg):
        axes.set(xscale="log", yscale="log", **labels)
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


def worst(samples: TopSamples) -> str | None:
    """Draw the losses of the worst samples, and which part of them is their positives'."""
    chosen = np.flatnonzero(np.isfinite(samples.confidence_loss) & (samples.confidence_loss > 0))[:MOST_BARS]
    names = [_shortened(name) for name in samples.id[chosen]]
    return _bars("worst", 0.21, samples.positive_sum[chosen], samples.negative_sum[chosen], names)


def classes(table: ClassTable, names: list[str]) -> str | None:
    """Draw the losses of the classes that cost most: of their positives, and of the negatives taken for them."""
    total = sample_losses(table.positive_sum, table.negative_sum)
    chosen = np.argsort(-np.where(np.isfinite(total), total, np.inf), kind="stable")[:MOST_BARS]
    chosen = chosen[np.isfinite(total[chosen]) & (total[chosen] > 0)]
    shown = [_shortened(names[i]) for i in chosen]
    return _bars("classes", 0.21, table.positive_sum[chosen], table.negative_sum[chosen], shown)


def levels(table: LevelTable) -> str | None:
    """Draw the losses of the feature maps: of their positives, and of their kept negatives."""
    total = sample_losses(table.positive_sum, table.negative_sum)
    if not (np.isfinite(total).all() and (total > 0).any()):
        return None
    names = [f"{i}: {short(count)} anchors" for i, count in enumerate(table.num_anchors.tolist())]
    return _bars("levels", 0.24, table.positive_sum, table.negative_sum, names)


def _bars(name: str, bar: float, positive: NDArray[Any], negative: NDArray[Any], names: list[str]) -> str | None:
    """Draw lying bars, the first on top: the loss of positives, then that of kept negatives; None without bars."""
    if not positive.size:
        return None
    with _drawing(name, 0.9 + bar * positive.size) as (axes, svg):
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
        axes.set_yticks(range(positive.size), names)
    return svg[0]


def _short_ticks(*every_axis: Any) -> None:
    """Label axes in few letters, at few places; a logarithmic one that spans little also at 2 and 5."""
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
    text = shown(name)
    return text if len(text) <= 16 else f"…{text[-15:]}"


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
