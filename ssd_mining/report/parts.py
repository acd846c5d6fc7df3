"""A data set analysed part by part: what was found in some of its samples, each part in one file.

A shard is a part that a user asks for. A run without shards is cut into parts too. They are kept in a hidden
directory beside the output until that is written, so that a run that was killed continues where it stopped.
"""

import contextlib
import functools
import hashlib
import json
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_mining import LossAnalysis
from ssd_mining.checks import DataError
from ssd_mining.engine.run import Columns, joined
from ssd_mining.files.blocks import counted_from, memory_beside_chunks
from ssd_mining.files.names import Name, column_of
from ssd_mining.files.output import atomic_file
from ssd_mining.files.sources import ArraySource, Stamp
from ssd_mining.files.text import EXACT
from ssd_mining.inputs.batch import BLOCK_ELEMENTS, SHORTEST_ROW

SCHEMA = 1
PART_BYTES = 2 << 30  # of input: seconds of work, compared with which writing a part takes little
MOST_PARTS = 100

# What an analysis takes per anchor at the worst, where all are selected, beside the blocks that are read.
ANALYSIS_BYTES = 56
WORKER_MIB = 32  # of the memory that may be used, for every thread: a thread with less does not pay
MOST_BYTES = 32 << 20  # of a block: a larger one leaves the caches of the processor


class Span(NamedTuple):
    """The samples from `start` to the one before `stop`."""

    start: int
    stop: int


@dataclass(frozen=True)
class Arguments:
    """The files of a run, as the user named them, and what the arrays look like."""

    values: str
    labels: str
    ids: str | None
    class_names: str | None
    values_shape: list[int]
    values_dtype: str
    labels_shape: list[int]
    labels_dtype: str
    boxes: str | None = None  # what the labels are matched from, if they are in no file
    beside: dict[str, str] = field(default_factory=dict)  # what is known beside them


@dataclass(frozen=True)
class Run:
    """What is asked for: equal in all parts that belong together."""

    version: str | None
    arguments: Arguments
    spec: dict[str, Any]  # `AnalysisSpec.to_dict`
    class_names: list[str]
    content: str  # a digest of all names and of some samples: shards of another state of the files differ in it


@dataclass(frozen=True)
class DataSet:
    """The files of a run, opened and checked, and how they are analysed."""

    values: ArraySource  # (N, A) losses or (N, A, C) logits
    labels: ArraySource
    beside: dict[str, ArraySource]  # what `LossAnalysis.update` takes beside both, by its name there
    match: (
        Callable[[int, dict[str, Any]], dict[str, Any]] | None
    )  # makes the labels of a block, and what goes with them
    ids: list[Name] | None  # (N,)
    analysis: LossAnalysis  # of no samples yet
    num_workers: int  # how many blocks are analysed at a time, each by one thread
    block_rows: int  # how many samples a block has
    run: Run
    stamps: list[Stamp]  # of all sources, before anything was read

    @property
    def sources(self) -> dict[str, ArraySource]:
        """The arrays that are read, by their names in `LossAnalysis.update`."""
        return {"values": self.values, **({} if self.match else {"labels": self.labels}), **self.beside}

    def check_unchanged(self) -> None:
        """Raise a `DataError` if a file has changed since it was opened."""
        for source, before in zip((self.values, self.labels, *self.beside.values()), self.stamps, strict=True):
            source.check_unchanged(before)


