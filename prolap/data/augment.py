"""What training does to a sound: gain, noise and shift of the waveform, SpecAugment on the log-mel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from prolap.config import AugmentConfig
from prolap.utils.seeding import torch_generator


class Augment:
    """Every change is drawn by (seed, epoch, clip): the same for any number of workers, and in a resumed run.

    Shapes: `wave` takes and gives [T], `mel` [frames, mels]; neither changes its argument.
    """

    def __init__(self, config: AugmentConfig, seed: int) -> None:
        self.config = config
        self.seed = seed

    @property
    def waves(self) -> bool:
        """Whether waveforms are changed."""
        return bool(self.config.gain_db or self.config.noise_db or self.config.shift)

    @property
    def mels(self) -> bool:
        """Whether log-mels are changed."""
        config = self.config
        return bool(config.time_masks * config.time_width or config.band_masks * config.band_width)

    def wave(self, waveform: Tensor, epoch: int, i: int) -> Tensor:
        """Roll by up to `shift` of the length either way, then noise `noise_db` below the sound for half of the clips, then
        a gain from [-gain_db, gain_db] dB. Silence gets no noise: nothing is below it."""
        from torchaudio import functional

        config = self.config
        generator = torch_generator(self.seed, "augment", epoch, i)
        shift, coin, gain = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        if config.shift:
            waveform = waveform.roll(round((2 * shift - 1) * config.shift * waveform.numel()))
        if config.noise_db and coin < 0.5 and waveform.any():
            noise = torch.randn(waveform.shape, generator=generator)
            waveform = functional.add_noise(waveform, noise, torch.tensor(config.noise_db))
        if config.gain_db:
            waveform = functional.gain(waveform, (2 * gain - 1) * config.gain_db)
        return waveform

    def mel(self, mel: Tensor, epoch: int, i: int) -> Tensor:
        """Stretches of frames and mel bands, each up to `..._width` wide, set to the lowest value of the log-mel."""
        from torchaudio import functional

        config, lowest = self.config, float(mel.min())
        # torchaudio draws from the global random numbers
        with _random_numbers(torch_generator(self.seed, "specaugment", epoch, i)):
            for axis, count, width in (
                (0, config.time_masks, config.time_width),
                (1, config.band_masks, config.band_width),
            ):
                for _ in range(count if width else 0):
                    # torchaudio masks fewer than it is given; a single mask never hides everything
                    most = min(width + 1, mel.shape[axis])
                    mel = functional.mask_along_axis(mel[None], most, lowest, axis + 1)[0]
        return mel


@contextlib.contextmanager
def _random_numbers(generator: torch.Generator) -> Iterator[None]:
    """Within, torch's global random numbers on the CPU are those of the generator; after, they are as before."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        yield
