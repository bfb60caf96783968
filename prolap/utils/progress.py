"""How far training and evaluation are: a bar in a terminal, plain lines elsewhere. Everything goes to standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 10.0
_SHOWN: ContextVar[bool] = ContextVar("shown", default=False)
"""Whether `watched` says anything: in an evaluation of its own, and not in one beside a bar of training."""


@contextmanager
def shown(show: bool) -> Iterator[None]:
    """Inside this block `watched` shows how far it is, if `show`."""
    before = _SHOWN.set(show)
    try:
        yield
    finally:
        _SHOWN.reset(before)


def watched(items: Iterable[T], text: str, total: int) -> Iterator[T]:
    """The items, of which there are `total`: with a bar in a terminal, with a line at their start elsewhere."""
    if not _SHOWN.get():
        yield from items
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, text, total, console=Console(stderr=True), transient=True)
    else:
        print(f"{text} ...", file=sys.stderr, flush=True)
        yield from items


Progress = Callable[[str, int, int], None]
"""Called as progress(what, done, total)."""


def silent(what: str, done: int, total: int) -> None:
    """A Progress that shows nothing."""


@contextmanager
def reporter(progress: Progress | None) -> Iterator[Progress]:
    """The callback itself; for None a bar in a terminal, or one line for each kind of work elsewhere."""
    if progress is not None:
        yield progress
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress as Bar

        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = cache(lambda what, total: bar.add_task(what, total=total))
            yield lambda what, done, total: bar.update(task(what, total), completed=done)
    else:
        announce = cache(lambda what, total: print(f"{what}: {total:,}", file=sys.stderr, flush=True))
        yield lambda what, done, total: announce(what, total)


class Clock:
    """Seconds of a command by phase."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._phases: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside this block as `name`'s; a name may have several blocks."""
        started = time.perf_counter()
        yield
        self._phases[name] = self._phases.get(name, 0.0) + time.perf_counter() - started

    def seconds(self) -> dict[str, float]:
        """By phase, and `total` since the clock was made."""
        return self._phases | {"total": time.perf_counter() - self._started}


class Meter:
    """Clips per second, and the share of the time that training waits for data, since the last reading."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._since, self._clips, self._waited = time.perf_counter(), 0, 0.0

    def add(self, clips: int, waited: float) -> None:
        """Count a batch and the seconds waited for it."""
        self._clips += clips
        self._waited += waited

    def read(self) -> dict[str, float]:
        """`clips_per_second` and `data_wait_share`; starts anew."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        values = {"clips_per_second": self._clips / seconds, "data_wait_share": min(1.0, self._waited / seconds)}
        self._reset()
        return values


class Display:
    """What the user sees of a run; nothing unless `show`."""

    def __init__(self, show: bool, step: int, steps: int) -> None:
        self._show, self._steps = show, steps
        self._last_line = time.monotonic()
        self._bar: Any = None
        if show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True))
            self._task = self._bar.add_task("", total=steps, completed=step)
            self._bar.start()

    def update(self, step: int, row: dict[str, Any] | None = None) -> None:
        """A step is done; `row` is its log row if it has one."""
        text = row and (
            f"loss {row['loss']:.4g}, {row['clips_per_second']:.0f} clips/s, "
            f"{row['data_wait_share']:.0%} waiting for data"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, **({"description": text} if text else {}))
        elif text and self._show and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self.say(f"step {step}/{self._steps}: {text}")

    def say(self, text: str) -> None:
        """A line of its own."""
        self._last_line = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif self._show:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()
