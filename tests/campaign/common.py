"""What the campaigns share: cases that a seed draws, work in forked processes, and what is counted of it."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

ERROR = 2
"""Exit status of an error that the command line explains in a sentence."""
CRASH = 70
"""Exit status of a forked process that an exception ended."""
SHOWN = 6
"""Lines of a process's output that a failure quotes."""


class Broken(AssertionError):
    """A promise that a case found broken; the message says which and how."""


class Ending(NamedTuple):
    """How a forked process ended."""

    status: int | None
    """None if a signal ended it."""
    signal: int | None
    late: bool
    """Whether it ran past its limit."""
    output: str
    """What it wrote to the terminal."""
    value: Any
    """What the work returned."""
    peak: int
    """Bytes that it took beyond those of the process that it was forked from."""

    def tail(self) -> str:
        """The end of the output, for a message."""
        return " | ".join(self.output.strip().splitlines()[-SHOWN:])


@dataclass(frozen=True)
class Campaign:
    """A promise, and cases that try to break it."""

    name: str
    unit: str
    """What is counted."""
    count: int
    """Cases by default: some minutes."""
    prepare: Callable[[Path], Any]
    """What all cases of a process share, made in an empty folder."""
    case: Callable[[Any, int], Counter[str]]
    """Run the case of a seed; outcomes, of which `unit` is what is counted. Broken, with the reason, if a promise is."""
    seeds_per_job: int = 1


@dataclass
class Tally:
    """What came of a campaign."""

    outcomes: Counter[str] = field(default_factory=Counter)
    cases: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.outcomes += other.outcomes
        self.cases += other.cases
        self.failures += other.failures


