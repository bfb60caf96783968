"""Archives, checkpoints, manifests and options that an attacker made, read by the commands that read a stranger's files.

Nothing in them is executed, nothing is written outside of the folders that were named, nothing hangs, memory stays bounded, and
the answer is one sentence or a report on what was skipped.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import struct
import tarfile
import wave
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from tests.campaign.common import Broken, Campaign, command_line, copy_tree, explained, forked, random_of, warm_up
from tests.campaign.kills import snapshot
from tests.prolap.tiny import as_words, tiny_options, write_data

SECONDS = 30.0
"""That a command may take over a small hostile file, on a busy machine."""
BYTES = 1 << 30
"""That it may take beyond what it starts with."""
CANARY = "executed"
"""The file that executed code would leave in the current folder."""
HUGE = 1 << 60


@dataclass(frozen=True)
class Shared:
    """What all cases of a process share."""

    base: Path
    """A trained run and sounds."""
    folder: Path


Attack = Callable[[Path, random.Random], list[str | Path]]
"""Writes hostile files into a folder with `run`, `data` and `evil`; the words of the command that reads them."""


class Payload:
    """Pickled, it runs a command when it is read."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw

    def __reduce__(self) -> tuple[Any, ...]:
        ways: list[tuple[Any, ...]] = [
            (os.system, (f"touch {CANARY}",)),
            (eval, (f"open({CANARY!r}, 'w')",)),
            (exec, (f"open({CANARY!r}, 'w')",)),
            (Path.touch, (Path(CANARY),)),
            (__import__("subprocess").call, (["touch", CANARY],)),
        ]
        return self.draw.choice(ways)


def deep(draw: random.Random) -> str:
    """JSON or YAML nested beyond what a recursive reader takes."""
    depth = draw.choice([2_000, 50_000, 300_000])
    opening, closing = draw.choice([("[", "]"), ('{"a":', "}")])
    return opening * depth + "0" + closing * depth


def odd_values(draw: random.Random) -> Any:
    """What a field may hold that nobody expects."""
    return draw.choice(
        [None, True, -1, 1e308, "", "\x00", "../../x", [], {}, [[]], {"a": {"b": []}}, 10**400, "9" * 5000]
    )


# archives


def _member(archive: tarfile.TarFile, name: str, content: bytes, **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(content) if info.isreg() else None)


def odd_members(at: Path, draw: random.Random) -> list[str | Path]:
    sound = (at / "data" / "1.wav").read_bytes()
    with tarfile.open(
        at / "evil" / "a.tar", "w", format=draw.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    ) as archive:
        if draw.random() < 0.7:
            _member(archive, "good.wav", sound)
            _member(archive, "good.txt", b"a tone")
        for number in range(draw.randint(1, 6)):
            name = draw.choice(
                ["/tmp/evil", "../../evil", "x/../../evil", "a" * 3000, "caf\udce9", ".", "", "\n", f"k{number}"]
            )
            kinds = [
                tarfile.SYMTYPE,
                tarfile.LNKTYPE,
                tarfile.CHRTYPE,
                tarfile.BLKTYPE,
                tarfile.FIFOTYPE,
                tarfile.DIRTYPE,
            ]
            kind = draw.choice([*kinds, tarfile.REGTYPE, tarfile.REGTYPE])
            fields: dict[str, Any] = {"type": kind}
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                fields["linkname"] = draw.choice(["/etc/passwd", "../../data/1.wav", "good.wav", name])
            if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
                fields |= {"devmajor": 1, "devminor": 5}
            suffix = draw.choice([".wav", ".txt", ".json", ".flac"])
            content = draw.choice([sound, b"text", deep(draw).encode(), b"\x00" * 512, b"\xff\xfe"])
            _member(archive, name + suffix, content if kind == tarfile.REGTYPE else b"", **fields)
    return _check(at, f"wds:{at}/evil/a.tar")


