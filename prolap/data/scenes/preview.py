"""A few scenes as WAV files with their captions, for listening."""

from __future__ import annotations

from pathlib import Path

from prolap.config import DataConfig
from prolap.data import cache
from prolap.data.dataset import Split
from prolap.data.scenes import captions as scene_captions
from prolap.data.scenes import mix as scene_mix
from prolap.data.scenes import plan as scene_plan
from prolap.data.scenes.plan import Universe
from prolap.data.scenes.soundfont import load_bank
from prolap.utils.seeding import numpy_generator


def preview(
    folder: str | Path,
    clips: int = 10,
    *,
    config: DataConfig | None = None,
    split: Split = "test",
    progress: cache.Progress | None = None,
) -> list[Path]:
    """Write the first scenes of a split to `folder` as 000.wav, 001.wav ..., and all their captions to captions.txt.

    They are the clips that the data set of the same configuration holds. Returns the paths of the WAV files.
    """
    import soundfile

    config = config or DataConfig()
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    bank = load_bank(config, progress)
    paths, text = [], []
    for i, scene in enumerate(scene_plan.plan(config.seed, split, clips, Universe(bank.silent))):
        paths.append(out / f"{i:03d}.wav")
        wave = scene_mix.mix(scene, bank, config.seconds, config.seed, split, i)
        soundfile.write(paths[-1], wave, config.sample_rate)
        text.append(paths[-1].name)
        rng = numpy_generator(config.seed, "captions", split, i)
        text += [f"  {caption.level}  {caption.text}" for caption in scene_captions.caption_scene(scene, rng)]
    (out / "captions.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    return paths
