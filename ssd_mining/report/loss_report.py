"""The report on the losses of a data set: `LossReport`, which ``ssd-mining report`` writes too."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.analysis.loss_analysis import LossAnalysis
from ssd_mining.analysis.result import AnalysisResult, Table
from ssd_mining.checks import install_command, refuse
from ssd_mining.engine.run import Columns, joined
from ssd_mining.files import output
from ssd_mining.files.names import column_of
from ssd_mining.files.text import write_text
from ssd_mining.report import page as pages
from ssd_mining.report.loss_page import loss_page
from ssd_mining.report.saved_report import SCHEMA
from ssd_mining.report.thumbnails import Images, Size
from ssd_mining.report.versions import versions

LISTS = ("samples", "unrecognised", "false_alarm", "misplaced", "objects", "boxes", "negatives", "alarms")
TABLES = ("per_sample", "positions", "confusions", *(f"top_{name}" for name in LISTS))
FILES = {"report.html", "summary.json", *(f"{name}.csv" for name in TABLES)}


class LossReport:
    """Report on the losses of a data set, batch by batch: which samples to look at first, and why.

    It holds a `LossAnalysis` and the columns of every sample, about 100 bytes each. Reports of different samples can be
    pickled and merged; the files are the same, byte for byte, for batches of any size in any order. In a notebook, the
    report shows its page.

    Parameters
    ----------
    class_names : sequence of str
        What the classes are called, from class 0; empty: by their numbers.
    arguments : mapping, optional
        What the report is about, for `summary.json` and the page: ``{"values": ..., "labels": ...}`` are the names of
        files.
    **settings
        As in `LossAnalysis`.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong; see `LossAnalysis`.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> first, second = (sm.LossReport(background=0, class_names=["background", "cat"]) for _ in range(2))
    >>> _ = first.update([[9.0, 0.1, 0.3, 0.2, 0.4]], [[1, 0, 0, 0, 0]], ids=["a.jpg"], first_sample=0)
    >>> _ = second.update([[1.0, 0.5, 0.25, 0.0, 3.0]], [[1, 0, 0, 0, 0]], ids=["b.jpg"], first_sample=1)
    >>> first.merge(second).result().causes["false_alarm"].id
    array(['b.jpg', 'a.jpg'], dtype='<U5')
    """

    def __init__(
        self, *, class_names: Sequence[str] = (), arguments: Mapping[str, Any] | None = None, **settings: Any
    ) -> None:
        self.analysis = LossAnalysis(**settings)
        self.class_names, self.arguments = list(class_names), dict(arguments or {})
        self._blocks: list[Columns] = []
        self.boxes: dict[int, NDArray[Any]] = {}  # of every sample, (n, 4), as far as they are known
        self.anchors: NDArray[Any] | None = None  # (A, 4)
        self.sizes: dict[int, Size] = {}  # of the images, as far as they are known
        self.files: dict[int, str] = {}  # of the images, where they are not called as the samples

    @classmethod
    def of(
        cls, analysis: LossAnalysis, columns: Columns, class_names: Sequence[str], arguments: Mapping[str, Any]
    ) -> LossReport:
        """Return the report of an analysis that was made elsewhere, and of the columns that its updates returned."""
        report = cls(class_names=class_names, arguments=arguments)
        report.analysis, report._blocks = analysis, [columns]
        return report

    def update(
        self,
        values: ArrayLike,
        labels: ArrayLike,
        *,
        ids: Sequence[Any] | None = None,
        boxes: Sequence[ArrayLike] | None = None,
        **beside: Any,
    ) -> Columns:
        """Add a batch of samples, as `LossAnalysis.update` does. Return the columns of these samples.

        Parameters
        ----------
        values, labels, ids, **beside
            As there.
        boxes : sequence of array_like, (n, 4), optional
            The labelled boxes of every sample, to be drawn on its image: corners in the units of `anchors`.

        Raises
        ------
        TypeError, ValueError
            As there. Also if some batches have `ids`, and others have none.
        """
        if self._blocks and ("id" in self._blocks[0]) != (ids is not None):
            refuse("ids", "names of all samples, or of none", f"{'names' if ids is not None else 'None'} this time")
        drawn = None if boxes is None else [np.asarray(each, np.float64).reshape(-1, 4) for each in boxes]
        columns = self.analysis.update(values, labels, ids=ids, **beside)
        if drawn is not None:
            self.boxes |= dict(zip(columns["sample"].tolist(), drawn, strict=True))
        if beside.get("anchors") is not None:
            self.anchors = np.asarray(beside["anchors"])
        self._blocks.append(columns if ids is None else columns | {"id": column_of(list(ids))})
        return columns

    def merge(self, other: LossReport) -> LossReport:
        """Add the samples of another report to this one, and return this one. The other does not change.

        Raises
        ------
        TypeError
            If `other` is not a LossReport.
        ValueError
            As in `LossAnalysis.merge`. Also if only one of both has names.
        """
        if not isinstance(other, LossReport):
            refuse("other", "a LossReport", type(other).__name__, TypeError)
        if self._blocks and other._blocks and ("id" in self._blocks[0]) != ("id" in other._blocks[0]):
            refuse("other", "a report that has names of its samples if this one has", "the opposite")
        self.analysis.merge(other.analysis)
        self._blocks += other._blocks
        self.boxes |= other.boxes
        self.sizes |= other.sizes
        self.files |= other.files
        self.anchors = other.anchors if self.anchors is None else self.anchors
        return self

    @property
    def columns(self) -> Columns:
        """The columns of all samples, in their order."""
        if not self._blocks:
            self._blocks.append(self._of_nothing())
        self._blocks = [joined(self._blocks)] if len(self._blocks) > 1 else self._blocks
        (columns,) = self._blocks
        order = np.argsort(columns["sample"], kind="stable")
        if (np.diff(order) == 1).all():
            return columns
        return {name: column[order] for name, column in columns.items()}

    def _of_nothing(self) -> Columns:
        shape = (0, 1) if self.analysis.spec.classification is None else (0, 1, 2)
        nothing = LossAnalysis(background=0, classification=self.analysis.spec.classification)
        return nothing.update(np.empty(shape), np.empty((0, 1), np.int64))

    def result(self) -> AnalysisResult:
        """Return what the analysis has found so far; see `LossAnalysis.result`."""
        return self.analysis.result()

    def summary(self) -> dict[str, Any]:
        """Return what `summary.json` holds: versions, arguments, and all fields of the result."""
        return self._summary(self.result())

    def _summary(self, result: AnalysisResult) -> dict[str, Any]:
        return {"schema": SCHEMA, "versions": versions(), "arguments": self.arguments, **result.to_dict()}

    def html(self, images: str | os.PathLike[str] | None = None, *, in_pixels: bool = False) -> str:
        """Return the page. The arguments are those of `write`.

        Raises
        ------
        ImportError
            If jinja2 or matplotlib is not installed.
        """
        return self._page(self.result(), self._images(images, in_pixels=in_pixels))

    def _images(self, folder: str | os.PathLike[str] | None, *, in_pixels: bool) -> Images | None:
        if folder is None:
            return None
        _refuse_missing(pages.missing_packages("PIL"))
        return Images(Path(folder), self.boxes, self.anchors, in_pixels, self.sizes, self.files)

    def _page(self, result: AnalysisResult, images: Images | None) -> str:
        _refuse_missing(pages.missing_packages())
        about = self.class_names, self.arguments, versions()
        return pages.render(loss_page(result, self.columns, *about, images))

    def write(
        self,
        directory: str | os.PathLike[str],
        *,
        images: str | os.PathLike[str] | None = None,
        in_pixels: bool = False,
        page: bool = True,
        overwrite: bool = False,
    ) -> None:
        """Write the files of a report (docs/report.md) into a new directory, all of them or none.

        Parameters
        ----------
        directory : str or path
            A name that is new, or, with `overwrite`, that of an earlier report.
        images : str or path, optional
            The folder of the images, which are called as the samples: the page shows the first 20 of each cause, with
            the labelled boxes, the objects that are recognised least, and the false alarms.
        in_pixels : bool
            Whether boxes and anchors are in pixels of the images; else they are in shares of them. The files of places
            are in pixels, if there are images.
        page : bool
            Whether `report.html` is among them.
        overwrite : bool
            Whether an earlier report of this name is replaced.

        Raises
        ------
        FileExistsError
            If there is something else of this name.
        ImportError
            If jinja2 or matplotlib is not installed, and the page is wanted.
        """
        result, drawn = self.result(), self._images(images, in_pixels=in_pixels)
        text = self._page(result, drawn) if page else None
        tables = {"per_sample": self.columns}
        tables |= {name: self._with_boxes(table, drawn) for name, table in tables_of(result).items()}
        with output.atomic_directory(directory, FILES if overwrite else ()) as folder:
            for name, columns in tables.items():
                output.write_csv(folder / f"{name}.csv", columns)
            write_text(folder / "summary.json", f"{output.json_text(self._summary(result))}\n")
            if text is not None:
                write_text(folder / "report.html", text)

    def _with_boxes(self, table: Table, images: Images | None) -> Columns:
        """Return the columns of a table; of places, also where they are, if that is known: labelled box, or anchor.

        They are in pixels of the images where these are given, NaN if the size of one is not known.
        """
        columns = table.to_dict()
        if self.anchors is None or not {"sample", "anchor"} <= columns.keys():
            return columns
        corners = self.anchors[columns["anchor"]].astype(np.float64)
        numbers = columns.get("object", np.full(len(corners), -1))
        for row, (sample, number) in enumerate(zip(columns["sample"].tolist(), numbers.tolist(), strict=True)):
            if number >= 0 and sample in self.boxes:
                corners[row] = self.boxes[sample][number]
        if images is not None and not images.in_pixels:
            names = dict(zip(columns["sample"].tolist(), columns["id"].tolist(), strict=True))
            sizes = {sample: images.size_of(sample, name) or (np.nan, np.nan) for sample, name in names.items()}
            corners *= np.array([sizes[sample] * 2 for sample in columns["sample"].tolist()]).reshape(-1, 4)
        return columns | dict(zip(("x1", "y1", "x2", "y2"), corners.T, strict=True))

    def _repr_html_(self) -> str:
        """Return the page as a frame, as a notebook shows it."""
        frame = 'style="width: 100%; height: 48rem; border: 0" title="Loss report"'
        return f'<iframe {frame} srcdoc="{html.escape(self.html())}"></iframe>'

    def __repr__(self) -> str:
        return f"<LossReport of {self.analysis!r}>"


def _refuse_missing(packages: list[str]) -> None:
    if packages:
        msg = f"a page needs {' and '.join(packages)}: {install_command('ssd_mining[report]')}"
        raise ImportError(msg)


def tables_of(result: AnalysisResult) -> dict[str, Table]:
    """Return the tables that are files of their own, by name."""
    tables: dict[str, Table | None] = {
        "top_samples": result.top_samples,
        **{f"top_{name}": worst for name, worst in result.causes.items()},
        "top_objects": result.top_objects,
        "top_boxes": result.top_boxes if "misplaced" in result.causes else None,
        "top_negatives": result.top_negatives,
        "top_alarms": result.top_false_alarms,
        "positions": result.positions,
        "confusions": result.confusions,
    }
    return {name: table for name, table in tables.items() if table is not None}
