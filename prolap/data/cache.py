"""Files that are made once and kept, written whole or not at all; among them log-mels of whole sounds."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prolap.config import DataConfig
from prolap.data import audio, features
from prolap.data.files.tar import Member
from prolap.utils.files import atomic

log = logging.getLogger(__name__)


def folder(cache: str | None) -> Path:
    """The given folder, or the user's cache folder; made if missing."""
    if cache is None:
        import platformdirs

        path = Path(platformdirs.user_cache_dir("prolap"))
    else:
        path = Path(cache).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


def key(**facts: object) -> str:
    """Sixteen hexadecimal digits that stand for all the facts a file depends on."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def load_arrays(
    path: Path, is_whole: Callable[[dict[str, np.ndarray]], bool], what: str
) -> dict[str, np.ndarray] | None:
    """The arrays of a cached .npz file; None if it is missing or, with a warning that calls it `what`, damaged.

    is_whole: whether arrays that could be read are what was written.
    """
    if not path.exists():
        return None
    try:
        # numpy leaves a damaged file open if it opened it; reading all of a zip file checks its checksum
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = dict(file)
        if is_whole(arrays):
            return arrays
        reason = "it does not hold what was written"
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error)
    log.warning("%s %s is damaged (%s) and is made again", what, path, reason)
    return None


def stamp(source: audio.Source) -> tuple[object, ...]:
    """What changes when the sound does: absolute path, size, time of the last change; of a member, its place too."""
    path = source.archive if isinstance(source, Member) else Path(source)
    status = path.stat()
    part = (source.offset, source.size) if isinstance(source, Member) else ()
    return (str(path.resolve()), status.st_size, status.st_mtime_ns, *part)


class LogMelCache:
    """One file a sound, in a folder named after the recipe.

    Kept as float16, half the disk of float32: off by at most 1/2048 of the value, so by 0.004 at 8 standard deviations and
    by 0.03 dB at -64 dB. AudioCaps takes 176 kB a clip at 64 mels and 138 frames a second, so 9 GB in all. Files carry a
    checksum; a damaged one is made again. Several processes may share a folder.
    """

    def __init__(self, config: DataConfig) -> None:
        recipe = (config.features, config.sample_rate, config.mels, config.window, config.hop)
        name = key(version=features.VERSION, recipe=recipe)
        self.folder = folder(config.cache) / f"logmels-{name}"
        self.mels = config.mels

    def path(self, source: audio.Source) -> Path:
        """Where the log-mel of a sound is kept."""
        name = key(sound=stamp(source))
        return self.folder / name[:2] / f"{name}.npz"

    def get(self, source: audio.Source, make: Callable[[], Tensor]) -> Tensor:
        """The log-mel [frames, mels] float32 of the whole sound; `make` computes it if it is not there."""
        path = self.path(source)
        arrays = load_arrays(path, _is_log_mel, "the cached log-mel")
        if arrays is not None:
            mel = arrays["mel"]
        else:
            mel = make().numpy().astype(np.float16)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(path) as file:
                np.savez(file, mel=mel)
        # rounded whether it was just made or read, so that a resumed run sees the same
        return torch.from_numpy(mel.astype(np.float32))


def _is_log_mel(arrays: dict[str, np.ndarray]) -> bool:
    mel = arrays["mel"]
    return mel.ndim == 2 and len(mel) > 0 and mel.dtype == np.float16
