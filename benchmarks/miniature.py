"""Miniatures of AudioCaps and Clotho from recorded sounds that a Debian package ships, and the trainer end to end on them.

    apt-get download tuxpaint-stamps-default        # 161 MB, GPL-2; neither copied into this repository nor shipped
    python -m benchmarks.miniature make FOLDER --package tuxpaint-stamps-default_*.deb --clips 400 50 100
    python -m benchmarks.miniature run FOLDER --json benchmarks/results/cpu/miniature.json
    prolap train --preset prolap --data.train audiocaps:FOLDER/audiocaps ...

The package holds some 4,500 phrases spoken in twelve languages ("Un corbeau."), each with its English text, and 95 recorded
sounds of animals, instruments and tools. An item is one of them; a clip is a few items one after the other, 10 s for
AudioCaps, 15 to 30 s for Clotho, and its five captions say ever less of it. Models start from random weights and train for
minutes: the figures say that the commands work on recorded sound in the public layouts and that something is learned where it
could be; they say nothing about the real data sets or the paper's models.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .records import ROOT, Row, argument_parser, origin, shows, stamp, table, write_json

RATE = 32_000
PAUSE = 0.3
LANGUAGES = {
    "": "English", "be": "Belarusian", "bg": "Bulgarian", "ca": "Catalan", "da": "Danish", "el": "Greek", "es": "Spanish",
    "fr": "French", "lt": "Lithuanian", "nl": "Dutch", "ro": "Romanian", "ru": "Russian",
}  # fmt: skip
SPLITS = {"audiocaps": ("train", "val", "test"), "clotho": ("development", "validation", "evaluation")}
SECONDS = {"audiocaps": (10.0, 10.0), "clotho": (15.0, 30.0)}


class Item(NamedTuple):
    """A recorded sound and what it is."""

    path: Path
    thing: str
    """English, without the full stop: "a crow"."""
    language: str
    """Of the phrase; "" for the sound of the thing itself."""

    @property
    def exactly(self) -> str:
        return f'someone says "{self.thing}" in {self.language}' if self.language else f"the sound of {self.thing}"

    @property
    def roughly(self) -> str:
        return f"speech in {self.language}" if self.language else f"the sound of {self.thing}"

    @property
    def hardly(self) -> str:
        return "someone speaking" if self.language else "some other sound"


def items(stamps: Path) -> tuple[list[Item], list[Item]]:
    """Phrases and sounds of things, in the order of their paths; what has no English text or is a symbol is left out."""
    phrases, sounds = [], []
    for path in sorted(stamps.rglob("*.ogg")):
        stem, _, language = path.stem.partition("_desc")
        text = path.with_name(f"{stem}.txt")
        if "symbols" in path.parts or not text.is_file():
            continue
        first = text.read_text(encoding="utf-8", errors="replace").splitlines()[0]
        thing = re.sub(r"\s*\(.*?\)", "", first).strip(" .!—").lower()
        if not re.fullmatch(r"(an?|the) [a-z -]{2,40}", thing):
            continue
        if "_desc" not in path.stem:
            sounds.append(Item(path, thing, ""))
        elif language.strip("_") in LANGUAGES:
            phrases.append(Item(path, thing, LANGUAGES[language.strip("_")]))
    return phrases, sounds


def waveform(item: Item) -> np.ndarray:
    """Mono at `RATE`, its peak at 0.5."""
    from prolap.data.audio import read

    sound = read(item.path, RATE).numpy()
    return 0.5 * sound / max(float(np.abs(sound).max()), 1e-4)


def compose(
    phrases: Sequence[Item], sounds: Sequence[Item], seconds: float, random: np.random.Generator
) -> tuple[np.ndarray, list[Item]]:
    """A clip of exactly `seconds`: phrases of one language, among them a sound, with pauses between and silence after them."""
    language = phrases[int(random.integers(len(phrases)))].language
    same = [phrase for phrase in phrases if phrase.language == language]
    clip, used = np.zeros(round(seconds * RATE), dtype=np.float32), []
    start = 0
    while start < len(clip) - RATE and len(used) < 8:
        pool = sounds if len(used) % 2 else same
        item = pool[int(random.integers(len(pool)))]
        wave = waveform(item)[: len(clip) - start]
        clip[start : start + len(wave)] = wave
        start += len(wave) + round(PAUSE * RATE)
        used.append(item)
    return clip, used


def captions(used: Sequence[Item]) -> list[str]:
    """Five captions, each saying less than the one before."""
    exact, rough = [item.exactly for item in used], list(dict.fromkeys(item.roughly for item in used))
    return [
        ", then ".join(exact),
        " and ".join([exact[0], *rough[1:3]]),
        " and ".join(rough[:3]),
        rough[0],
        " and ".join(dict.fromkeys(item.hardly for item in used)),
    ]


def clips(name: str, stamps: Path, count: int, seed: int) -> Iterator[tuple[np.ndarray, list[str]]]:
    """`count` clips as the data set `name` has them; the same seed gives the same clips."""
    phrases, sounds = items(stamps)
    random = np.random.default_rng(seed)
    low, high = SECONDS[name]
    for _ in range(count):
        wave, used = compose(phrases, sounds, random.uniform(low, high), random)
        yield wave, captions(used)


def write_audiocaps(folder: Path, stamps: Path, counts: Sequence[int], seed: int) -> None:
    """train.csv, val.csv, test.csv, and `<split>/<youtube_id>_<start>.wav`; one caption a row, in training one a clip."""
    import soundfile

    number = 0
    for index, (split, count) in enumerate(zip(SPLITS["audiocaps"], counts, strict=True)):
        (folder / split).mkdir(parents=True)
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["audiocap_id", "youtube_id", "start_time", "caption"])
            for clip, (wave, texts) in enumerate(clips("audiocaps", stamps, count, seed + index)):
                name = f"{split[:2]}{clip:09d}"  # eleven characters, as YouTube's
                soundfile.write(folder / split / f"{name}_30.wav", wave, RATE)
                for text in texts[clip % 3 : clip % 3 + 1] if split == "train" else texts:
                    writer.writerow([number := number + 1, name, 30, text])


def write_clotho(folder: Path, stamps: Path, counts: Sequence[int], seed: int) -> None:
    """clotho_captions_<split>.csv with five captions a file, and `<split>/<file>.wav`."""
    import soundfile

    for index, (split, count) in enumerate(zip(SPLITS["clotho"], counts, strict=True)):
        (folder / split).mkdir(parents=True)
        with (folder / f"clotho_captions_{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", *(f"caption_{number}" for number in range(1, 6))])
            for clip, (wave, texts) in enumerate(clips("clotho", stamps, count, seed + 10 + index)):
                name = f"{split} {clip}.wav"  # names of Clotho hold spaces
                soundfile.write(folder / split / name, wave, RATE)
                writer.writerow([name, *texts])


def unpacked(package: Path, folder: Path) -> Path:
    """The folder of stamps in a .deb, or the folder that was named."""
    if package.is_file():
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
        package = folder / "usr/share/tuxpaint/stamps"
    if not package.is_dir():
        raise SystemExit(f"--package: {package} is neither a .deb nor a folder of stamps.")
    return package


def make(args: argparse.Namespace) -> None:
    """Writes both data sets."""
    if args.folder.exists():
        raise SystemExit(f"folder: {args.folder} exists already; want a new one.")
    with tempfile.TemporaryDirectory() as temporary:
        stamps = unpacked(args.package, Path(temporary))
        write_audiocaps(args.folder / "audiocaps", stamps, args.clips, args.seed)
        write_clotho(args.folder / "clotho", stamps, [max(1, n // 4) for n in args.clips], args.seed)
    print(f"written: {args.folder}/audiocaps, {args.folder}/clotho")


class Run(NamedTuple):
    """One training and its evaluation on the test split of the same data."""

    preset: str
    data: str
    options: str


TINY = "--batch_size 64 --steps 600 --data.cache_features --eval_every 200 --checkpoint_every 200"
PAPER = "--batch_size 16 --steps 8 --optim.chunk 4 --eval_every 8 --optim.lr 1e-4"
RUNS = {
    "tiny, AudioCaps layout": Run("prolap+tiny", "audiocaps", TINY),
    "baseline, AudioCaps layout": Run("siglip+tiny", "audiocaps", TINY),
    "tiny, Clotho layout": Run("prolap+tiny", "clotho", TINY),
    "published size, AudioCaps layout": Run("prolap", "audiocaps", PAPER),
    "published size, Clotho layout": Run("prolap", "clotho", PAPER),
}


def prolap(*words: str) -> float:
    """Seconds of a command that must succeed; it prints on."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "prolap", *words], cwd=ROOT, check=True)
    return time.perf_counter() - started


