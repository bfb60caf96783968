"""Miniatures of AudioCaps and Clotho from recorded sounds that a Debian package ships, in the public layouts.

    apt-get download tuxpaint-stamps-default        # 161 MB, GPL-2; neither copied into this repository nor shipped
    python -m benchmarks.miniature FOLDER --package tuxpaint-stamps-default_*.deb
    prolap train --preset prolap --data.train audiocaps:FOLDER/audiocaps ...

The package holds some 4,500 phrases spoken in twelve languages ("Un corbeau."), each with its English text, and 95 recorded
sounds of animals, instruments and tools. An item is one of them; a clip is a few items one after the other, 10 s for
AudioCaps, 15 to 30 s for Clotho, and its five captions say ever less of it. What is learned from it says nothing about the
real data sets: it proves that the commands work on recorded sound in their layouts.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

RATE = 32_000
PAUSE = 0.3
LANGUAGES = {
    "": "English",
    "be": "Belarusian",
    "bg": "Bulgarian",
    "ca": "Catalan",
    "da": "Danish",
    "el": "Greek",
    "es": "Spanish",
    "fr": "French",
    "lt": "Lithuanian",
    "nl": "Dutch",
    "ro": "Romanian",
    "ru": "Russian",
}
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
    out, used = np.zeros(round(seconds * RATE), dtype=np.float32), []
    at = 0
    while at < len(out) - RATE and len(used) < 8:
        pool = sounds if len(used) % 2 else same
        item = pool[int(random.integers(len(pool)))]
        wave = waveform(item)[: len(out) - at]
        out[at : at + len(wave)] = wave
        at += len(wave) + round(PAUSE * RATE)
        used.append(item)
    return out, used


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


def clips(shape: str, stamps: Path, count: int, seed: int) -> Iterator[tuple[np.ndarray, list[str]]]:
    """`count` clips of the data set `shape`; the same seed gives the same clips."""
    phrases, sounds = items(stamps)
    random = np.random.default_rng(seed)
    low, high = SECONDS[shape]
    for _ in range(count):
        wave, used = compose(phrases, sounds, random.uniform(low, high), random)
        yield wave, captions(used)


def write_audiocaps(folder: Path, stamps: Path, counts: Sequence[int], seed: int) -> None:
    """train.csv, val.csv, test.csv, and `<split>/<youtube_id>_<start>.wav`; one caption a row, in training one a clip."""
    import soundfile

    number = 0
    for at, (split, count) in enumerate(zip(SPLITS["audiocaps"], counts, strict=True)):
        (folder / split).mkdir(parents=True)
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["audiocap_id", "youtube_id", "start_time", "caption"])
            for clip, (wave, texts) in enumerate(clips("audiocaps", stamps, count, seed + at)):
                name = f"{split[:2]}{clip:09d}"  # eleven characters, as YouTube's
                soundfile.write(folder / split / f"{name}_30.wav", wave, RATE)
                for text in texts[clip % 3 : clip % 3 + 1] if split == "train" else texts:
                    table.writerow([number := number + 1, name, 30, text])


def write_clotho(folder: Path, stamps: Path, counts: Sequence[int], seed: int) -> None:
    """clotho_captions_<split>.csv with five captions a file, and `<split>/<file>.wav`."""
    import soundfile

    for at, (split, count) in enumerate(zip(SPLITS["clotho"], counts, strict=True)):
        (folder / split).mkdir(parents=True)
        with (folder / f"clotho_captions_{split}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file_name", *(f"caption_{number}" for number in range(1, 6))])
            for clip, (wave, texts) in enumerate(clips("clotho", stamps, count, seed + 10 + at)):
                name = f"{split} {clip}.wav"  # names of Clotho hold spaces
                soundfile.write(folder / split / name, wave, RATE)
                table.writerow([name, *texts])


def unpacked(package: Path, into: Path) -> Path:
    """The folder of stamps in a .deb, or the given folder."""
    if package.is_file():
        subprocess.run(["dpkg-deb", "-x", str(package), str(into)], check=True)
        package = into / "usr/share/tuxpaint/stamps"
    if not package.is_dir():
        raise SystemExit(f"--package: {package} is neither a .deb nor a folder of stamps.")
    return package


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.miniature", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="new folder; audiocaps/ and clotho/ are made in it")
    parser.add_argument(
        "--package", type=Path, default=Path("/usr/share/tuxpaint/stamps"), help=".deb or folder of stamps"
    )
    parser.add_argument("--clips", type=int, nargs=3, default=(800, 100, 200), metavar=("TRAIN", "DEV", "TEST"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.folder.exists():
        raise SystemExit(f"folder: {args.folder} exists already; want a new one.")
    with tempfile.TemporaryDirectory() as temporary:
        stamps = unpacked(args.package, Path(temporary))
        write_audiocaps(args.folder / "audiocaps", stamps, args.clips, args.seed)
        write_clotho(args.folder / "clotho", stamps, [max(1, n // 4) for n in args.clips], args.seed)
    print(f"written: {args.folder}/audiocaps, {args.folder}/clotho")


if __name__ == "__main__":
    main()
