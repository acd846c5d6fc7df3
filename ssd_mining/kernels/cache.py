"""The guarded cache: machine code kept on disk, which is the right one or is not used.

Every entry is one file that carries its own checksum, in a private directory named by a digest of all that decides
machine code; whatever goes wrong costs one warning and the time to compile. See docs/cache.md.

Each twin says what its code depends on, and how it is written down: `cpu.cache` for the CPU.
"""

import contextlib
import functools
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import IO, Any, NamedTuple

import llvmlite
import numba
import numpy as np

LOCK_SECONDS = 30.0  # a compilation takes 2 to 8 s; a process that was stopped in one must not stop the others
KEPT_DIRECTORIES = 8  # one for each version and kind of machine that shares the directory

# The settings of Numba that decide where and on how many threads code runs, not what the code is.
_NOT_CODE = {
    "CACHE_DIR",
    "NUMBA_DEFAULT_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "THREADING_LAYER",
    "THREADING_LAYER_PRIORITY",
}

_BETWEEN = {"ssd_mining", "numba", "contextlib", "importlib", "functools", "concurrent", "threading"}

_failed = False  # after the first failure this process compiles without the cache


def is_on() -> bool:
    """Say whether code is looked for and kept: unless ``SSD_MINING_CACHE=0`` says otherwise, until a failure."""
    return os.environ.get("SSD_MINING_CACHE") != "0" and not _failed


@contextlib.contextmanager
def never_raise() -> Iterator[None]:
    """Turn any error into one warning per process: without its cache a function is slow to start, and right."""
    global _failed
    try:
        yield
    except Exception as error:  # noqa: BLE001 - Numba, pickle and file systems raise anything
        first, _failed = not _failed, True
        if first:
            message = (
                f"ssd_mining compiles without its cache: {error!r}. Set SSD_MINING_CACHE_DIR to a directory where "
                "this user can write, or SSD_MINING_CACHE=0 to go without."
            )
            _warn_caller(message)


def _warn_caller(message: str) -> None:
    """Warn, and name the line that called us, not one of ours, of Numba or of what lies between."""
    frame = sys._getframe(1)  # noqa: SLF001 - `warnings` can skip frames since Python 3.12 only
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame = frame.f_back
    where, line, names = frame.f_code.co_filename, frame.f_lineno, frame.f_globals
    registry = names.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, RuntimeWarning, where, line, names.get("__name__"), registry)