def measure(run: Run, data: Path, folder: Path) -> Row:
    """Trains and evaluates one run; its options, seconds and retrieval, and what it was run on."""
    words = ["--preset", run.preset, "--data.train", f"{run.data}:{data / run.data}", "--data.cache", f"{folder}/cache"]
    seconds = {
        "train": prolap("train", *words, "--run", str(folder / "run"), *run.options.split(), "--quiet"),
        "evaluate": prolap("evaluate", str(folder / "run")),
    }
    metrics = json.loads((folder / "run" / "report" / "metrics.json").read_text())
    losses = [json.loads(line)["loss"] for line in (folder / "run" / "train.jsonl").read_text().splitlines()]
    return {
        **run._asdict(),
        "options": run.options.split(),
        "seconds": seconds,  # for the curious: other work may have run beside
        "retrieval": metrics["retrieval"],
        "loss": [losses[0], losses[-1]],
        "stamp": stamp("cpu"),
    }


def run(args: argparse.Namespace) -> None:
    """Puts every run into the file beside those that are there; they take too long to repeat for one."""
    for name in args.only:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            row = measure(RUNS[name], args.folder.resolve(), Path(folder))
        if args.json:
            runs = json.loads(args.json.read_text())["runs"] if args.json.is_file() else {}
            runs[name] = row
            write_json(args.json, {"runs": {known: runs[known] for known in RUNS if known in runs}})


