"""The embedded data set: scenes mixed from the note bank, with captions on four levels of abstraction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prolap.config import DataConfig
from prolap.config.options import ConfigError
from prolap.data import cache, features
from prolap.data.augment import Augment
from prolap.data.dataset import Caption, Split
from prolap.data.features import make_features
from prolap.data.scenes import captions as scene_captions
from prolap.data.scenes import mix as scene_mix
from prolap.data.scenes import plan as scene_plan
from prolap.data.scenes.plan import Scene, Universe
from prolap.data.scenes.rendered import RenderedMels
from prolap.data.scenes.soundfont import Bank, load_bank
from prolap.utils.progress import Progress
from prolap.utils.seeding import numpy_generator


class SceneData:
    """A split of the scenes: `config.clips`, `dev_clips` or `test_clips` clips of `config.seconds`.

    Clips are fully determined by (config.seed, split, index). Dev and test hold no combination of sources, relation
    and attributes that occurs in train, and every meaning once; `unseen` clips are made of source sets that training
    never contains. The log-mels are rendered once and cached in one float16 file.

    Errors: ValueError for a split without clips; ConfigError for augmentation of waveforms.
    """

    def __init__(self, config: DataConfig, split: Split, progress: Progress | None = None) -> None:
        clips = {"train": config.clips, "dev": config.dev_clips, "test": config.test_clips}[split]
        if clips < 1:
            raise ValueError(f"data.{'' if split == 'train' else split + '_'}clips must be at least 1, got {clips}")
        self.augment = Augment(config.augment, config.seed)
        if self.augment.waves:
            raise ConfigError(
                "data.augment: got gain_db, noise_db or shift with scenes, want SpecAugment alone (time_masks, band_masks): "
                "scenes are kept as log-mels."
            )
        self.name = f"scenes/{split}"
        self.split: Split = split
        self.config = config
        self.bank: Bank = load_bank(config, progress)
        self.log_mel = make_features(config)
        self.scenes: list[Scene] = scene_plan.plan(config.seed, split, clips, Universe(self.bank.silent))
        self._captions: list[list[Caption] | None] = [None] * clips
        self._nodes: dict[int, tuple[int, int]] | None = None
        frames = self.log_mel.frames(round(config.seconds * config.sample_rate))
        self.mels = RenderedMels(self._path(), (clips, frames, config.mels), self._mel, self.name, progress)

    def __len__(self) -> int:
        return len(self.scenes)

    def waveform(self, i: int) -> NDArray[np.float32]:
        """The sound of clip i, [samples] mono."""
        return scene_mix.mix(self.scenes[i], self.bank, self.config.seconds, self.config.seed, self.split, i)

    def heard(self, i: int, epoch: int | None = None) -> Tensor:
        """The same as a tensor, in every epoch: what mixtures are made of."""
        return torch.from_numpy(self.waveform(i))

    def features(self, i: int) -> Tensor:
        return torch.from_numpy(self.mels[i].astype(np.float32))

    def features_batch(self, indices: Sequence[int] | np.ndarray, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        audio = torch.from_numpy(self.mels.stack(indices)).float()
        if epoch is not None and self.split == "train" and self.augment.mels:
            audio = torch.stack([self.augment.mel(mel, epoch, int(i)) for mel, i in zip(audio, indices, strict=True)])
        return audio, torch.full((len(indices),), self.mels.shape[1], dtype=torch.int64)

    def frames(self, i: int) -> int:
        return int(self.mels.shape[1])

    def captions(self, i: int) -> Sequence[Caption]:
        captions = self._captions[i]
        if captions is None:
            rng = numpy_generator(self.config.seed, "captions", self.split, i)
            captions = self._captions[i] = scene_captions.caption_scene(self.scenes[i], rng)
        return captions

    def evaluation_captions(self, i: int) -> Sequence[Caption]:
        """One caption of the most specific level, short, middle or long; all differ within dev and test."""
        rng = numpy_generator(self.config.seed, "query", self.split, i)
        specific = [caption for caption in self.captions(i) if caption.level == 3]
        return [specific[int(rng.integers(len(specific)))]]

    def chain(self, i: int) -> tuple[int, ...]:
        return self.scenes[i].chain

    def unseen(self, i: int) -> bool:
        return scene_plan.unseen_sources(self.scenes[i].sources)

    def node_text(self, node: int) -> str:
        """A canonical text of a node that occurs in this split.

        Errors: KeyError for any other node.
        """
        if self._nodes is None:
            self._nodes = {}
            for i, scene in enumerate(self.scenes):
                for level, each in enumerate(scene.chain):
                    self._nodes.setdefault(each, (i, level))
        if node not in self._nodes:
            raise KeyError(f"node {node} does not occur in {self.name}")
        i, level = self._nodes[node]
        return scene_captions.canonical(self.scenes[i], level)

    def _path(self) -> Path:
        config = self.config
        name = cache.key(
            format=cache.FORMAT,
            versions=(scene_plan.VERSION, scene_mix.VERSION, features.VERSION, torch.__version__, np.__version__),
            bank=self.bank.checksum,
            data=(config.seed, self.split, len(self), config.seconds),
            mel=(config.sample_rate, config.mels, config.window, config.hop),
            features=config.features,
        )
        return cache.folder(config.cache) / f"mels-{self.split}-{name}.npy"

    def _mel(self, i: int) -> NDArray[np.float16]:
        return self.log_mel(torch.from_numpy(self.waveform(i))).numpy().astype(np.float16)