@dataclass(frozen=True)
class Part:
    """What was found in the samples of a span."""

    run: Run
    span: Span
    analysis: LossAnalysis
    columns: Columns  # a row of them per sample

    def save(self, path: Path) -> None:
        """Write the part, whole or not at all."""
        about = {"schema": SCHEMA, "run": asdict(self.run), "rows": self.span, "state": self.analysis.to_state()}
        arrays = {name: _packed(column.tolist()) if name == "id" else column for name, column in self.columns.items()}
        with atomic_file(path) as partial, partial.open("xb") as file:
            np.savez(file, about=_packed(about), **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "Part":
        """Read a part; `DataError` if the file is none."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
            about = _unpacked(columns.pop("about"))
            if "id" in columns:
                columns["id"] = column_of(_unpacked(columns["id"]))
            schema = about["schema"]
            if schema == SCHEMA:
                run = about["run"] | {"arguments": Arguments(**about["run"]["arguments"])}
                return cls(Run(**run), Span(*about["rows"]), LossAnalysis.from_state(about["state"]), columns)
        except OSError as error:
            raise DataError(f"{path}: expected a readable file, got {error.strerror or error}") from error
        except Exception as error:  # whatever zipfile, numpy and json make of a damaged file
            raise DataError(f"{path}: expected a part of a report, got this: {error!r}") from error
        raise DataError(f"{path}: expected a part of schema {SCHEMA}, got schema {schema!r}")


def merged(parts: Iterable[Part]) -> Part:
    """Return parts that follow one another as one; their analyses are merged into that of the first."""
    following = iter(parts)
    first = next(following)
    stop, columns = first.span.stop, [first.columns]
    for part in following:
        first.analysis.merge(part.analysis)
        stop = part.span.stop
        columns.append(part.columns)
    return replace(first, span=Span(first.span.start, stop), columns=joined(columns))


def cut(span: Span, row_bytes: int) -> list[Span]:
    """Cut a span into parts of `PART_BYTES` or more, at most `MOST_PARTS`; an empty one makes one empty part."""
    start, stop = span
    step = max(1, PART_BYTES // max(1, row_bytes), -(-(stop - start) // MOST_PARTS))
    return [Span(first, min(first + step, stop)) for first in range(start, max(stop, start + 1), step)]


def shard_span(num_samples: int, number: int, count: int) -> Span:
    """Return the samples of shard `number` of `count`, counted from 1."""
    return Span(num_samples * (number - 1) // count, num_samples * number // count)


@contextlib.contextmanager
def kept_parts(out: str, *identity: object) -> Iterator[Path]:
    """Make, or find again, the directory that keeps the parts of a run; it is removed when the run has succeeded.

    Its name holds a digest of `identity`, so that a run with other data or other options does not take them up.
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


def part_file(folder: Path, span: Span) -> Path:
    """Return the file that holds the part of a span."""
    return folder / f"{span.start}-{span.stop}.npz"


def samples_left(folder: Path, spans: Iterable[Span]) -> int:
    """Count the samples of the parts that are not in a folder yet."""
    return sum(each.stop - each.start for each in spans if not part_file(folder, each).exists())


def resumed(folder: Path, spans: Sequence[Span], compute: Callable[[Span], Part]) -> Iterator[Part]:
    """Yield the parts of some spans: those that an earlier run has kept, the others computed and kept now."""
    for span in spans:
        path = part_file(folder, span)
        try:
            part = Part.load(path)
        except DataError:  # there is none, or it is damaged
            part = compute(span)
            part.save(path)
        yield part


def content_of(sources: Sequence[ArraySource], ids: list[Name] | None) -> str:
    """Return a digest of all names and of some samples."""
    return hashlib.sha256(b"".join(source.probe() for source in sources) + _packed(ids).tobytes()).hexdigest()


def analysed(data: DataSet, span: Span, advance: Callable[[int], None]) -> Part:
    """Analyse the samples of a span, as many blocks at a time as there are workers."""
    sources = data.sources
    idle = [data.analysis.empty() for _ in range(data.num_workers)]  # each in the hands of one thread at a time

    def add(first: int, turn: threading.Event, following: threading.Event) -> Columns:
        turn.wait()
        try:  # whoever analyses a block reads it, and finds it in its cache; blocks are read one after the other
            block = [source[first : min(first + data.block_rows, stop)] for source in sources.values()]
        finally:
            following.set()
        ids = None if data.ids is None else data.ids[first : first + len(block[0])]
        analysis = idle.pop()
        try:
            given: Any = dict(zip(sources, block, strict=True))
            with counted_from(first):
                if data.match is not None:
                    given |= data.match(first, given)
                columns = analysis.update(**given, first_sample=first, ids=ids)
            return columns if ids is None else columns | {"id": column_of(ids)}
        finally:
            idle.append(analysis)

    start, stop = span
    columns = []
    for of_block in bounded_map(data.num_workers, add, _turns(range(start, max(stop, start + 1), data.block_rows))):
        columns.append(of_block)
        advance(of_block["sample"].size)
    return Part(data.run, span, functools.reduce(LossAnalysis.merge, idle), joined(columns))


def _turns(firsts: range) -> Iterator[tuple[int, threading.Event, threading.Event]]:
    """Yield every number with the event that it waits for and the one that it sets: one has its turn at a time."""
    turn = threading.Event()
    turn.set()
    for first in firsts:
        following = threading.Event()
        yield first, turn, following
        turn = following


def num_workers(num_threads: int | None, max_memory: int) -> int:
    """Return how many blocks to analyse at a time, a thread for each, where `max_memory` MiB are enough."""
    import numba  # half a second that merge and compare do not spend

    most: int = numba.config.NUMBA_NUM_THREADS
    return max(1, min(most, num_threads or most, max_memory // WORKER_MIB))


def block_rows(sources: Sequence[ArraySource], num_workers: int, max_memory: int, anchor_bytes: int = 0) -> int:
    """Return how many samples to read at a time, as the MiB allow it, in whole chunks of the files if possible.

    `anchor_bytes`: what is held per anchor beside what is read and what an analysis takes.
    An analysis works on `BLOCK_ELEMENTS` anchors at a time: a block has that many, or a multiple of it.
    """
    num_anchors = sources[0].shape[1]
    inner = max(1, BLOCK_ELEMENTS // max(num_anchors, SHORTEST_ROW))
    read = num_workers * sum(source.row_bytes for source in sources)
    worked_on = num_workers * (num_anchors + 1) * (ANALYSIS_BYTES + anchor_bytes)
    memory = memory_beside_chunks(max_memory, read + worked_on, *sources)
    if memory >= inner * (read + worked_on):
        most = min(memory - inner * worked_on, num_workers * MOST_BYTES) // max(1, read)
        step = max(1, most // inner) * inner
    else:
        step = max(1, memory // (read + worked_on))
    chunk = max(source.chunks[0] if source.chunks else 1 for source in sources)
    return step - step % chunk if step >= chunk else step


def bounded_map(
    workers: int, function: Callable[..., Columns], calls: Iterable[tuple[Any, ...]]
) -> Iterator[Columns]:
    """Yield what a function returns of calls, in their order: `workers` threads run it, and one more call waits."""
    with ThreadPoolExecutor(workers, "analysis") as pool:
        due: deque[Future[Columns]] = deque()
        for call in calls:
            due.append(pool.submit(function, *call))
            if len(due) > workers:
                yield due.popleft().result()
        while due:
            yield due.popleft().result()


def _packed(value: Any) -> NDArray[np.uint8]:
    """Return names, or anything with names in it that JSON can hold, as bytes for a file of arrays."""
    return np.frombuffer(json.dumps(value, ensure_ascii=False).encode("utf-8", EXACT), np.uint8)


def _unpacked(content: NDArray[np.uint8]) -> Any:
    """Return what `_packed` made into bytes."""
    return json.loads(content.tobytes().decode("utf-8", EXACT))
