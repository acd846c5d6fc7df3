"""Say on a terminal that kernels are compiled, which takes seconds and happens once."""

import importlib
import sys
from pathlib import Path
from typing import Any

_listener: Any = None  # of Numba's events, once kernels can be compiled


def announce_compilation() -> None:
    """Let the first kernel that this process compiles be announced, if stderr is a terminal then."""
    global _listener
    if _listener is not None:
        return
    try:
        events: Any = importlib.import_module("numba.core.event")
    except ImportError:  # should Numba move it, nothing is said
        return

    class Announcement(events.Listener):  # type: ignore[misc]
        is_made = False

        def on_start(self, event: Any) -> None:
            driver = event.data["dispatcher"]
            if self.is_made or not driver.__module__.startswith("ssd_mining."):
                return
            self.is_made = True
            if sys.stderr is not None and sys.stderr.isatty():
                print(_text(Path(driver.__code__.co_filename).stem), file=sys.stderr, flush=True)  # noqa: T201

        def on_end(self, event: Any) -> None:
            """Nothing is said."""

    _listener = Announcement()
    events.register("numba:compile", _listener)


def _text(kernels: str) -> str:
    from ssd_mining.kernels import cache

    problem = cache.refusal()
    how_often = "once, for they are kept" if problem is None else f"in every process: {problem}"
    return f"ssd_mining: compiling kernels ({kernels} first) for this processor; this takes seconds, {how_often}"
