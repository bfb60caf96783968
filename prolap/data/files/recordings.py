"""Recorded sounds with their captions, as a layout names them; what cannot be used is reported and skipped."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prolap.config import DataConfig
from prolap.config.options import ConfigError
from prolap.data import audio, cache
from prolap.data.augment import Augment
from prolap.data.batch import padded
from prolap.data.dataset import Caption
from prolap.data.features import make_features, streamed
from prolap.data.files.entries import Row, check_rows
from prolap.utils.progress import Progress
from prolap.utils.seeding import numpy_generator

log = logging.getLogger(__name__)


def text_node(level: int, text: str) -> int:
    """The semantic node of a chain's text: captions alike but for case and spaces share it."""
    words = f"{level}|{' '.join(text.lower().split())}"
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little") >> 1


class RecordingData:
    """The usable ones of a layout's rows; log-mels are computed when asked for, or kept (`cache_features`).

    Training (split `train`, with an epoch) hears `config.seconds` of a longer file, at a place drawn by (seed, epoch,
    index), and augmentation; everything else hears the first `config.eval_seconds` as they are. Captions are those of the
    row (level and node -1) and the texts of its chain with theirs. `report` tells which rows were skipped and why; the
    log has a summary.

    Errors: ConfigError for kept log-mels together with augmentation of waveforms; ValueError if no row is usable.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        name: str,
        config: DataConfig,
        seed: int = 0,
        split: str = "train",
        source: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """source: what the report names; None is `name`."""
        self.name = name
        self.split = split
        self.seed = seed
        self.config = config
        self.augment = Augment(config.augment, seed)
        if config.cache_features and self.augment.waves:
            raise ConfigError(
                "data.cache_features: got true, want false with data.augment.gain_db, noise_db or shift, which change the "
                "sound before its log-mel."
            )
        self.entries, self.report = check_rows(rows, source or name, config.min_seconds, progress)
        if self.report.skipped:
            log.warning("%s", self.report)
        self.log_mel = make_features(config)
        self._kept = cache.LogMelCache(config) if config.cache_features else None
        self.samples = round(config.seconds * config.sample_rate)
        self._texts: dict[int, str] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def waveform(self, i: int, epoch: int | None = None) -> Tensor:
        """[T] at config.sample_rate, as long as this split hears, not augmented; only the part needed is read.

        Errors: AudioError if the file has become unreadable since it was checked.
        """
        entry, training = self.entries[i], self._training(epoch)
        seconds = self.config.seconds if training else self._heard
        start = self._crop_place(i, epoch) * max(0.0, entry.seconds - seconds)
        try:
            sound = audio.read(entry.path, self.config.sample_rate, start, seconds)
        except audio.AudioError:
            if start == 0.0:
                raise
            log.warning("%s cannot be read from second %.1f on; its start is used", entry.path, start)
            sound = audio.read(entry.path, self.config.sample_rate, 0.0, seconds)
        length = self._length(i, training)
        return audio.pad(sound[:length], length)

    def heard(self, i: int, epoch: int | None = None) -> Tensor:
        """The same [T], augmented in training: what the log-mel of (i, epoch) is made of, and mixtures are."""
        wave = self.waveform(i, epoch)
        return self.augment.wave(wave, epoch or 0, i) if self._training(epoch) and self.augment.waves else wave

    @property
    def _heard(self) -> float:
        """Seconds that evaluation hears."""
        return self.config.seconds if self.config.eval_seconds is None else self.config.eval_seconds

    def _training(self, epoch: int | None) -> bool:
        return epoch is not None and self.split == "train"

    def _crop_place(self, i: int, epoch: int | None) -> float:
        """In [0, 1): where the crop lies, from the start of the file to its end."""
        return float(numpy_generator(self.seed, "crop", epoch or 0, i).random()) if self._training(epoch) else 0.0

    def _length(self, i: int, training: bool = False) -> int:
        """Samples of clip i."""
        most = self.samples if training else round(self._heard * self.config.sample_rate)
        return max(1, min(most, round(self.entries[i].seconds * self.config.sample_rate)))

    def _mel(self, i: int, epoch: int | None) -> Tensor:
        """[frames, mels] of what the split hears of clip i, augmented in training."""
        training = self._training(epoch)
        mel = self.log_mel(self.heard(i, epoch)) if self._kept is None else self._crop_of_kept(i, epoch)
        return self.augment.mel(mel, epoch or 0, i) if training and self.augment.mels else mel

    def _crop_of_kept(self, i: int, epoch: int | None) -> Tensor:
        """The same of the log-mel of the file; the frames at the edges of a crop have heard what lies beyond."""
        path, rate = self.entries[i].path, self.config.sample_rate
        assert self._kept is not None
        longest = self._kept.seconds
        try:
            mel = self._kept.get(path, lambda: streamed(self.log_mel, audio.stream(path, rate, longest)))
        except OSError as error:
            raise audio.AudioError(f"{path}: {error.strerror or error}") from error
        count = self.log_mel.frames(self._length(i, self._training(epoch)))
        first = int(self._crop_place(i, epoch) * (max(0, len(mel) - count) + 1))
        lacking = max(0, count - len(mel))  # of a file shorter than its header promised
        return torch.nn.functional.pad(mel[first : first + count].float(), (0, 0, 0, lacking), value=float(mel.min()))

    def features(self, i: int) -> Tensor:
        return self._mel(i, None)

    def features_batch(self, indices: Sequence[int] | np.ndarray, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """Zero-padded: in training to config.seconds, so that every batch has the same shape, else to the longest."""
        mels = [self._mel(int(i), epoch) for i in indices]
        return padded(mels, self.log_mel.frames(self.samples) if self._training(epoch) else 0)

    def frames(self, i: int) -> int:
        return self.log_mel.frames(self._length(i))

    def captions(self, i: int) -> Sequence[Caption]:
        entry = self.entries[i]
        chained = [Caption(text, level, text_node(level, text)) for level, text in enumerate(entry.chain)]
        return [Caption(text, -1, -1) for text in entry.captions] + chained

    def evaluation_captions(self, i: int) -> Sequence[Caption]:
        """The row's own captions; the most specific text of the chain where there are none."""
        own, captions = len(self.entries[i].captions), self.captions(i)
        return captions[:own] if own else captions[-1:]

    def chain(self, i: int) -> tuple[int, ...]:
        return tuple(text_node(level, text) for level, text in enumerate(self.entries[i].chain))

    def unseen(self, i: int) -> bool:
        """False: nobody says which sources sound."""
        return False

    def node_text(self, node: int) -> str:
        if self._texts is None:
            self._texts = {
                text_node(level, text): text for entry in self.entries for level, text in enumerate(entry.chain)
            }
        if node not in self._texts:
            raise KeyError(f"node {node} does not occur in {self.name}")
        return self._texts[node]