def forged_headers(at: Path, draw: random.Random) -> list[str | Path]:
    """Sizes and checksums of headers that promise what is not there."""
    target = at / "evil" / "a.tar"
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for number in range(3):
            _member(archive, f"{number}.wav", (at / "data" / f"{number}.wav").read_bytes())
            _member(archive, f"{number}.txt", b"a tone")
    content = bytearray(target.read_bytes())
    start = draw.choice([0, 512 * draw.randrange(len(content) // 512)])
    size = draw.choice(
        [b"77777777777\x00", b"\x80" + b"\x00" * 3 + struct.pack(">Q", HUGE), b"\xff" * 12, b"-0000000001\x00"]
    )
    content[start + 124 : start + 136] = size
    content[start + 156 : start + 157] = draw.choice([b"0", b"x", b"g", b"L", b"K", b"S", b"V"])
    content[start + 148 : start + 156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\x00 " % sum(content[start : start + 512])
    target.write_bytes(content)
    return _check(at, f"wds:{target}")


def compressed_bomb(at: Path, draw: random.Random) -> list[str | Path]:
    mode = draw.choice(["w:gz", "w:bz2", "w:xz"])
    with tarfile.open(at / "evil" / "a.tar", mode) as archive:
        _member(archive, "0.wav", b"\x00" * (32 << 20))
        _member(archive, "0.txt", b"a tone")
    return _check(at, f"wds:{at}/evil/a.tar")


def cache_bomb(at: Path, draw: random.Random) -> list[str | Path]:
    """A kept log-mel that is a zip bomb, a promise of terabytes, or a pickle."""
    kept = sorted((at / "cache").rglob("*.npz"))
    for path in draw.sample(kept, min(3, len(kept))):
        kind = draw.choice(["bomb", "promise", "pickle"])
        if kind == "bomb":
            np.savez_compressed(path, mel=np.zeros((1 << 20, 64), np.float16))
        elif kind == "pickle":
            with path.open("wb") as file:
                np.savez(file, mel=np.array([Payload(draw)], dtype=object))
        else:
            header = io.BytesIO()
            shape = (HUGE, 64) if draw.random() < 0.5 else (-1, 64)
            np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": shape})  # type: ignore[no-untyped-call]
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("mel.npy", header.getvalue())
    return ["train", "--quiet", "--resume", at / "run"]


# checkpoints


def _checkpoint(at: Path) -> Path:
    pointer = (at / "run" / "checkpoints" / "latest").read_text().strip()
    return at / "run" / "checkpoints" / pointer


def _forge(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the state of a checkpoint, checksums of everything included."""
    state = json.loads((folder / "state.json").read_text())
    content = state["content"]
    for name in content["files"]:
        content["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    replaced = change(content)
    content = content if replaced is None else replaced
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / "state.json").write_text(json.dumps({"sha256": digest, "content": content}))


def _read_run(at: Path, draw: random.Random) -> list[str | Path]:
    commands: list[list[str | Path]] = [
        ["train", "--quiet", "--resume", at / "run"],
        ["evaluate", at / "run", "--quiet", "--which", "last", "--out", at / "out"],
        ["train", "--quiet", "--init", at / "run", *as_words(tiny_options(at / "data", at / "new"))],
    ]
    return draw.choice(commands)


def forged_state(at: Path, draw: random.Random) -> list[str | Path]:
    """Wrong types under right checksums."""

    def change(content: dict[str, Any]) -> Any:
        if draw.random() < 0.05:
            return odd_values(draw)
        section = content
        while True:
            key = draw.choice(sorted(section))
            if isinstance(section[key], dict) and section[key] and draw.random() < 0.7:
                section = section[key]
                continue
            if draw.random() < 0.2:
                del section[key]
            else:
                section[key] = odd_values(draw)
            return None

    _forge(_checkpoint(at), change)
    return _read_run(at, draw)


def plugin_of_a_stranger(at: Path, draw: random.Random) -> list[str | Path]:
    """A checkpoint that names a module, which lies in the current folder."""
    Path("evil_plugin.py").write_text(f"open({CANARY!r}, 'w')\n")
    _forge(_checkpoint(at), lambda content: content["config"].__setitem__("plugins", ["evil_plugin"]))
    commands: list[list[str | Path]] = [
        ["evaluate", at / "run", "--quiet", "--which", "last", "--out", at / "out"],
        ["train", "--quiet", "--init", at / "run", *as_words(tiny_options(at / "data", at / "new"))],
    ]
    return draw.choice(commands)


def deep_state(at: Path, draw: random.Random) -> list[str | Path]:
    where = draw.choice(["state", "log", "pointer"])
    if where == "state":
        (_checkpoint(at) / "state.json").write_text(deep(draw))
    elif where == "log":
        with (at / "run" / draw.choice(["train.jsonl", "dev.jsonl"])).open("a") as file:
            file.write(deep(draw) + "\n")
    else:
        evil = ["../../..", "/etc", "a" * 5000, "\x00", "step-00000003/../../..", "\n", "nul\x00l", ".", ""]
        (at / "run" / "checkpoints" / draw.choice(["latest", "best"])).write_text(draw.choice(evil))
    return _read_run(at, draw)


def forged_tensors(at: Path, draw: random.Random) -> list[str | Path]:
    """Headers of safetensors that lie, under right checksums."""
    folder = _checkpoint(at)
    target = folder / draw.choice(["model.safetensors", "optimizer.safetensors"])
    content = target.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    name = draw.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    change = draw.randrange(8)
    if change == 0:
        entry["shape"] = draw.choice([[HUGE], [-1], [2**31, 2**31, 2**31], ["a"], [[1]]])
    elif change == 1:
        entry["data_offsets"] = draw.choice([[0, HUGE], [-8, 0], [8, 0], [0, 0], ["a", "b"]])
    elif change == 2:
        entry["dtype"] = draw.choice(["F99", "", 3, None, "I64", "F8_E4M3"])
    elif change == 3:
        header["../../evil"] = dict(entry)
    elif change == 4:
        del header[name]
    elif change == 5:
        header = odd_values(draw)
    text = deep(draw).encode() if change == 6 else json.dumps(header).encode()
    size = draw.choice([HUGE, 2**64 - 1, 0, len(text) + 10**9]) if change == 7 else len(text)
    target.write_bytes(struct.pack("<Q", size) + text + body)
    _forge(folder, lambda content: None)
    return _read_run(at, draw)


def code_in_weights(at: Path, draw: random.Random) -> list[str | Path]:
    """Files for --init that would run code: pickles, torch's old and new forms, archives of them, TorchScript."""
    kind = draw.choice(["pickle", "torch", "old", "tar", "folder", "nested", "bomb"])
    target = at / "evil" / draw.choice(["w.pth", "w.pt", "w.bin", "w.ckpt", "w.safetensors", "w.tar"])
    content: Any = {"model": Payload(draw)} if draw.random() < 0.5 else Payload(draw)
    if kind == "folder":
        (at / "evil" / "hf").mkdir()
        target = at / "evil" / "hf" / "pytorch_model.bin"
        (target.parent / "config.json").write_text(draw.choice([deep(draw), "{}", "null", '{"model_type": "clap"}']))
    if kind == "pickle":
        target.write_bytes(pickle.dumps(content, protocol=draw.randrange(6)))
    elif kind == "tar":
        with tarfile.open(target, "w") as archive:
            for name in ("pickle", "tensors", "storages", "data.pkl"):
                _member(archive, name, pickle.dumps(content))
    elif kind == "nested":
        target.write_bytes(b"(" * 100_000 + b"." if draw.random() < 0.5 else b"\x80\x04" + b"]" * 10**6 + b".")
    elif kind == "bomb":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("archive/data.pkl", b"\x80\x02}q\x00." + b"\x00" * (64 << 20))
            zipped.writestr("archive/version", "3")
    else:
        torch.save(content, target, _use_new_zipfile_serialization=kind != "old")
    init = target.parent if kind == "folder" else target
    return ["train", "--quiet", "--init", init, *as_words(tiny_options(at / "data", at / "new"))]


# manifests and sounds


def odd_rows(at: Path, draw: random.Random) -> list[str | Path]:
    as_csv = draw.random() < 0.5
    target = at / "evil" / ("m.csv" if as_csv else "m.jsonl")
    os.mkfifo(at / "evil" / "fifo.wav")
    names = ["../data/1.wav", "fifo.wav", "a" * 5000 + ".wav", "nul\x00l.wav", "/dev/zero", "/dev/stdin", ".", "..",
             "/proc/self/mem", "https://example.org/x.wav", "~nobody/x.wav", "$HOME/x.wav", "|touch executed",
             "caf\u00e9\u202e.wav", " "]  # fmt: skip
    captions = [
        "a tone",
        "",
        "x" * (1 << 20),
        "\x00",
        "$(touch executed)",
        "\u202e" * 99,
        "=cmd|' /C calc'!A0",
        "😀" * 300,
    ]
    rows = [(draw.choice(names), draw.choice(captions)) for _ in range(draw.randint(1, 8))]
    rows += [("../data/2.wav", "another tone")] * draw.randint(0, 1)
    if as_csv:
        with target.open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
            writer = csv.writer(file)
            writer.writerow(["audio", "caption", *(["caption_2"] * draw.choice([0, 0, 1000]))])
            writer.writerows(row for row in rows if "\x00" not in "".join(row) or draw.random() < 0.5)
    else:
        odd = [deep(draw), "NaN", '{"audio": 3}', '{"audio": "\\ud800", "caption": "a"}', "[]", '{"audio": ' + "9" * 5000 + "}",
               '{"audio": "../data/1.wav", "captions": [[["x"]]], "chain": {"a": 1}}', "\x00"]  # fmt: skip
        lines = [json.dumps({"audio": audio, "caption": caption}) for audio, caption in rows]
        target.write_text("\n".join([*lines, *draw.sample(odd, draw.randint(0, 4))]) + "\n")
    return _check(at, str(target))


def odd_manifests(at: Path, draw: random.Random) -> list[str | Path]:
    """Manifests that are no text, no file or no end."""
    target = at / "evil" / draw.choice(["m.csv", "m.jsonl"])
    kind = draw.choice(["fifo", "zero", "folder", "utf16", "binary", "one line", "quote", "loop"])
    if kind == "fifo":
        os.mkfifo(target)
    elif kind == "zero":
        target.symlink_to("/dev/zero")
    elif kind == "loop":
        target.symlink_to(target)
    elif kind == "folder":
        target.mkdir()
    elif kind == "utf16":
        target.write_text("audio,caption\n../data/1.wav,a tone\n", encoding="utf-16")
    elif kind == "binary":
        target.write_bytes(draw.randbytes(4096))
    elif kind == "quote":
        target.write_text('audio,caption\n../data/1.wav,"' + "never closed\n" * 50_000)
    else:
        target.write_text("audio,caption\n" + "x" * (8 << 20))
    return _check(at, str(target))


def odd_sounds(at: Path, draw: random.Random) -> list[str | Path]:
    """Headers that promise what is not there, and much silence in few bytes."""
    kind = draw.choice(["frames", "channels", "rate", "silence", "text", "flac"])
    target = at / "evil" / "s.wav"
    if kind == "silence":
        target = at / "evil" / "s.flac"
        soundfile.write(target, np.zeros(16_000 * draw.choice([600, 3600]), np.int16), 16_000)
    elif kind == "text":
        target.write_bytes(b"RIFF" + draw.randbytes(2000))
    elif kind == "flac":
        target = at / "evil" / "s.flac"
        soundfile.write(target, np.zeros(16_000, np.int16), 16_000)
        content = bytearray(target.read_bytes())
        content[draw.randrange(8, 42)] ^= 0xFF
        target.write_bytes(content)
    else:
        with wave.open(str(target), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(bytes(16_000))
        content = bytearray(target.read_bytes())
        if kind == "frames":
            content[40:44] = b"\xff\xff\xff\x7f"
        elif kind == "channels":
            content[22:24] = draw.choice([b"\xff\xff", b"\x00\x00", b"\x00\x04"])
        else:
            content[24:28] = draw.choice([b"\xff\xff\xff\x7f", b"\x00\x00\x00\x00", b"\x01\x00\x00\x00"])
        target.write_bytes(content)
    (at / "evil" / "m.csv").write_text(f"audio,caption\n../data/1.wav,a tone\n{target.name},silence\n")
    if draw.random() < 0.5:
        return _check(at, str(at / "evil" / "m.csv"))
    options = tiny_options(at / "data", at / "new", data__train=str(at / "evil" / "m.csv"), steps=1, batch_size=2,
                           data__cache_features=True, data__cache=str(at / "cache"))  # fmt: skip
    return ["train", "--quiet", *as_words(options)]


# options


def odd_options(at: Path, draw: random.Random) -> list[str | Path]:
    """Files of options that would build objects, grow without end or nest without end."""
    laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, draw.choice([6, 12]))
    )
    texts = [
        f"run: !!python/object/apply:os.system ['touch {CANARY}']",
        f"run: !!python/object/new:os.system [touch {CANARY}]",
        "run: !!python/name:os.system",
        f"optim: !!python/object/apply:eval [\"open('{CANARY}', 'w')\"]",
        laughs,
        laughs + "run: *a5",
        deep(draw),
        "a: &a [*a]",
        "run: &r {optim: *r}",
        "? [complex, key]\n: x",
        "<<: [1, 2]",
        "\x00",
        "- a list",
        "steps: " + "9" * 5000,
        "steps: 1e400",
        "optim:\n  lr: .nan",
        "seed: 0x" + "f" * 400,
        "preset: ../../../etc/passwd",
        "run: " + "r" * 5000,
        "[" * 50_000,
    ]
    suffix = draw.choice([".yaml", ".yaml", ".toml"])
    target = at / "evil" / f"options{suffix}"
    text = (
        draw.choice(texts)
        if suffix == ".yaml"
        else draw.choice(["a = " + "[" * 50_000, "a" + ".a" * 50_000 + " = 1", "\x00", "steps = 1e400"])
    )
    target.write_text(text)
    if draw.random() < 0.3:
        shutil.copy(target, at / "run" / "config.yaml")
        return ["train", "--quiet", "--resume", at / "run"]
    return ["train", "--quiet", "--config", target, *as_words(tiny_options(at / "data", at / "new", steps=1))]


def _check(at: Path, spec: str) -> list[str | Path]:
    return ["data", "check", spec, "--quiet", "--split", "train", "--data.cache", at / "cache", "--data.seconds", "0.3"]


ATTACKS: dict[str, tuple[Attack, ...]] = {
    "archives": (odd_members, forged_headers, compressed_bomb, cache_bomb),
    "checkpoints": (forged_state, plugin_of_a_stranger, deep_state, forged_tensors, code_in_weights),
    "manifests": (odd_rows, odd_manifests, odd_sounds),
    "options": (odd_options,),
}


def prepare(folder: Path) -> Shared:
    warm_up()
    case = folder / "case"
    for name in ("data", "evil", "cache", "out"):
        (case / name).mkdir(parents=True)
    write_data(case / "data")
    options = tiny_options(
        case / "data", case / "run", data__cache_features=True, data__cache=str(case / "cache"), steps=4, eval_every=2
    )
    ending = forked(lambda: command_line("train", "--quiet", *as_words(options)))
    if ending.status != 0:
        raise RuntimeError(f"it does not work at all: {ending.output}")
    copy_tree(case, folder / "base")
    return Shared(folder / "base", case)


OURS = ("new", "out", "run", "cache", "evil")
"""Folders that a command may write into, being named to it."""


def case(shared: Shared, seed: int) -> Counter[str]:
    draw = random_of(seed)
    at = shared.folder
    shutil.rmtree(at.parent / "case", ignore_errors=True)
    copy_tree(shared.base, at)
    group = draw.choice(list(ATTACKS))
    attack = draw.choice(ATTACKS[group])
    here = at / "here"
    here.mkdir()
    before = os.getcwd()
    os.chdir(here)
    try:
        words = attack(at, draw)
        outside = _outside(at)
        ending = forked(partial(command_line, *words), seconds=SECONDS, most=2 * BYTES)
        what = f"{group}, {attack.__name__} by `prolap {words[0]}`"
        if (here / CANARY).exists() or CANARY in {path.name for path in at.rglob(CANARY)}:
            raise Broken(f"{what}: code was executed")
        if _outside(at) != outside:
            raise Broken(f"{what}: something was written outside")
        if ending.peak > BYTES:
            raise Broken(f"{what}: it takes {ending.peak / (1 << 20):.0f} MB")
        try:
            # status 1 of `data check`: it reports broken sounds
            sentence = explained(ending._replace(status=0) if ending.status == 1 and words[0] == "data" else ending)
        except Broken as broken:
            raise Broken(f"{what}: {broken}") from broken
    finally:
        os.chdir(before)
    return Counter(
        {"hostile inputs": 1, f"{group}: {'refused in one sentence' if sentence else 'read, nothing happened'}": 1}
    )


def _outside(at: Path) -> dict[str, str]:
    """What lies where nothing may be written; /tmp is watched for what archives name."""
    files = {path: digest for path, digest in snapshot_here(at).items() if path.split("/")[0] not in OURS}
    return (
        files | {str(path): "there" for path in Path("/tmp").glob("evil*")} | {"up": str(sorted(at.parent.iterdir()))}
    )


def snapshot_here(at: Path) -> dict[str, str]:
    return snapshot(at / "data") | {
        str(path.relative_to(at)): "" for path in (at / "here").rglob("*") if "__pycache__" not in path.parts
    }


HOSTILE = Campaign("hostile", "hostile inputs", 200, prepare, case)
