"""`init`: the weights that a new run starts from, of a run of ours or of a public checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from prolap.config import BaseConfig
from prolap.config.options import ConfigError, leaves
from prolap.models.encoders import AUDIO, TEXT
from prolap.models.model import ProLAP, build_model, build_tokenizer
from prolap.models.tokenizers import Tokenizer
from prolap.utils.files import write_text
from prolap.weights import checkpoint as checkpoints
from prolap.weights.checkpoint import Checkpoint
from prolap.weights.importers import PROLAP, Public, is_run, open_public
from prolap.weights.importers.translation import Report, Translation, bounded_scale, fill, start_scale

FILE = "init.json"
_UNTRAINED = ".logvar."
_SAME = (
    *(f"data.{name}" for name in ("features", "sample_rate", "window", "hop", "mels")),
    *(f"model.{name}" for name in ("audio", "text", "mean_head", "dim", "max_tokens", "logvar")),
)
"""Options that must be those of the run that the weights are from."""


class FromRun:
    """The checkpoint of a run of ours."""

    def __init__(self, path: Path) -> None:
        self.source = str(path)
        self.checkpoint: Checkpoint = checkpoints.read(checkpoints.resolve(path, "best"))
        self.config = checkpoints.config_of(self.checkpoint)

    @property
    def vocabulary(self) -> Tokenizer:
        """What the weights read: the checkpoint's own."""
        return checkpoints.vocabulary_of(self.checkpoint)

    def check(self, config: BaseConfig) -> None:
        """ConfigError that lists every option which says what the weights are and differs."""
        have, were = leaves(config), leaves(self.config)
        names = [*_SAME, *AUDIO[config.model.audio].shape_options, *TEXT[config.model.text].shape_options]
        wrong = [f"{key}={were[key]} (now {have[key]})" for key in dict.fromkeys(names) if have[key] != were[key]]
        if wrong:
            raise ConfigError(f"init: {self.source} needs {', '.join(wrong)}.")

    def load(self, model: ProLAP, trains_uncertainty: bool) -> Report:
        """Copy the weights into `model`; CheckpointError that lists the names that do not fit.

        Log-variance heads of a deterministic run have learned nothing: where the new run trains them, they are new.
        """
        done = Translation()
        for name, tensor in self.checkpoint.model.items():
            if trains_uncertainty and not self.checkpoint.state["trains_uncertainty"] and _UNTRAINED in name:
                done.dropped[name] = "an untrained log-variance head"
            else:
                done.tensors[name], done.mapped[name] = tensor, [name]
        ours, theirs = model.config.model, self.config.model
        notes: list[str] = []
        if (ours.scale_min, ours.scale_max) != (theirs.scale_min, theirs.scale_max) and "log_scale" in done.tensors:
            value, notes = start_scale(bounded_scale(float(done.tensors["log_scale"]), theirs), ours)
            done.tensors["log_scale"] = torch.tensor(value)
        new = fill(model, done, f"init: {self.checkpoint.path}", may_be_new=list(done.dropped))
        digest = self.checkpoint.state["files"]["model.safetensors"]
        return Report(str(self.checkpoint.path), PROLAP, digest, done.mapped, done.dropped, sorted(new), notes)


def open_init(config: BaseConfig) -> FromRun | Public | None:
    """What `config.init` names, read and compared with the configuration; None without one.

    Errors: ConfigError for options that do not fit the weights (all of them at once) or an unknown format, CheckpointError for
    a file that is missing, damaged or not understood.
    """
    if config.init is None:
        if config.init_format != "auto":
            raise ConfigError(f"init_format: got {config.init_format} without init, want a checkpoint to read.")
        return None
    path = Path(config.init).expanduser()
    if not path.exists():
        raise ConfigError(f"init: {path} is not there.")
    ours = config.init_format == PROLAP or (config.init_format == "auto" and is_run(path))
    source = FromRun(path) if ours else open_public(path, config.init_format)
    source.check(config)
    return source


def first_model(
    config: BaseConfig,
    checkpoint: Checkpoint | None,
    start: FromRun | Public | None,
    texts: Iterable[str],
    trains_uncertainty: bool,
) -> tuple[ProLAP, Report | None]:
    """The model to train and what became of `init`: with the vocabulary of `checkpoint`, which brings its own
    weights later, or of the run that `start` is from, or of the training captions. `trains_uncertainty` says whether the
    new run trains log-variances.
    """
    if checkpoint:
        return build_model(config, checkpoints.vocabulary_of(checkpoint)), None
    model = build_model(config, (start and start.vocabulary) or build_tokenizer(config, texts))
    return model, start.load(model, trains_uncertainty) if start else None


def describe(model: ProLAP, report: Report | None, resumed: bool = False) -> str:
    """What is going to be trained, from what, for people."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    total, frozen = sum(size for size, _ in sizes), sum(size for size, learns in sizes if not learns)
    config = model.config.model
    text = f"model: {config.audio} and {config.text}, {total / 1e6:,.1f} million parameters"
    text += f", {frozen / 1e6:,.1f} million frozen" if frozen else ""
    if report:
        return f"{text}\n{report.summary()}"
    if resumed or not model.audio.public:
        return text
    return f"{text}, random weights; `--init FILE` starts from a public checkpoint, `--preset ...+tiny` is for small machines"


def write_report(run: Path, report: Report) -> None:
    """The whole report as init.json in the run's folder."""
    write_text(run / FILE, json.dumps(report.to_dict(), indent=1) + "\n")
