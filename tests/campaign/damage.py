"""Bit flips, cuts, swaps, emptied and deleted files of a run, its caches and its data; then resume, evaluate, load.

Either the result is exactly that of the whole files, or one sentence says what is wrong (as an error, or as a warning beside a
result of other files), and never does another result come without a word. A log is not compared after it was damaged itself.
Manifests, sounds and shards are the user's own: a damaged one that still reads is another data set, which is counted apart when
it is evaluated, and refused when a run is resumed with other clips or captions.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import signal
import tarfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prolap.data import open_data
from prolap.training.config import load_config
from prolap.weights import checkpoint as checkpoints
from tests.campaign.common import (
    Broken,
    Campaign,
    Ending,
    command_line,
    copy_notes,
    copy_tree,
    explained,
    forked,
    random_of,
    warm_up,
)  # fmt: skip  # isort: skip
from tests.campaign.kills import snapshot
from tests.prolap.tiny import as_words, tiny_options, write_data

STEPS_BEFORE = 5
"""The run is interrupted after so many of its 8 steps, so that resuming computes something."""
BLOCK = 4096
"""Bytes that a bad block of a disk takes."""
SHARES = {"run": 6, "cache": 3, "scenes": 2, "data": 2}
"""How often a file of each folder is drawn."""
ACTIONS = {
    "run": ("resume", "evaluate", "load"),
    "cache": ("resume", "evaluate"),
    "scenes": ("scenes",),
    "data": ("resume", "evaluate", "shard"),
}


@dataclass(frozen=True)
class Shared:
    """What all cases of a process share."""

    pristine: Path
    """The whole files, copied for every case to the place where they were made: files name it."""
    folder: Path
    results: dict[str, Any]
    """Of each action on the whole files."""


def prepare(folder: Path) -> Shared:
    warm_up()
    at = folder / "case"
    for name in SHARES:
        (at / name).mkdir(parents=True)
    write_data(at / "data")
    _shard(at / "data")
    copy_notes(at / "scenes")
    options = tiny_options(
        at / "data", at / "run", data__cache_features=True, data__cache=str(at / "cache"), data__overlap="warn"
    )
    (at / "run").rmdir()
    for work in (
        partial(_interrupted, options),
        partial(act, "evaluate", at, ".json"),
        partial(act, "scenes", at),
    ):
        ending = forked(work)
        if ending.signal is not None or ending.status not in (0, 128 + signal.SIGTERM):
            raise RuntimeError(f"it does not work at all: {ending.output}")
    copy_tree(at, folder / "pristine")
    results = {}
    for action in ("resume", "evaluate", "load", "scenes", "shard"):
        _restore(folder / "pristine", at)
        ending = forked(partial(act, action, at))
        if ending.status != 0:
            raise RuntimeError(f"{action} does not work at all: {ending.output}")
        results[action] = ending.value
    return Shared(folder / "pristine", at, results)


def _restore(pristine: Path, at: Path) -> None:
    shutil.rmtree(at, ignore_errors=True)
    copy_tree(pristine, at)  # with the times of the files, which the names of kept log-mels depend on


def _shard(data: Path) -> None:
    with tarfile.open(data / "test-000.tar", "w") as archive:
        for number in range(4):
            archive.add(data / f"{number}.wav", f"{number}.wav")
            (data / f"{number}.txt").write_text(f"tone {number} is high")
            archive.add(data / f"{number}.txt", f"{number}.txt")
            (data / f"{number}.txt").unlink()


def _interrupted(options: dict[str, Any]) -> int:
    """Train until SIGTERM asks to stop, after STEPS_BEFORE steps of two micro-batches."""
    import prolap.training.train as training

    losses, calls = training.training_losses, 0

    def interrupting(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 * STEPS_BEFORE:
            signal.raise_signal(signal.SIGTERM)
        return losses(*arguments)

    training.training_losses = interrupting  # type: ignore[assignment]
    return command_line("train", "--quiet", *as_words(options))


def act(action: str, at: Path, damaged: str = "") -> dict[str, Any] | int:
    """What a user would do, and its result; an int is the exit status of an error.

    Plots, which take most of an evaluation's time, are drawn where `damaged` is one of the files that they are made from.
    """
    run = at / "run"
    if action == "resume":
        status = command_line("train", "--quiet", "--resume", run)
        return status or _run_result(run)
    if action == "load":
        return _explaining(lambda: _digest_of_model(run))
    if action == "scenes":
        return _explaining(lambda: _scenes(at))
    import prolap.evaluation.report as report

    if not damaged.endswith((".jsonl", ".json", ".png", ".csv")):
        report.write_plots = lambda *_, **__: []  # type: ignore[assignment]
    extra = ["--data", f"wds:{at / 'data'}/test-000.tar"] if action == "shard" else []
    out = at / "report"
    status = command_line("evaluate", run, "--quiet", "--out", out, *extra)
    if status:
        return status
    metrics = json.loads((out / "metrics.json").read_text())
    return {key: value for key, value in metrics.items() if key not in ("seconds", "config")}


def _explaining(work: Callable[[], dict[str, Any]]) -> dict[str, Any] | int:
    """The work as a command of ours would run it."""
    import prolap.cli.main as cli

    warnings.resetwarnings()
    result: dict[str, Any] = {}

    class Parsed:
        @staticmethod
        def command(*_: Any) -> int:
            result.update(work())
            return 0

    cli._parser = lambda: type("Parser", (), {"parse_known_args": lambda *_: (Parsed, [])})()  # type: ignore[assignment]
    status = cli.main([])
    return status or result


def _run_result(run: Path) -> dict[str, Any]:
    names = ("model.safetensors", "optimizer.safetensors", "train.jsonl", "dev.jsonl")
    which = {
        path.name: pointer
        for pointer in ("best", "latest")
        if (path := checkpoints.pointed(run, pointer)) is not None  # type: ignore[arg-type]
    }
    return {path: digest for path, digest in snapshot(run).items() if path.endswith(names)} | {"pointers": which}


def _digest_of_model(run: Path) -> dict[str, Any]:
    from prolap.weights.checkpoint import load_model

    digest = hashlib.sha256()
    for name, tensor in sorted(load_model(run).state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return {"model": digest.hexdigest()}


def _scenes(at: Path) -> dict[str, Any]:
    options = {"preset": "prolap+tiny", "data.train": "scenes", "data.clips": 30, "data.seconds": 1.0}
    data = open_data(load_config(overrides=options | {"threads": 1, "data.cache": str(at / "scenes")}), "train")
    digest = hashlib.sha256()
    for i in range(len(data)):
        digest.update(data.features(i).numpy().tobytes())
    return {"log-mels": digest.hexdigest()}


def flip(content: bytearray, draw: random.Random, files: list[Path]) -> bytearray:
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return content


def flips(content: bytearray, draw: random.Random, files: list[Path]) -> bytearray:
    for _ in range(64):
        flip(content, draw, files)
    return content


def block(content: bytearray, draw: random.Random, files: list[Path]) -> bytearray:
    start = draw.randrange(len(content))
    stop = min(len(content), start + BLOCK)
    content[start:stop] = draw.randbytes(stop - start)
    return content


def cut(content: bytearray, draw: random.Random, files: list[Path]) -> bytearray:
    return content[: draw.randrange(len(content))]


def zeros(content: bytearray, draw: random.Random, files: list[Path]) -> bytearray:
    """A tail that never reached the disk."""
    start = draw.randrange(len(content))
    return content[:start] + bytes(len(content) - start)


def empty(content: bytearray, draw: random.Random, files: list[Path]) -> bytearray:
    return bytearray()


def longer(content: bytearray, draw: random.Random, files: list[Path]) -> bytearray:
    return content + draw.randbytes(draw.randint(1, BLOCK))


def swap(content: bytearray, draw: random.Random, files: list[Path]) -> bytearray:
    """The content of another file."""
    return bytearray(draw.choice(files).read_bytes())


def delete(content: bytearray, draw: random.Random, files: list[Path]) -> None:
    return None


DAMAGES = (flip, flips, block, cut, zeros, empty, longer, swap, delete)


def damage_one(at: Path, draw: random.Random) -> tuple[str, str, str]:
    """Damage a file; the folder it lies in, its path there, and how."""
    room = draw.choices(list(SHARES), list(SHARES.values()))[0]
    # the notes take a quarter of a minute to render again: one case in fifty
    notes = draw.random() < 0.02
    files = sorted(path for path in (at / room).rglob("*") if path.is_file())
    files = [path for path in files if path.stat().st_size and (notes or not path.name.startswith("notes-"))]
    path = draw.choice(files)
    alike = [other for other in files if other.suffix == path.suffix and other != path]
    kinds = [kind for kind in DAMAGES if kind is not swap or alike]
    kind = draw.choice(kinds)
    before = path.read_bytes()
    content = kind(bytearray(before), draw, alike)
    path.unlink()  # it may be a link
    if content is not None:
        path.write_bytes(content)
    return room, str(path.relative_to(at / room)), kind.__name__ if content != before else "nothing"


def case(shared: Shared, seed: int) -> Counter[str]:
    draw = random_of(seed)
    _restore(shared.pristine, shared.folder)
    room, path, kind = damage_one(shared.folder, draw)
    action = draw.choice(ACTIONS[room])
    ending = forked(partial(act, action, shared.folder, path))
    what = f"{action} after {kind} of {room}/{path}"
    try:
        outcome = judge(ending, shared.results[action], room, path, action)
    except Broken as broken:
        raise Broken(f"{what}: {broken}") from broken
    return Counter({"damaged files": 1, f"{room}: {outcome}": 1, f"by {kind}": 1})


def judge(ending: Ending, truth: Any, room: str, path: str, action: str) -> str:
    """The outcome in a few words; Broken if it is none that is promised."""
    if explained(ending):
        return "refused in one sentence"
    value = dict(ending.value)
    compared = {key for key in truth.keys() | value.keys() if key != path}
    if all(value.get(key) == truth.get(key) for key in compared):
        return "the same result"
    if Path(path).name in ending.output and re.search("warning|damaged|skipped", ending.output.lower()):
        return "another result, with a warning"
    if room == "data" and (action != "resume" or path.endswith(".wav")):
        return "another data set"
    differing = sorted(key for key in compared if value.get(key) != truth.get(key))
    raise Broken(f"another result without a word: {', '.join(differing)}")


DAMAGE = Campaign("damage", "damaged files", 300, prepare, case)