@shows("cpu/miniature.json")
def report(record: Row) -> str:
    """What the runs on recorded sound in the public layouts came to."""
    rows = []
    for name, run in record["runs"].items():
        retrieval = run["retrieval"]
        cells = [f"{100 * retrieval[way]['r1']:.1f} / {100 * retrieval[way]['map10']:.1f}" for way in ("t2a", "a2t")]
        command = f"`--preset {run['preset']} {' '.join(run['options'])}`"
        rows.append([f"{name}: {command}", str(retrieval["n"]), *cells, f"{100 * retrieval['chance_r1']:.1f}"])
    head = ["run", "N", "T→A R@1 / mAP@10, %", "A→T R@1 / mAP@10, %", "chance R@1, %"]
    origins = dict.fromkeys(origin(run["stamp"]) for run in record["runs"].values())
    return f"{'; '.join(origins)}; random initial weights:\n\n{table(head, rows)}"


def main() -> None:
    parser = argument_parser("miniature", __doc__)
    commands = parser.add_subparsers(required=True)
    add = commands.add_parser("make", help="make the data").add_argument
    add("folder", type=Path, help="new folder; audiocaps/ and clotho/ are made in it")
    add("--package", type=Path, default=Path("/usr/share/tuxpaint/stamps"), help=".deb or folder of stamps")
    add("--clips", type=int, nargs=3, default=(800, 100, 200), metavar=("TRAIN", "DEV", "TEST"))
    add("--seed", type=int, default=0)
    commands.choices["make"].set_defaults(command=make)
    add = commands.add_parser("run", help="train and evaluate").add_argument
    add("folder", type=Path, help="what `make` wrote")
    add("--only", nargs="+", choices=RUNS, default=list(RUNS))
    add("--json", type=Path)
    commands.choices["run"].set_defaults(command=run)
    args = parser.parse_args()
    args.command(args)


if __name__ == "__main__":
    main()
