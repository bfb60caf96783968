"""SIGKILL at random moments of training, rendering, caching and evaluating; then the same command again.

What is there in the end is, byte for byte but for times, what an uninterrupted process leaves: weights, logs, metrics, caches,
and no file more. Half of the kills come at a call of a function that the seed picks, and come again there; the others at a
moment by the clock, in the middle of what compiled code does.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prolap.data import open_data
from prolap.training.config import Config, load_config
from prolap.training.logs import TIMING
from tests.campaign.common import (
    Broken,
    Campaign,
    command_line,
    copy_notes,
    copy_tree,
    counting_events,
    forked,
    killing_itself,
    random_of,
    warm_up,
)
from tests.prolap.tiny import as_words, tiny_options, write_data

AT_MOST = 4
"""Kills in a row of one run."""
SHARES = {"train": 10, "scenes": 3, "cache": 3, "evaluate": 3}
"""How often each kind of work is drawn."""


@dataclass(frozen=True)
class Whole:
    """A kind of work, and what it leaves when nobody interrupts it."""

    start: Callable[[Path], None]
    """What lies in the folder before."""
    work: Callable[[Path], int]
    """Go on from whatever lies there; the exit status."""
    events: int
    seconds: float
    files: dict[str, str]


@dataclass(frozen=True)
class Shared:
    """What all cases of a process share."""

    folder: Path
    """Where each case works: the same path, since files name it."""
    kinds: dict[str, Whole]


def prepare(folder: Path) -> Shared:
    warm_up()
    data, bank, trained = folder / "data", folder / "bank", folder / "trained"
    for each in (data, bank):
        each.mkdir()
    write_data(data)
    copy_notes(bank)
    case = folder / "case"
    train = partial(
        _train, tiny_options(data, case / "run", data__cache_features=True, data__cache=str(case / "cache"))
    )
    works: dict[str, tuple[Callable[[Path], None], Callable[[Path], int]]] = {
        "train": (_nothing, train),
        "scenes": (partial(_copied, bank), partial(_read_all, _scenes)),
        "cache": (_nothing, partial(_read_all, partial(_recordings, data))),
        "evaluate": (partial(_copied, trained), lambda at: command_line("evaluate", at / "run", "--quiet")),
    }
    kinds = {}
    for name, (start, work) in works.items():
        _afresh(case, start)
        forked(partial(work, case))  # compiled and imported once, so that the next one is timed as the others run
        _afresh(case, start)
        began = time.monotonic()
        ending = forked(partial(work, case))
        seconds = time.monotonic() - began
        if ending.status != 0:
            raise RuntimeError(f"{name} does not work at all: {ending.output}")
        files = snapshot(case)
        if name == "train":
            shutil.copytree(case, trained)
        _afresh(case, start)
        events = forked(lambda work=work: {"events": counting_events(lambda: work(case))}).value["events"]
        kinds[name] = Whole(start, work, events, seconds, files)
    return Shared(case, kinds)


def _nothing(folder: Path) -> None:
    """An empty folder."""


def _copied(source: Path, folder: Path) -> None:
    copy_tree(source, folder)


def _afresh(folder: Path, start: Callable[[Path], None]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    start(folder)


def _train(options: dict[str, Any], folder: Path) -> int:
    """Resume the run, or start it again where it had not begun to exist."""
    run = folder / "run"
    if (run / "config.yaml").exists():
        return command_line("train", "--quiet", "--resume", run)
    shutil.rmtree(run, ignore_errors=True)
    return command_line("train", "--quiet", *as_words(options))


def _scenes(folder: Path) -> Config:
    options = {"data.train": "scenes", "data.clips": 30, "data.dev_clips": 10, "data.seconds": 1.0}
    return _config(folder, options)


def _recordings(data: Path, folder: Path) -> Config:
    options = {"data.train": str(data / "train.csv"), "data.dev": str(data / "dev.csv"), "data.cache_features": True}
    return _config(folder, options)


def _config(folder: Path, options: dict[str, Any]) -> Config:
    fixed = {"preset": "prolap+tiny", "threads": 1, "data.cache": str(folder), "data.overlap": "ignore"}
    return load_config(overrides=fixed | options)


def _read_all(config: Callable[[Path], Config], folder: Path) -> int:
    """Open train and dev and read every log-mel; their digest is written down as a result."""
    digest = hashlib.sha256()
    for split in ("train", "dev"):
        data = open_data(config(folder), split)  # type: ignore[arg-type]
        for i in range(len(data)):
            digest.update(data.features(i).numpy().tobytes())
    (folder / "digest").write_text(digest.hexdigest())
    return 0


def snapshot(folder: Path) -> dict[str, str]:
    """A digest of every file, without times."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir() and not _is_unfinished(path))
    return {str(path.relative_to(folder)): hashlib.sha256(_content(path)).hexdigest() for path in files}


def _is_unfinished(path: Path) -> bool:
    """Of a cache, and younger than a minute: a later write into its folder removes it."""
    return path.name.startswith(".") and path.suffix == ".tmp" and path.stat().st_mtime > time.time() - 60


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
        return json.dumps([{key: row[key] for key in row if key not in TIMING} for row in rows]).encode()
    if path.name == "metrics.json":
        return json.dumps({key: value for key, value in json.loads(content).items() if key != "seconds"}).encode()
    return content


def case(shared: Shared, seed: int) -> Counter[str]:
    draw = random_of(seed)
    name = draw.choices(list(SHARES), list(SHARES.values()))[0]
    whole, outcomes = shared.kinds[name], Counter[str]()
    _afresh(shared.folder, whole.start)
    work = partial(whole.work, shared.folder)
    for _ in range(draw.randint(1, AT_MOST)):
        share, by_clock = draw.random(), draw.random() < 0.5
        if by_clock:
            ending = forked(work, kill_after=share * whole.seconds)
        else:
            ending = forked(lambda share=share: (killing_itself(1 + int(share * whole.events)), work())[1])
        if ending.signal != signal.SIGKILL:
            if ending.status != 0:
                raise Broken(f"{name}: after {outcomes['kills']} kills it does not go on: {ending.tail()}")
            outcomes["finished before its kill"] += 1
            break
        outcomes["kills"] += 1
        outcomes[f"kills while it was in {name}"] += 1
    ending = forked(work)
    if ending.status != 0:
        raise Broken(f"{name}: after {outcomes['kills']} kills it does not go on: {ending.tail()}")
    files = snapshot(shared.folder)
    differing = sorted(path for path in files.keys() | whole.files.keys() if files.get(path) != whole.files.get(path))
    if differing:
        raise Broken(f"{name}: after {outcomes['kills']} kills other than uninterrupted: {', '.join(differing)}")
    return outcomes


KILLS = Campaign("kills", "kills", 60, prepare, case)
if not hasattr(os, "pidfd_open"):
    raise ImportError("the campaigns need Linux")
