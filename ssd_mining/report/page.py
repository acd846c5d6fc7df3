"""A page: facts, pictures and tables as one HTML file that needs nothing beside itself, filled in by jinja2."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ssd_mining.analysis.result import Table
from ssd_mining.files.text import shown
from ssd_mining.report.thumbnails import Thumbnail


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
    values: Sequence[Any]
    is_number: bool = True


@dataclass(frozen=True)
class Sheet:
    """A table, and the column by which its rows are sorted."""

    name: str
    caption: str
    columns: Sequence[Column]
    sorted_by: str = ""
    sorted: str = "descending"

    @property
    def rows(self) -> list[list[tuple[Column, Any]]]:
        """The rows: a value for each column."""
        values = zip(*(column.values for column in self.columns), strict=True)
        return [list(zip(self.columns, row, strict=True)) for row in values]


@dataclass(frozen=True)
class Picture:
    """A picture, or the sentence that takes its place where there is nothing to draw."""

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
    gallery: Sequence[Thumbnail] = ()


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    title: str
    subtitle: Sequence[str]
    facts: Sequence[Fact]
    sections: Sequence[Section]
    made: str  # how it was computed


def columns_of(table: Table) -> list[Column]:
    """Return the columns of a table that have a title."""
    return [
        Column(each.name, values=getattr(table, each.name).tolist(), **each.metadata)
        for each in fields(table)  # type: ignore[arg-type]
        if "title" in each.metadata
    ]


def render(page: Page) -> str:
    """Return the page as HTML; ImportError if jinja2 is not installed."""
    from importlib.resources import files

    import jinja2

    def told(value: object) -> object:
        return shown(value) if type(value) is str else value  # names and paths; not what is HTML already

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=told)
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


def missing_packages(*packages: str) -> list[str]:
    """Return which packages, or by default those that a page needs, are not installed."""
    from importlib.util import find_spec

    return [name for name in packages or ("jinja2", "matplotlib") if find_spec(name) is None]
