"""`init`: the weights that a new run starts from, of a run of ours or of a public checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from prolap.config import BaseConfig
from prolap.config.options import ConfigError, leaves
from prolap.models import tokenizers
from prolap.models.encoders import AUDIO, TEXT
from prolap.models.model import ProLAP, build_model, build_tokenizer
from prolap.models.tokenizers import Tokenizer
from prolap.utils.files import write_text
from prolap.weights import checkpoint as checkpoints
from prolap.weights.checkpoint import Checkpoint, CheckpointError
from prolap.weights.importers import IMPORTERS, PROLAP, Public, detect, open_public
from prolap.weights.importers.report import Report

FILE = "init.json"
_UNTRAINED = ".logvar."
_ANYWHERE = ("data.features", "data.sample_rate", "data.window", "data.hop", "data.mels", "model.audio", "model.text")
_SAME = (*_ANYWHERE, "model.mean_head", "model.dim", "model.max_tokens", "model.logvar")


class FromRun:
    """The checkpoint of a run of ours."""

    def __init__(self, path: Path) -> None:
        self.source = str(path)
        self.found: Checkpoint = checkpoints.read(checkpoints.resolve(path, "best"))
        self.config = checkpoints.config_of(self.found)

    @property
    def vocabulary(self) -> Tokenizer:
        """What the weights read: the checkpoint's own."""
        return tokenizers.from_json(self.found.state["vocabulary"])

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
        from prolap.weights.importers.scale import bounded_scale, start_scale

        tensors = dict(self.found.model)
        notes: list[str] = []
        dropped: dict[str, str] = {}
        if trains_uncertainty and not self.found.state["trains_uncertainty"]:
            dropped = {name: "an untrained log-variance head" for name in tensors if _UNTRAINED in name}
        kept = {name: tensor for name, tensor in tensors.items() if name not in dropped}
        ours, theirs = model.config.model, self.config.model
        if (ours.scale_min, ours.scale_max) != (theirs.scale_min, theirs.scale_max) and "log_scale" in kept:
            value, notes = start_scale(bounded_scale(float(kept["log_scale"]), theirs), ours)
            kept["log_scale"] = torch.tensor(value)
        state = model.state_dict()
        problems = _misfits(kept, state, set(dropped))
        if problems:
            raise CheckpointError(f"init: {self.found.path} does not fit the model: {'; '.join(problems)}.")
        with torch.no_grad():
            for name, tensor in kept.items():
                state[name].copy_(tensor)
        digest = self.found.state["files"]["model.safetensors"]
        mapped = {name: [name] for name in kept}
        return Report(str(self.found.path), PROLAP, digest, mapped, dropped, sorted(dropped), notes)


class FromPublic:
    """A public checkpoint; the tokenizer is that of the configuration."""

    vocabulary: Tokenizer | None = None

    def __init__(self, public: Public) -> None:
        self.check, self._public = public.check, public

    def load(self, model: ProLAP, trains_uncertainty: bool) -> Report:
        """Copy the weights into `model`; log-variance heads are new in any case."""
        return self._public.load(model)


def open_init(config: BaseConfig) -> FromRun | FromPublic | None:
    """What `config.init` names, read and compared with the configuration; None without one.

    Errors: ConfigError for options that do not fit the weights (all of them at once) or an unknown format, CheckpointError for
    a file that is missing, damaged or not understood.
    """
    if config.init is None:
        if config.init_format != "auto":
            raise ConfigError(f"init_format: got {config.init_format} without init, want a checkpoint to read.")
        return None
    known = ("auto", PROLAP, *IMPORTERS)
    if config.init_format not in known:
        raise ConfigError(f"init_format: got {config.init_format!r}, want one of {', '.join(known)}.")
    path = Path(config.init).expanduser()
    if not path.exists():
        raise ConfigError(f"init: {path} is not there.")
    ours = config.init_format == PROLAP or (config.init_format == "auto" and detect(path) == PROLAP)
    source = FromRun(path) if ours else FromPublic(open_public(path, config.init_format))
    source.check(config)
    return source


def _misfits(tensors: dict[str, Tensor], state: dict[str, Tensor], new: set[str]) -> list[str]:
    problems = [f"{name} is missing" for name in state if name not in tensors and name not in new]
    problems += [f"{name} is unknown" for name in tensors if name not in state]
    return problems + [
        f"{name} has shape {tuple(tensor.shape)}, want {tuple(state[name].shape)}"
        for name, tensor in tensors.items()
        if name in state and tensor.shape != state[name].shape
    ]


def first_model(
    config: BaseConfig,
    found: Checkpoint | None,
    start: FromRun | FromPublic | None,
    texts: Iterable[str],
    trains_uncertainty: bool,
) -> tuple[ProLAP, Report | None]:
    """The model to train and what became of `init`: with the vocabulary of the checkpoint `found`, which brings its own
    weights later, or of the run that `start` is from, or of the training captions. `trains_uncertainty` says whether the
    new run trains log-variances.
    """
    if found:
        return build_model(config, tokenizers.from_json(found.state["vocabulary"])), None
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
