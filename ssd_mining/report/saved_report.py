"""A report that was written earlier, read back: its numbers, its samples, and the arrays that it is about."""

import contextlib
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_mining import hard_negative_mask, mine_logits
from ssd_mining.analysis.spec import AnalysisSpec
from ssd_mining.engine.run import Columns, empty_mined, sample_columns, sample_table
from ssd_mining.files.names import read_lines
from ssd_mining.files.sources import ArraySource, DataError, open_array

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
    columns: Columns  # per_sample.csv
    values: str  # where the arrays are that it is about
    labels: str

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
        """Open the arrays, if they are still as the report says."""
        try:
            arrays = Arrays(*[files.enter_context(open_array(name)) for name in (self.values, self.labels)])
        except DataError as error:
            advice = f"name where the arrays of {self.name} are now, or leave this out with --no-churn"
            raise DataError(f"{error}; {advice}") from error
        for kind, source in arrays._asdict().items():
            expected = tuple(self.summary["arguments"][f"{kind}_shape"])
            if source.shape != expected:
                raise DataError(f"{source.name}: expected shape {expected}, as in {self.name}, got {source.shape}")
        return arrays

    def mask(self, arrays: Arrays, rows: slice, num_threads: int | None) -> NDArray[np.bool_]:
        """Mine some samples again as the report did; return which negatives are kept."""
        spec, values, labels = AnalysisSpec.from_dict(self.summary["spec"]), arrays.values[rows], arrays.labels[rows]
        if spec.classification is None:
            return hard_negative_mask(values, labels, mining=spec.mining, num_threads=num_threads)
        mined = mine_logits(
            values, labels, classification=spec.classification, mining=spec.mining, num_threads=num_threads
        )
        return mined.hard_negative_mask


def load(name: str, inputs: Sequence[str] | None) -> SavedReport:
    """Read a report; `inputs` are its arrays, if they are no longer where it says."""
    summary_file, table_file = Path(name) / "summary.json", Path(name) / "per_sample.csv"
    try:
        summary = json.loads("\n".join(read_lines(summary_file)))
        schema, arguments = summary["schema"], summary["arguments"]
        values, labels = inputs or (arguments["values"], arguments["labels"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"{summary_file}: expected the summary of a report, got this: {error!r}") from error
    if schema != SCHEMA:
        raise DataError(f"{summary_file}: expected schema {SCHEMA}, got {schema!r}")
    lines = read_lines(table_file)
    try:
        rows = list(csv.reader(lines))
        columns = {
            title: np.array(words, _DTYPES.get(title, np.float64)) for title, *words in zip(*rows, strict=True)
        }
        columns["sample"], columns["confidence_loss"]
    except (KeyError, ValueError) as error:
        raise DataError(f"{table_file}: expected the table of a report, got this: {error!r}") from error
    return SavedReport(name, summary, columns, values, labels)


_NO_SAMPLES = sample_table(sample_columns(empty_mined(0, 0)), np.empty(0), ids=np.empty(0, np.str_))
_DTYPES = {name: column.dtype.type for name, column in _NO_SAMPLES.items()}
