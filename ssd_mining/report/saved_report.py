"""A report that was written earlier, read back: its numbers, its samples, and the arrays that it is about."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_mining import mine_hard_negatives, mine_logits
from ssd_mining.analysis.spec import AnalysisSpec
from ssd_mining.checks import DataError, InputError, InputTypeError
from ssd_mining.engine.run import Columns, empty_mined, sample_columns, sample_table
from ssd_mining.files.blocks import counted_from
from ssd_mining.files.names import check_unique, column_of, read_csv
from ssd_mining.files.sources import ArraySource, explained, open_array
from ssd_mining.files.text import read_text

SCHEMA = 1  # of summary.json


class Arrays(NamedTuple):
    """The arrays that a report is about, opened."""

    values: ArraySource
    labels: ArraySource


@dataclass(frozen=True)
class SavedReport:
    """A report, as its directory holds it."""

    name: str
    summary: Mapping[str, Any]  # summary.json
    spec: AnalysisSpec  # what it holds of the settings
    columns: Columns  # per_sample.csv
    values: str  # where the arrays are that it is about
    labels: str
    are_in_files: bool  # not so where the labels were matched from boxes, unless a user says where they are now

    @property
    def size(self) -> int:
        """The number of samples."""
        return int(self.columns["sample"].size)

    @property
    def has_names(self) -> bool:
        """Whether its samples have names."""
        return "id" in self.columns

    @property
    def ids(self) -> NDArray[Any]:
        """The names of its samples, or else their numbers."""
        return self.columns["id" if self.has_names else "sample"]

    def opened(self, files: contextlib.ExitStack) -> Arrays:
        """Open the arrays, if they still look as the report says."""
        if not self.are_in_files:
            got = "those of boxes" if "values" in self.summary["arguments"] else "a report that names none"
            why = f"{self.labels}: expected labels in a file, such as ssd-mining match writes, got {got}"
            raise self._refused(why)
        try:
            arrays = Arrays(*[files.enter_context(open_array(name)) for name in (self.values, self.labels)])
        except DataError as error:
            raise self._refused(error) from error
        for kind, source in arrays._asdict().items():
            expected = tuple(self.summary["arguments"].get(f"{kind}_shape", source.shape))
            if source.shape != expected:
                raise DataError(f"{source.name}: expected shape {expected}, as in {self.name}, got {source.shape}")
        return arrays

    def mask(self, arrays: Arrays, rows: slice, num_threads: int | None) -> NDArray[np.bool_]:
        """Mine some samples again as the report did; return which negatives are kept.

        `DataError` if mining finds anything but what the report says of these samples: then the arrays are others.
        """
        values, labels = arrays.values[rows], arrays.labels[rows]
        spec, threads = self.spec, num_threads
        try:
            with counted_from(rows.start):
                if spec.classification is None:
                    mined = mine_hard_negatives(values, labels, mining=spec.mining, num_threads=threads)
                else:
                    how = spec.classification
                    mined = mine_logits(values, labels, classification=how, mining=spec.mining, num_threads=threads)
        except (InputError, InputTypeError) as error:
            name = self.labels if error.argument == "labels" else self.values
            raise self._refused(f"{name}: {error.problem}") from error
        for title, column in mined.to_dict().items():
            stored = self.columns[title][rows]
            # An analysis sums in another order: the last digits of a sum may differ.
            others = np.flatnonzero(~np.isclose(column, stored, rtol=1e-12, atol=1e-12, equal_nan=True))
            if others.size:
                got = f"{title} {column[others[0]]} instead of {stored[others[0]]} in sample {rows.start + others[0]}"
                expected = f"the losses and labels of {self.name}"
                raise self._refused(f"{self.values}, {self.labels}: expected {expected}, got {got}")
        return mined.hard_negative_mask

    def _refused(self, why: object) -> DataError:
        return DataError(f"{why}; name where the arrays of {self.name} are now, or leave this out with --no-churn")


def load(name: str, inputs: Sequence[str] | None) -> SavedReport:
    """Read a report; `inputs` are its arrays, if they are no longer where it says."""
    summary_file, table_file = Path(name) / "summary.json", Path(name) / "per_sample.csv"
    with explained(str(summary_file)):
        text = read_text(summary_file)
    try:
        summary = json.loads(text)
        schema, arguments = summary["schema"], summary["arguments"]
        values, labels = inputs or (arguments.get("values", "the losses"), arguments.get("labels", "the labels"))
        are_in_files = bool(inputs) or ("values" in arguments and arguments.get("boxes") is None)
        spec = AnalysisSpec.from_dict(summary["spec"]) if schema == SCHEMA else None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{summary_file}: expected the summary of a report, got this: {error!r}") from error
    if spec is None:
        raise DataError(f"{summary_file}: expected schema {SCHEMA}, got {schema!r}")
    words = read_csv(table_file)
    try:
        columns = {title: np.array(words[title], dtype) for title, dtype in _DTYPES.items()}
    except (KeyError, ValueError) as error:
        raise DataError(f"{table_file}: expected the table of a report, got this: {error!r}") from error
    if "id" in words:
        columns["id"] = column_of(words["id"])
    report = SavedReport(name, summary, spec, columns, values, labels, are_in_files)
    check_unique(str(table_file), report.ids.tolist())
    return report


_DTYPES = {
    title: column.dtype for title, column in sample_table(sample_columns(empty_mined(0, 0)), np.empty(0)).items()
}
