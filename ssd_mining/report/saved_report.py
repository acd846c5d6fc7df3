"""A report that was written earlier, read back: its numbers, its samples, and the arrays that it is about."""

import contextlib
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining import hard_negative_mask, mine_logits
from ssd_mining.analysis.spec import AnalysisSpec
from ssd_mining.cli.files import ArraySource, DataError, open_array, read_lines
from ssd_mining.cli.options import REPORT_SCHEMA, CommandError


@dataclass(frozen=True)
class Earlier:
    """A report."""

    name: str
    summary: dict[str, Any]
    columns: dict[str, NDArray[Any]]  # (N,) each; those of per_sample.csv
    values: str
    labels: str

    @property
    def size(self) -> int:
        """The number of samples."""
        return int(self.columns["sample"].size)

    @property
    def keys(self) -> NDArray[Any]:
        """What a sample is known by: its name, or its number."""
        return self.columns.get("id", self.columns["sample"])

    def opened(self, files: contextlib.ExitStack) -> tuple[ArraySource, ArraySource]:
        """Open the arrays that the report is about, if they are still what it says."""
        try:
            pair = [files.enter_context(open_array(name)) for name in (self.values, self.labels)]
        except DataError as error:
            advice = f"name where the arrays of {self.name} are now, or leave this out with --no-churn"
            raise DataError(f"{error}; {advice}") from error
        for kind, source in zip(("values", "labels"), pair, strict=True):
            expected = tuple(self.summary["arguments"][f"{kind}_shape"])
            if source.shape != expected:
                raise CommandError(
                    3, f"{source.name}: expected shape {expected}, as in {self.name}, got {source.shape}"
                )
        return pair[0], pair[1]

    def mask(
        self, values: ArraySource, labels: ArraySource, rows: slice, num_threads: int | None
    ) -> NDArray[np.bool_]:
        """Mine some samples again as the report did; return which negatives are kept."""
        spec = AnalysisSpec.from_dict(self.summary["spec"])
        how: Any = {"mining": spec.mining, "num_threads": num_threads}
        if spec.classification is None:
            return hard_negative_mask(values[rows], labels[rows], **how)
        mined = mine_logits(values[rows], labels[rows], classification=spec.classification, **how)
        return mined.hard_negative_mask


def load(name: str, inputs: Sequence[str] | None) -> Earlier:
    """Read a report; `inputs` are its arrays, if they are no longer where it says."""
    summary_file, table_file = Path(name) / "summary.json", Path(name) / "per_sample.csv"
    try:
        summary = json.loads("\n".join(read_lines(summary_file)))
        schema, arguments = summary["schema"], summary["arguments"]
        values, labels = inputs or (arguments["values"], arguments["labels"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"{summary_file}: expected the summary of a report, got this: {error!r}") from error
    if schema != REPORT_SCHEMA:
        raise DataError(f"{summary_file}: expected schema {REPORT_SCHEMA}, got {schema!r}")
    lines = read_lines(table_file)
    try:
        rows = list(csv.reader(lines))
        columns = {row[0]: _column(row[0], row[1:]) for row in zip(*rows, strict=True)}
        columns["sample"], columns["confidence_loss"]
    except (KeyError, ValueError) as error:
        raise DataError(f"{table_file}: expected the table of a report, got this: {error!r}") from error
    return Earlier(name, summary, columns, values, labels)


def _column(name: str, words: Sequence[str]) -> NDArray[Any]:
    if name == "id":
        return np.array(words, np.str_)
    return np.array(words, np.int64 if name in ("sample", "num_pos", "num_neg", "num_kept") else np.float64)


def match(a: Earlier, b: Earlier) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the samples that are in both stand in A, and where in B, in the order of A."""
    if ("id" in a.columns) != ("id" in b.columns):
        raise CommandError(3, f"{b.name}: expected samples {_known(a)}, as in {a.name}, got samples {_known(b)}")
    if "id" not in a.columns and a.size != b.size:
        expected = f"the {a.size:,} samples of {a.name}, for they have no names"
        raise CommandError(3, f"{b.name}: expected {expected}, got {b.size:,}; name them with --ids")
    _, in_a, in_b = np.intersect1d(a.keys, b.keys, assume_unique=True, return_indices=True)
    order = np.argsort(in_a)
    return in_a[order], in_b[order]


def _known(report: Earlier) -> str:
    return "with names" if "id" in report.columns else "without names"