class Entry(NamedTuple):
    """One file with a checksum of its key and its content."""

    path: Path
    key: bytes

    @property
    def directories(self) -> tuple[Path, Path]:
        """The directory of this package, and in it that of the present sources, versions, CPU and settings."""
        return self.path.parent.parent, self.path.parent

    def read(self) -> bytes | None:
        """Return the content; None where there is none, or not the one that was written for this key."""
        try:
            for directory in self.directories:
                _check_private(directory)
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        checksum, payload = content[:32], content[32:]
        return payload if checksum == self._checksum(payload) else None

    def write(self, payload: bytes) -> None:
        """Write the file whole or not at all, under `lock`."""
        temporary = self.path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(self._checksum(payload) + payload)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from compiling the same; wait for one that does, but not for ever."""
        for directory in self.directories:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(directory)
        deadline = time.monotonic() + LOCK_SECONDS
        with self.path.with_suffix(".lock").open("ab") as file:
            while not _try_lock(file):
                if time.monotonic() > deadline:
                    msg = f"{file.name} was locked for {LOCK_SECONDS} s"
                    raise TimeoutError(msg)
                time.sleep(0.02)
            yield

    def _checksum(self, payload: bytes) -> bytes:
        return hashlib.sha256(self.key + payload).digest()


def entry_of(name: str, identity: tuple[Any, ...], environment: tuple[Any, ...]) -> Entry:
    """Return where code is kept: by what decides it alone, and by what decides all code of its twin.

    The package's sources and the versions of what both twins are compiled with need not be named.
    """
    versions = (sys.version, sys.flags.optimize, np.__version__, numba.__version__, llvmlite.__version__)
    everything = hashlib.sha256(repr((sources(), versions, environment)).encode()).hexdigest()[:32]
    key = hashlib.sha256(repr(identity).encode()).digest()
    return Entry(directory() / everything / f"{name}-{key.hex()[:16]}.bin", key)


def settings() -> list[tuple[str, Any]]:
    """Return the settings of Numba that may change code."""
    names = (name for name in vars(numba.config) if name.isupper() and name[0] != "_" and name not in _NOT_CODE)
    return sorted((name, getattr(numba.config, name)) for name in names)


def directory() -> Path:
    """Return the private directory of this package: in ``SSD_MINING_CACHE_DIR``, else in the user's cache.

    RuntimeError if it would lie in the home directory of a user who has none.
    """
    if moved := os.environ.get("SSD_MINING_CACHE_DIR"):
        return Path(moved).expanduser().absolute() / "ssd_mining"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base.absolute() / "ssd_mining"


def refusal() -> str | None:
    """Say why nothing could be kept in `directory` now; None where it could. Nothing of the trial stays."""
    if os.environ.get("SSD_MINING_CACHE") == "0":
        return "switched off by SSD_MINING_CACHE=0"
    try:
        root = directory()
        if root.exists():
            _check_private(root)
        existing = next(path for path in (root, *root.parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(4096))
    except (OSError, RuntimeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


@functools.cache
def sources() -> list[tuple[str, str]]:
    """Digest every source file of the package, wherever it lies: a change of any is a new directory."""
    package = next(path for path in Path(__file__).parents if path.name == "ssd_mining")
    files = sorted(package.rglob("*.py"))
    if not files and getattr(sys, "frozen", False):  # the sources are inside the program, whole
        return [("", hashlib.sha256(Path(sys.executable).read_bytes()).hexdigest())]
    if not files:
        msg = f"no source files in {package} to tell versions apart by"
        raise FileNotFoundError(msg)
    return [(str(file.relative_to(package)), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]


def code_of(function: FunctionType) -> Iterator[Any]:
    """Yield what a function and all that it calls are made of in memory: bytecode, constants, globals.

    The files alone do not tell: they may be newer than the modules that this process loaded from them, and a
    constant or a helper may have been replaced since.
    """
    todo, seen = [function], {function}
    while todo:
        function = todo.pop()
        for part in _nested(function.__code__):
            yield part.co_code, part.co_names, [c for c in part.co_consts if not isinstance(c, CodeType)]
        for name, value in _named(function):
            inner = getattr(value, "py_func", getattr(value, "_defn", value))  # of a jitted function, an intrinsic
            if isinstance(inner, FunctionType) and inner not in seen:
                seen.add(inner)
                todo.append(inner)
            elif isinstance(inner, int | float | str | tuple | np.generic | np.dtype | type):
                yield name, repr(inner)


def _named(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what the names in a function stand for: closure cells, globals, and what is in a module of ours."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    yield from zip(function.__code__.co_freevars, cells, strict=True)
    for names in (part.co_names for part in _nested(function.__code__)):
        found = [function.__globals__[name] for name in names if name in function.__globals__]
        ours = [
            vars(value)
            for value in found
            if isinstance(value, ModuleType) and str(value.__package__).partition(".")[0] == "ssd_mining"
        ]
        for scope in (function.__globals__, *ours):
            yield from ((name, scope[name]) for name in names if name in scope)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _check_private(directory: Path) -> None:
    """Refuse a directory that another user could have written: what is in it is run."""
    status = directory.lstat()
    private = stat.S_ISDIR(status.st_mode)
    if sys.platform != "win32":
        private = private and status.st_uid == os.geteuid() and not status.st_mode & 0o077
    if not private:
        msg = f"{directory} is not a directory that belongs to this user alone (mode 0700)"
        raise PermissionError(msg)


def prune(root: Path) -> None:
    """Delete the directories of old versions but for the newest few; a process that still wants one compiles."""
    with contextlib.suppress(OSError):
        ours = [path for path in root.iterdir() if re.fullmatch("[0-9a-f]{32}", path.name)]
        for old in sorted(ours, key=lambda path: path.stat().st_mtime)[:-KEPT_DIRECTORIES]:
            shutil.rmtree(old, ignore_errors=True)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True
