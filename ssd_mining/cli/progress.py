"""The progress of a long command: a bar on a terminal, nothing in a pipe."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ssd_mining.checks import install_command
from ssd_mining.files.text import say

REFRESH_SECONDS = 0.1


@contextlib.contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Show a bar with rate and remaining time on stderr, if that is a terminal.

    `what` names the things that are done, `total` of them, in the plural. Call the function that is yielded with the
    number of further things that are done.
    """
    bar = _bar() if sys.stderr.isatty() else None
    if bar is None:
        yield lambda _: None
        return
    start, shown, done = time.monotonic(), 0.0, 0
    with bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(count: int) -> None:
            nonlocal shown, done
            done += count
            now = time.monotonic()
            if now - shown >= REFRESH_SECONDS or done >= total:
                shown = now
                rate = f"{done / max(now - start, 1e-9):,.0f} {what}/s"
                bar.update(task, completed=done, rate=rate, refresh=True)

        yield advance


def _bar() -> Any:
    """Return a bar of rich's, None without rich. It starts no thread, beside which mining would use none itself."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        say(f"no progress bar without rich; {install_command('rich')}", sys.stderr)
        return None
    rate = TextColumn("{task.description}  {task.fields[rate]}")
    columns = BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
