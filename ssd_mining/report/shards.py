"""Parts of a run: what was found in some rows, each part in one file.

A shard is a part that a user asked for. A run without shards is cut into parts too, so that one that is killed can be
taken up where it was: they are kept in a hidden directory beside the output until that is written.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining import LossAnalysis
from ssd_mining.cli.files import DataError
from ssd_mining.report.output import atomic_file

SCHEMA = 1
PART_BYTES = 2 << 30  # of input: seconds of work, beside which writing what was found is little
MOST_PARTS = 100

Columns = dict[str, NDArray[Any]]
Rows = tuple[int, int]  # from the first to the one after the last


@dataclass(frozen=True)
class Part:
    """What was found in the rows from `start` to `stop`."""

    run: dict[str, Any]  # what was asked for, equal in all parts that belong together
    start: int
    stop: int
    analysis: LossAnalysis
    columns: Columns  # a row of them per sample

    def save(self, path: Path) -> None:
        """Write the part, whole or not at all."""
        about = {"schema": SCHEMA, "run": self.run, "rows": [self.start, self.stop]}
        state = json.dumps(about | {"state": self.analysis.to_state()}).encode()
        with atomic_file(path) as partial, partial.open("xb") as file:
            np.savez(file, about=np.frombuffer(state, np.uint8), **self.columns)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "Part":
        """Read a part; `DataError` if the file is none."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
            about = json.loads(columns.pop("about").tobytes())
            schema = about["schema"]
            if schema == SCHEMA:
                start, stop = about["rows"]
                return cls(about["run"], start, stop, LossAnalysis.from_state(about["state"]), columns)
        except OSError as error:
            raise DataError(f"{path}: expected a readable file, got {error.strerror or error}") from error
        except Exception as error:  # whatever zipfile, numpy and json make of a damaged file
            raise DataError(f"{path}: expected a part of a report, got this: {error!r}") from error
        raise DataError(f"{path}: expected a part of schema {SCHEMA}, got schema {schema!r}")


def merged(parts: Iterable[Part]) -> Part:
    """Return parts that follow one another as one, the analysis of the first with all the others in it."""
    columns: list[Columns] = []
    whole: Part | None = None
    for part in parts:
        columns.append(part.columns)
        analysis = part.analysis if whole is None else whole.analysis.merge(part.analysis)
        whole = dataclasses.replace(part, start=part.start if whole is None else whole.start, analysis=analysis)
    if whole is None:
        msg = "parts: expected at least one, got none"
        raise ValueError(msg)
    joined = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    return dataclasses.replace(whole, columns=joined)


def cut(start: int, stop: int, row_bytes: int) -> list[Rows]:
    """Cut rows into parts of `PART_BYTES` or more, at most `MOST_PARTS`; of no rows, there is one without any."""
    step = max(1, PART_BYTES // max(1, row_bytes), -(-(stop - start) // MOST_PARTS))
    return [(first, min(first + step, stop)) for first in range(start, max(stop, start + 1), step)]


def shard_rows(num_rows: int, shard: tuple[int, int]) -> Rows:
    """Return the rows of shard I of N, counted from 1."""
    number, count = shard
    return num_rows * (number - 1) // count, num_rows * number // count


@contextlib.contextmanager
def workshop(out: str, identity: object) -> Iterator[Path]:
    """Make, or find again, the directory that keeps the parts of a run; it is removed when the run has succeeded.

    Its name holds a digest of `identity`, so that nobody takes up what was begun with other data or other options.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    final = Path(out).resolve()
    folder = final.with_name(f".{final.name}.parts-{digest}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if nothing is in it
        raise
    shutil.rmtree(folder, ignore_errors=True)


def part_file(folder: Path, rows: Rows) -> Path:
    """Say which file holds the part of some rows."""
    return folder / f"{rows[0]}-{rows[1]}.npz"


def computed(folder: Path, cuts: Sequence[Rows], compute: Callable[[Rows], Part]) -> Iterator[Part]:
    """Yield the parts of some rows: as an earlier run has kept them, else computed, and kept now."""
    for rows in cuts:
        path = part_file(folder, rows)
        try:
            part = Part.load(path)
        except DataError:  # there is none, or it is damaged
            part = compute(rows)
            part.save(path)
        yield part
