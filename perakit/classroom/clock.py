"""A limit of time for what may never end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 2  # seconds on the clock for each second of computing


class OutOfTime(BaseException):
    """The time is over."""


@contextmanager
def limited(seconds: float, waiting: float | None = None) -> Iterator[None]:
    """Raise `OutOfTime` after that many seconds of computing.

    waiting: seconds on the clock after which it is raised too, by default `PATIENCE` times as many:
    on a busy machine computing takes longer, and costs nobody a point.
    Only in the main thread, and where there are signals.
    """
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def ring(*_: object) -> None:
        raise OutOfTime

    clocks = (
        (signal.ITIMER_PROF, signal.SIGPROF, seconds),
        (signal.ITIMER_REAL, signal.SIGALRM, PATIENCE * seconds if waiting is None else waiting),
    )
    before = [signal.signal(bell, ring) for _, bell, _ in clocks]
    try:
        for clock, _, after in clocks:
            # Again and again, for an `except:` that swallowed the first
            signal.setitimer(clock, max(after, 1e-3), 0.5)
        yield
    finally:
        for (clock, bell, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(bell, handler)
