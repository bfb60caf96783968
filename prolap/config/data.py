"""Options of sounds, captions, and of what is masked or mixed of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prolap.config.options import BelowOne, Count, CountOrZero, NotNegative, Positive, Share, ShareRange


@dataclass(frozen=True)
class AugmentConfig:
    """What training does to a sound before the encoder hears it; drawn by (seed, epoch, clip). Zeros turn it off."""

    gain_db: NotNegative = 0.0
    """Loudness changed by a number of dB drawn from [-gain_db, gain_db]."""
    noise_db: NotNegative = 0.0
    """White noise so many dB below the sound, at random for half of the clips."""
    shift: Share = 0.0
    """Roll the sound in time by up to this share of its length."""
    time_masks: CountOrZero = 0
    """SpecAugment: stretches of frames set to the quietest value of the log-mel, each up to `time_width` long."""
    time_width: CountOrZero = 64
    """Frames."""
    band_masks: CountOrZero = 0
    """SpecAugment: mel bands likewise, each up to `band_width` wide."""
    band_width: CountOrZero = 8
    """Mel bands."""


@dataclass(frozen=True)
class DataConfig:
    """Where sounds and captions come from, and how sound becomes log-mel frames."""

    train: str = "scenes"
    """`scenes` (the embedded soundfont scenes), a manifest (.csv, .jsonl), `LAYOUT:PATH` (audiocaps:FOLDER, clotho:FOLDER,
    folder:FOLDER, wds:PATTERN, aac:NAME:FOLDER; `LAYOUT/SUBSET:PLACE` for another subset than the split's own), or several
    with weights, as in `audiocaps:/data/ac * 2 + clotho:/data/clotho`: a clip of weight 2 is drawn twice as often as one of
    weight 1."""
    dev: str | None = None
    """Data of the dev split, as `train`; scenes and public layouts know their own."""
    test: str | None = None
    """Data of the test split, as `train`; scenes and public layouts know their own."""
    overlap: Literal["error", "warn", "ignore"] = "error"
    """What happens if a training sound also occurs in dev or test: the same bytes, or the same YouTube video and start."""
    soundfont: str | None = None
    """A .sf2 file for the scenes; None takes the one that the package `pretty_midi` ships."""
    cache: str | None = None
    """Folder for the note bank and cached log-mels; None takes the user's cache folder."""
    clips: Count = 12_000
    """Scenes in the training pool."""
    dev_clips: Count = 500
    """Scenes of the dev split."""
    test_clips: Count = 1_000
    """Scenes of the test split."""
    seed: CountOrZero = 0
    """Seed of the scenes themselves, apart from the training seed."""
    features: str = "prolap"
    """Log-mel recipe, a name in prolap.data.features.FEATURES; imported encoders need the one that they were trained on."""
    cache_features: bool = False
    """Keep the log-mels of whole files on disk (float16), so that an epoch decodes nothing; not with waveform augmentation."""
    sample_rate: Count = 16_000
    """Hz."""
    seconds: Positive = 3.2
    """Length of a training clip; longer files are cropped at a seeded place, shorter ones padded."""
    eval_seconds: Positive | None = None
    """How much of a file evaluation hears, from its start; None takes `seconds`."""
    min_seconds: NotNegative = 0.1
    """Shorter files are reported and skipped."""
    mels: Count = 64
    """Mel bands of the log-mel spectrogram."""
    window: Count = 1024
    """Length of the analysis window in samples."""
    hop: Count = 320
    """Samples from one log-mel frame to the next."""
    level_weights: tuple[float, float, float, float] = (0.1, 0.15, 0.25, 0.5)
    """How often a training caption is drawn from each level of the chain, general to specific."""
    shared_captions: Literal["keep", "ignore", "positive"] = "keep"
    """Captions that also hold for other clips of the batch: `keep` counts them as negatives, `ignore` drops repetitions
    of a node, `positive` counts every clip whose chain holds the caption's node, each level weighed by one over the mean
    number of positives of its captions."""
    same_text: Literal["negative", "positive"] = "negative"
    """Retrieval, a caption that another clip has, too (alike but for case and spaces): `negative` counts the other clip as wrong,
    as published figures do, and so sets a ceiling, which the report prints; `positive` counts it as right."""
    augment: AugmentConfig = AugmentConfig()


@dataclass(frozen=True)
class MaskConfig:
    """Recursive masks: each still visible token is masked with probability `ratio`, level by level."""

    ratio: BelowOne = 0.75
    """Probability of a still visible token to be masked, from one level to the next."""
    share: Share = 0.125
    """Share of the batch (its first rows) that also goes through masked copies."""
    audio_copies: CountOrZero = 2
    """Masked copies of a sound, each with more masked than the one before."""
    text_copies: CountOrZero = 3
    """Masked copies of a caption, each with more masked than the one before."""
    mode: Literal["substitute", "delete"] = "substitute"
    """A learnable [MASK] token in place of what is masked, or `delete` it where the encoder can (HTS-AT cannot)."""


@dataclass(frozen=True)
class MixConfig:
    """MixProLAP: mixtures of two clips, with their captions joined, take the place of masked copies.

    The terms hierarchy, cross_inclusion and masked_pairs look at them; repulsion and `data.cache_features` do not go with them.
    """

    share: Share = 0.0
    """Share of the batch (its first rows) that is also mixed with another row; 0 masks instead."""
    levels: Count = 3
    """Mixtures of a pair, from the purest to the most even."""
    alpha: ShareRange = (0.5, 1.0)
    """Range of the share of the clip itself; the other clip has the rest."""
