"""MixProLAP's mixtures: two rows of a batch as one sound, their captions as one sentence.

Published (Interspeech 2026, paper 360): a_ij = alpha * a_i + (1 - alpha) * a_j with alpha from U(0.5, 1), for half of a batch, at
three levels; captions joined by "and" or "while". Our reading, where the public summaries are silent:
- the rows that are mixed are the first of the batch; the partner is any row of it with another clip;
- a pair keeps its partner and its joined caption on all levels, whose alphas are drawn together and sorted, the purest first;
- waveforms are added as they are, not made equally loud, and as training hears them: cropped and augmented. SpecAugment is left
  to the unmixed rows. The shorter one is followed by silence, so that a mixture is as long as its longer source.
- the row's own caption comes first in the joined one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from prolap.config import BaseConfig, MixConfig
from prolap.config.options import ConfigError
from prolap.data.audio import pad
from prolap.data.batch import Mixtures
from prolap.data.dataset import AudioTextData
from prolap.data.features import Features
from prolap.utils.seeding import numpy_generator

WORDS = ("and", "while")


@runtime_checkable
class Audible(Protocol):
    """A data set that has waveforms, and how its log-mels are made of them."""

    log_mel: Features

    def heard(self, i: int, epoch: int | None = None) -> Tensor:
        """[T] at the data's sample rate, cropped and augmented as for the log-mel of (i, epoch)."""
        ...


class Plan(NamedTuple):
    """Which rows are mixed, in which shares, and the words that join their captions."""

    partner: np.ndarray
    """[b] rows of the batch."""
    alpha: np.ndarray
    """[levels, b] float32, falling along levels."""
    words: list[str]
    """b joining words."""


def check(config: BaseConfig) -> None:
    """Raise ConfigError for options that do not go with mixtures."""
    mix, size = config.mix, config.overfit or config.batch_size
    if size < 2:
        name = "overfit" if config.overfit else "batch_size"
        raise ConfigError(
            f"{name}: got {size} with mix.share {mix.share}, want at least 2: a clip is mixed with another one."
        )
    if config.data.cache_features:
        raise ConfigError(
            f"data.cache_features: got true with mix.share {mix.share}, want false: mixtures are made of waveforms."
        )


def draw(index: Sequence[int] | np.ndarray, mix: MixConfig, generator: np.random.Generator) -> Plan:
    """Partners, shares and joining words of the first max(1, round(share * B)) rows of clips `index` [B].

    Errors: ValueError if all rows of the batch are one clip.
    """
    clips = np.asarray(index)
    rows = max(1, round(mix.share * len(clips)))
    picks = generator.random(rows)
    alpha = -np.sort(-generator.uniform(*mix.alpha, size=(mix.levels, rows)).astype(np.float32), axis=0)
    words = [WORDS[k] for k in generator.integers(len(WORDS), size=rows)]
    partner = np.empty(rows, np.int64)
    for row in range(rows):
        others = np.flatnonzero(clips != clips[row])
        if not len(others):
            raise ValueError(
                f"index: all {len(clips)} rows of the batch are clip {clips[row]}, want another to mix it with"
            )
        partner[row] = others[int(picks[row] * len(others))]
    return Plan(partner, alpha, words)


def mix_waveforms(own: Tensor, other: Tensor, alpha: float) -> Tensor:
    """alpha * own + (1 - alpha) * other, waveforms [T] and [S] -> [max(T, S)], the shorter one followed by silence."""
    length = max(own.numel(), other.numel())
    return alpha * pad(own, length) + (1 - alpha) * pad(other, length)


def join_captions(first: str, second: str, word: str) -> str:
    """ "A dog barks.", "A cat mews." -> "A dog barks and a cat mews."

    The first loses its closing punctuation, the second the capital it begins with, unless the whole word is in capitals. With an
    empty caption the other one stands alone.
    """
    head, tail = first.strip().rstrip(".,;:!? "), second.strip()
    if not head or not tail:
        return first.strip() or tail
    if not tail[1:2].isupper():
        tail = tail[:1].lower() + tail[1:]
    return f"{head} {word} {tail}"


class Mixer:
    """Makes the mixtures of a batch; a pure function of its arguments and (config.seed, step).

    Errors: ConfigError for options that do not go with mixtures (`check`), or a data set without waveforms.
    """

    def __init__(self, data: AudioTextData, tokenizer: Callable[[list[str]], Tensor], config: BaseConfig) -> None:
        check(config)
        for part in getattr(data, "parts", [data]):
            if not isinstance(part, Audible):
                raise ConfigError(
                    f"mix.share: got {config.mix.share}, want 0, since {part.name} has no waveforms to mix (`heard`, `log_mel`)."
                )
        self.data: Audible = data  # type: ignore[assignment]
        self.tokenizer, self.config = tokenizer, config

    def __call__(self, step: int, index: np.ndarray, epochs: np.ndarray, texts: list[str], frames: int) -> Mixtures:
        """Mixtures of the batch of clips `index` [B], heard in `epochs` [B], with captions `texts`.

        frames: the width of the batch's log-mels; mixtures have it too.
        """
        mix = self.config.mix
        plan = draw(index, mix, numpy_generator(self.config.seed, "mixing", step))
        rows = len(plan.partner)
        out = torch.zeros(mix.levels, rows, frames, self.config.data.mels)
        valid = torch.zeros(rows, dtype=torch.int64)
        for row, partner in enumerate(plan.partner.tolist()):
            own, other = (self.data.heard(int(index[k]), int(epochs[k])) for k in (row, partner))
            for level in range(mix.levels):
                mel = self.data.log_mel(mix_waveforms(own, other, float(plan.alpha[level, row])))
                out[level, row, : len(mel)] = mel
            valid[row] = len(mel)
        pairs = [(texts[row], texts[partner]) for row, partner in enumerate(plan.partner.tolist())]
        joined = [join_captions(*pair, word) for pair, word in zip(pairs, plan.words, strict=True)]
        return Mixtures(
            audio=out,
            frames=valid,
            tokens=self.tokenizer(joined),
            partner=torch.from_numpy(plan.partner),
            alpha=torch.from_numpy(plan.alpha),
            joined=torch.tensor([one.casefold() != two.casefold() for one, two in pairs]),
        )
