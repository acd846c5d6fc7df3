"""A page: facts, pictures and tables as one HTML file that needs nothing beside itself, filled in by jinja2."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


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
    made: str


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
    source = (files("ssd_mining.report") / "page.html").read_text(encoding="utf-8")
    text: str = environment.from_string(source).render(page=page)
    return text


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


def share(part: float, whole: float) -> str:
    """Write a share as a percentage; a dash where there is nothing to share."""
    ratio = part / whole if whole else math.nan
    return f"{100 * ratio:.3g} %" if math.isfinite(ratio) else "-"


def lists(columns: Mapping[str, NDArray[Any]]) -> dict[str, list[Any]]:
    """Return columns as lists of Python's own numbers and strings."""
    return {name: column.tolist() for name, column in columns.items()}


def missing_packages() -> Iterable[str]:
    """Yield the packages that a page needs and that are not installed."""
    from importlib.util import find_spec

    return (name for name in ("jinja2", "matplotlib") if find_spec(name) is None)