def forked(
    work: Callable[[], Any], *, seconds: float = 120.0, kill_after: float | None = None, most: int | None = None
) -> Ending:
    """Run the work in a forked process with its output kept, and kill it after so many seconds if asked to.

    The exit status is the work's if it returns an int. Sub-processes end with it. most: bytes of memory that it may ask for
    beyond what it starts with, so that a failure does not take the machine along.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as value:
        before = _resident()
        child = os.fork()
        if child == 0:
            _child(work, output.fileno(), value.fileno(), most)
        late = False
        if not _ended(child, seconds if kill_after is None else kill_after):
            late = kill_after is None
            os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        output.seek(0)
        value.seek(0)
        text, content = output.read().decode(errors="replace"), value.read()
    code = None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    result = pickle.loads(content) if code is not None and content else None
    return Ending(code, by, late, text, result, max(0, usage.ru_maxrss * 1024 - before))


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _ended(child: int, seconds: float) -> bool:
    handle = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(max(0.0, seconds) * 1000))
    finally:
        os.close(handle)


def _child(work: Callable[[], Any], output: int, value: int, most: int | None) -> None:
    code = CRASH
    try:
        if most is not None:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + most, size + most))
        os.setpgid(0, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        # streams that a test runner put in their places write elsewhere
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        result = work()
        code = result if isinstance(result, int) else 0
        with open(value, "wb", closefd=False) as file:
            pickle.dump(result, file)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else ERROR
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def killing_itself(event: int) -> None:
    """Let this process kill itself at call number `event` of a Python or built-in function, in whichever thread."""
    left = event

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(count)
    sys.setprofile(count)


def counting_events(work: Callable[[], Any]) -> int:
    """How many calls `killing_itself` would count of the work."""
    total = 0

    def count(*_: object) -> None:
        nonlocal total
        total += 1

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return total


def explained(ending: Ending) -> str:
    """The sentence by which the command line refused; Broken if it crashed, hung or said more or less than one line."""
    if ending.late:
        raise Broken("it hangs")
    if ending.signal is not None:
        raise Broken(f"signal {ending.signal} ended it: {ending.tail()}")
    if "Traceback (most recent call last)" in ending.output or ending.status not in (0, ERROR):
        raise Broken(f"a traceback or an odd status, {ending.status}: {ending.tail()}")
    sentences = [line for line in ending.output.splitlines() if line.startswith("prolap: ") and "warning:" not in line]
    if ending.status == ERROR and len(sentences) != 1:
        raise Broken(f"{len(sentences)} sentences explain the error: {ending.tail()}")
    return sentences[0] if ending.status == ERROR else ""


def command_line(*words: str | Path) -> int:
    """`prolap WORDS` in this process."""
    from prolap.cli.main import main

    warnings.resetwarnings()  # a test runner may have made them errors
    return main([str(word) for word in words])


def warm_up() -> None:
    """Import here what every forked process would import again."""
    import matplotlib.figure  # noqa: F401
    import rich.table  # noqa: F401
    import safetensors.torch  # noqa: F401
    import scipy.stats  # noqa: F401
    import soundfile  # noqa: F401
    import torchaudio.functional  # noqa: F401

    import prolap.cli.main
    import prolap.evaluation.report
    import prolap.training.train  # noqa: F401


_context: dict[str, Any] = {}


def run(campaign: Campaign, *, seed: int, count: int, seconds: float | None = None, workers: int = 1) -> Tally:
    """Cases from the seed on until `count` of the unit are counted, or the time is over."""
    torch.set_num_threads(1)
    tally, started, next_seed = Tally(), time.monotonic(), seed
    with tempfile.TemporaryDirectory(prefix=f"campaign-{campaign.name}-") as folder:
        if workers <= 1:
            while _goes_on(campaign, tally, count, started, seconds):
                tally.add(_job(campaign, next_seed, folder))
                next_seed += campaign.seeds_per_job
            _context.clear()
            return tally
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            jobs = set()
            while _goes_on(campaign, tally, count, started, seconds):
                while len(jobs) < 2 * workers:
                    jobs.add(pool.submit(_job, campaign, next_seed, folder))
                    next_seed += campaign.seeds_per_job
                done, jobs = wait(jobs, return_when=FIRST_COMPLETED)
                for job in done:
                    tally.add(job.result())
            for job in jobs:
                job.cancel()
            for job in jobs:
                if not job.cancelled():
                    tally.add(job.result())
    return tally


def _goes_on(campaign: Campaign, tally: Tally, count: int, started: float, seconds: float | None) -> bool:
    in_time = seconds is None or time.monotonic() - started < seconds
    return in_time and tally.outcomes[campaign.unit] + len(tally.failures) < count


def _job(campaign: Campaign, seed: int, folder: str) -> Tally:
    """The cases of one job, in a process that has prepared."""
    key = f"{campaign.name} {folder}"
    if key not in _context:
        own = Path(folder) / f"process-{os.getpid()}"
        own.mkdir()
        _context[key] = campaign.prepare(own)
    tally = Tally()
    for each in range(seed, seed + campaign.seeds_per_job):
        tally.cases += 1
        try:
            tally.outcomes += campaign.case(_context[key], each)
        except Exception as error:
            where = "" if isinstance(error, Broken) else traceback.format_exc(limit=-3)
            tally.failures.append(
                {"seed": each, "what": f"{error}", "where": where, "again": again(campaign.name, each)}
            )
    return tally


def again(name: str, seed: int) -> str:
    """The command that runs the case of a seed again."""
    return f"python -m tests.campaign {name} --seed {seed} --count 1"


def random_of(seed: int) -> random.Random:
    return random.Random(f"campaign {seed}")


def copy_notes(folder: Path) -> None:
    """The bank of notes of the scenes from the user's cache, rendered there first if need be."""
    from prolap.config import DataConfig
    from prolap.data import cache
    from prolap.data.scenes.soundfont import load_bank

    load_bank(DataConfig())
    newest = max(cache.folder(None).glob("notes-*.npz"), key=lambda path: path.stat().st_mtime_ns)
    shutil.copy2(newest, folder)


def copy_tree(source: Path, target: Path) -> None:
    """A copy of the folder with the times of its files; the large bank of notes is linked, and must not be written into."""

    def copy(path: str, other: str) -> None:
        (os.link if Path(path).name.startswith("notes-") else shutil.copy2)(path, other)

    shutil.copytree(source, target, dirs_exist_ok=True, copy_function=copy)
