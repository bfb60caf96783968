"""Sounds and captions: the embedded scenes, data sets in the layouts that people have, and the loader."""

from __future__ import annotations

import logging
from typing import Literal

from prolap.config import Config
from prolap.data.cache import Progress
from prolap.data.dataset import AudioTextData, Caption

__all__ = ["AudioTextData", "Caption", "open_data", "open_spec"]

log = logging.getLogger(__name__)
Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def open_data(config: Config, split: Split, progress: Progress | None = None) -> AudioTextData:
    """The data of a split: what `config.data` names for it, or the split of that name of what it names for training.

    Opening `train` also looks whether its sounds occur in dev or test (`config.data.overlap`), unless it overfits.
    progress(what, done, total) is told about rendering and checking; None shows a bar in the terminal.
    Errors: ValueError for an unknown split, one without data, or sounds in two splits; FileNotFoundError.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be train, dev or test, got {split!r}")
    data = open_spec(spec_of(config, split), config, split, progress)
    if split == "train" and config.data.overlap != "ignore" and not config.overfit:
        check_overlap(config, data)
    return data


def open_spec(spec: str, config: Config, split: Split, progress: Progress | None = None) -> AudioTextData:
    """The data set that a text such as `audiocaps:FOLDER * 2 + rest.csv` names; errors as for `open_data`."""
    from prolap.data.union import Mixture, parse_sum

    terms = parse_sum(spec)
    if len(terms) == 1 and terms[0].weight == 1:
        return _open_one(terms[0].text, config, split, progress)
    parts = [_open_one(term.text, config, split, progress) for term in terms]
    return Mixture(parts, [term.weight for term in terms])


def _open_one(spec: str, config: Config, split: Split, progress: Progress | None) -> AudioTextData:
    if spec == "scenes":
        from prolap.data.scenes.dataset import SceneData

        return SceneData(config.data, split, progress)
    from prolap.data.files.manifest import ManifestData

    return ManifestData(spec, config.data, config.seed, split, progress)


def spec_of(config: Config, split: Split) -> str:
    """What names the data of a split: its own option, or that of training where this knows the split by itself.

    Errors: ValueError if neither does.
    """
    from prolap.data.files.layouts import parse
    from prolap.data.union import parse_sum

    own: str | None = getattr(config.data, split)
    if own is not None:
        return own
    terms = parse_sum(config.data.train)
    if len(terms) > 1:
        raise ValueError(f"data.{split}: name a data set, since data.train is a mixture of several")
    if terms[0].text == "scenes" or parse(terms[0].text).own_splits:
        return terms[0].text
    raise ValueError(
        f"data.{split}: name a manifest (.csv or .jsonl) or another data set; data.train has no such split"
    )


def check_overlap(config: Config, data: AudioTextData) -> None:
    """Look for sounds of the training data in dev and test, as far as there are any; nothing is decoded.

    Errors: ValueError if there are any and `config.data.overlap` is `error`.
    """
    from prolap.data.files.layouts import parse
    from prolap.data.files.manifest import ManifestData
    from prolap.data.files.overlap import Sound, common, report
    from prolap.data.union import Mixture, parse_sum

    parts = data.parts if isinstance(data, Mixture) else [data]
    training = [Sound(e.path, e.video) for part in parts if isinstance(part, ManifestData) for e in part.entries]
    if not training or config.data.overlap == "ignore":
        return
    for split in SPLITS[1:]:
        try:
            terms = parse_sum(spec_of(config, split))
            places = [parse(term.text) for term in terms if term.text != "scenes"]
            rows = [row for place in places for row in place.rows(split)]
        except (ValueError, OSError, ImportError) as error:
            if getattr(config.data, split) is not None:  # else there simply is no such split
                log.warning("data.%s cannot be read, so training was not compared with it: %s", split, error)
            continue
        other = [Sound(row.source, row.video) for row in rows if row.source is not None and not row.error]
        report(data.name, split, common(training, other, config.data.cache), config.data.overlap)
