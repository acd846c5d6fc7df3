"""Threads that help the one that calls a kernel. They wait in Python, and work in machine code, without the GIL.

Numba's own pool gives every thread a fixed share and waits for all of them, OpenMP's by spinning. Beside another busy
program that takes several times as long as one thread (docs/decisions/0012-threads.md). Here whoever is free takes the
next piece, and the caller waits for a helper only while it still works on one.
"""

import functools
import queue
import threading
from collections.abc import Callable

_Lock = threading.Lock


class _Offer:
    """Work for a helper, until the caller withdraws it."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = [work]  # whoever takes it out first has it
        self._ended = _Lock()
        self._ended.acquire()
        self._has_ended = False
        self.error: BaseException | None = None

    def accept(self) -> None:
        """Do the work, unless it was withdrawn."""
        try:
            work = self._work.pop()
        except IndexError:
            return
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            self.error = error
        self._has_ended = True
        self._ended.release()

    def withdraw(self) -> bool:
        """Say whether nobody has begun it; then nobody will."""
        try:
            self._work.pop()
        except IndexError:
            return False
        return True

    def wait(self) -> None:
        """Wait for whoever has begun it; Ctrl-C is raised after that, when nobody writes to the arrays any more."""
        interruption = None
        while not self._has_ended:
            try:
                self._ended.acquire()
            except BaseException as error:  # noqa: BLE001 - whatever the handler of a signal raises
                interruption = error
        if interruption is not None:
            raise interruption


_offers: queue.SimpleQueue[_Offer] = queue.SimpleQueue()
_helpers: list[threading.Thread] = []


def _help(offers: queue.SimpleQueue[_Offer]) -> None:
    while True:
        offers.get().accept()


def _hire(number: int) -> int:
    """Have this many helpers, or as many as the system starts. Return how many they are."""
    while len(_helpers) < number:
        thread = threading.Thread(target=_help, args=(_offers,), name=f"ssd_mining-{len(_helpers) + 1}", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            break
        _helpers.append(thread)
    return min(number, len(_helpers))


def work_together(num_workers: int, work: Callable[[int], None], is_done: Callable[[], bool]) -> None:
    """Call ``work(0)`` here, and ``work(1)``, ``work(2)``, ... in helpers, as far as these come in time.

    Return when all is done, or everyone who has begun has ended.
    """
    offers = [_Offer(functools.partial(work, i)) for i in range(1, 1 + _hire(num_workers - 1))]
    for offer in offers:
        _offers.put(offer)
    try:
        work(0)
    finally:
        begun = [offer for offer in offers if not offer.withdraw()]
        if not is_done():
            for offer in begun:
                offer.wait()
    for offer in begun:
        if offer.error is not None:
            raise offer.error
