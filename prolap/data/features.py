"""Log-mel frames of a waveform."""

from __future__ import annotations

import torch
from torch import Tensor

from prolap.config import DataConfig

FLOOR = 1e-9  # added to the mel power before the logarithm: -90 dB of a full-scale sine
MEAN = -17.5  # natural logarithm of the mel power over the embedded scenes, rounded
STD = 3.5
LOWEST = 50.0  # Hz, lower edge of the first mel band
VERSION = 1  # part of the names of cached log-mels


class LogMel:
    """x = (ln(mel power + 1e-9) - MEAN) / STD.

    Power: |FFT(hann window * frame)|^2 / (sum of the window / 2)^2, so that a full-scale sine has power 1 whatever the
    window; frames are centred on multiples of `hop`, the edges padded with silence. Slaney mel bands from 50 Hz to half
    the sample rate, the weights of a band summing to about one. MEAN and STD are fixed constants,
    measured once on the embedded scenes, not statistics of the data at hand.

    Shapes: waveform [T] at `config.sample_rate` -> [T // hop, mels] float32, at least one frame.
    Errors: ValueError for a waveform that is empty or not one-dimensional.
    """

    def __init__(self, config: DataConfig) -> None:
        self.window = config.window
        self.hop = config.hop
        self.mels = config.mels
        self.sample_rate = config.sample_rate
        self._hann = torch.hann_window(config.window) / (config.window / 4)
        self._bank: Tensor | None = None

    @property
    def bank(self) -> Tensor:
        """[window // 2 + 1, mels] float32, made at first use because torchaudio is slow to import."""
        if self._bank is None:
            from torchaudio.functional import melscale_fbanks

            bins = self.window // 2 + 1
            top = self.sample_rate / 2
            bank = melscale_fbanks(bins, LOWEST, top, self.mels, self.sample_rate, norm="slaney", mel_scale="slaney")
            self._bank = bank * (self.sample_rate / self.window)
        return self._bank

    def frames(self, samples: int) -> int:
        """How many frames a waveform of so many samples has."""
        return max(1, samples // self.hop)

    def __call__(self, waveform: Tensor) -> Tensor:
        if waveform.dim() != 1 or waveform.numel() == 0:
            raise ValueError(f"waveform must be one non-empty channel [T], got shape {tuple(waveform.shape)}")
        half = self.window // 2
        count = self.frames(waveform.numel())
        short = (count - 1) * self.hop + self.window - waveform.numel() - half
        padded = torch.nn.functional.pad(waveform.float(), (half, max(0, short)))
        frames = padded.unfold(0, self.window, self.hop)[:count] * self._hann
        spectrum = torch.fft.rfft(frames)
        power = spectrum.real.square() + spectrum.imag.square()
        mels: Tensor = ((power @ self.bank + FLOOR).log() - MEAN) / STD
        return mels
