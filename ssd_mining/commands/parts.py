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
from ssd_mining.io import DataError
from ssd_mining.output import atomic_file

SCHEMA = 1
PART_BYTES = 2 << 30  # of input: seconds of work, beside which writing what was found is little
MOST_PARTS = 100

Columns = dict[str, NDArray[Any]]


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
            np.savez(file, state=np.frombuffer(state, np.uint8), **self.columns)

    @classmethod
    def load(cls, path: Path) -> "Part":
        """Read a part; `DataError` if the file is none."""
        try:
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
            about = json.loads(columns.pop("state").tobytes())
            if about["schema"] != SCHEMA:
                raise DataError(f"{path}: expected a part of schema {SCHEMA}, got schema {about['schema']}")
            return cls(about["run"], *about["rows"], LossAnalysis.from_state(about["state"]), columns)
        except OSError as error:
            raise DataError(f"{path}: expected a readable file, got {error.strerror or error}") from error
        except DataError:
            raise
        except Exception as error:  # whatever zipfile, numpy and json make of a damaged file
            raise DataError(f"{path}: expected a part of a report, got this: {error!r}") from error


def merged(parts: Iterable[Part]) -> Part:
    """Return parts that follow one another as one, the analysis of the first with all the others in it."""
    columns, whole = [], None
    for part in parts:
        columns.append(part.columns)
        if whole is None:
            whole = part
        else:
            whole = dataclasses.replace(whole, stop=part.stop, analysis=whole.analysis.merge(part.analysis))
    if whole is None:
        msg = "expected at least one part, got none"
        raise ValueError(msg)
    return dataclasses.replace(whole, columns={name: np.concatenate([c[name] for c in columns]) for name in columns[0]})


def cut(start: int, stop: int, row_bytes: int) -> list[tuple[int, int]]:
    """Cut rows into parts of `PART_BYTES` or more, at most `MOST_PARTS`; of no rows, there is one without any."""
    step = max(1, PART_BYTES // max(1, row_bytes), -(-(stop - start) // MOST_PARTS))
    return [(first, min(first + step, stop)) for first in range(start, max(stop, start + 1), step)]


ta or other options.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    final = Path(out).resolve()
    folder = final.with_name(f".{final.name}.parts-{digest}")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def part_file(folder: Path, start: int, stop: int) -> Path:
    """Say which file holds the part of some rows."""
    return folder / f"{start}-{stop}.npz"


def computed(folder: Path, rows: Sequence[tuple[int, int]], compute: Callable[[int, int], Part]) -> Iterator[Part]:
    """Yield the parts of some rows: as an earlier run has kept them, else computed, and kept now."""
    for start, stop in rows:
        path = part_file(folder, start, stop)
        with contextlib.suppress(DataError):  # there is none, or it is damaged
            yield Part.load(path)
            continue
        part = compute(start, stop)
        part.save(path)
        yield part
