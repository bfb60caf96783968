"""What a format of public checkpoints is: how to know it, what it asks of the configuration, and its rules; and all of them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from prolap.models.encoders import AUDIO, TEXT, TextEncoder
from prolap.models.encoders.base import Encoder
from prolap.models.encoders.htsat import HTSAT
from prolap.utils.registry import Registry
from prolap.weights.checkpoint import CheckpointError
from prolap.weights.importers.reading import tensors_only
from prolap.weights.importers.translation import Rule

Needs = dict[str, Any]
"""Dotted option -> the value that the weights were trained with."""


class Format(ABC):
    """A format of public checkpoints."""

    name: str
    preset: str
    """Has all options that the usual file of this format needs."""
    temperature: str
    """Public name of the logarithm of the scale."""
    bank: str | None = None
    """Public name of the mel bank, [513, 64]."""

    wrapper: str = ""
    """The key under which a file may have its tensors."""
    prefix: str
    """How the names of some tensors begin, in this format alone."""

    def unwrap(self, content: Mapping[str, Any], file: Path) -> dict[str, Tensor] | None:
        """The tensors by their public names, without a leading `module.`, or None if the content is of another format."""
        inner = content.get(self.wrapper, content)
        if not isinstance(inner, Mapping):
            return None
        names = {str(name).removeprefix("module."): value for name, value in inner.items()}
        return tensors_only(names, file) if any(name.startswith(self.prefix) for name in names) else None

    @abstractmethod
    def needs(self, tensors: Mapping[str, Tensor], config: dict[str, Any] | None, source: str) -> Needs:
        """What the configuration must say; CheckpointError for variants that cannot be used."""

    @abstractmethod
    def rules(self) -> Sequence[Rule]:
        """Names to ours."""

    def notes(self, config: dict[str, Any] | None) -> list[str]:
        """Sentences on what else differs from ours."""
        return []


FORMATS: Registry[Format] = Registry("init_format", lambda kind: kind())
register = FORMATS.register


def get(tensors: Mapping[str, Tensor], name: str, source: str) -> Tensor:
    """The tensor, or a CheckpointError."""
    if name not in tensors:
        raise CheckpointError(f"{source} has no {name}.")
    return tensors[name]


def audio_name(tensors: Mapping[str, Tensor], prefix: str, source: str) -> str:
    """The name in AUDIO of an HTS-AT of this width and depth; CheckpointError if there is none."""
    width = get(tensors, f"{prefix}patch_embed.proj.weight", source).shape[0]
    blocks = {
        m.groups() for name in tensors if (m := re.match(rf"{re.escape(prefix)}layers\.(\d+)\.blocks\.(\d+)\.", name))
    }
    stages = sorted({int(stage) for stage, _ in blocks})
    depths = tuple(sum(int(stage) == number for stage, _ in blocks) for number in stages)
    return _fitting("an HTS-AT of width and depths", AUDIO, HTSAT, (width, depths), source)


def text_name(tensors: Mapping[str, Tensor], encoder: type[TextEncoder], table: str, layers: str, source: str) -> str:
    r"""The name in TEXT of a transformer by its table of words and a pattern for its layers, as in r"h\.(\d+)\."."""
    width = get(tensors, table, source).shape[1]
    depth = len({m[1] for name in tensors if (m := re.match(layers, name))})
    return _fitting("a text model of width and layers", TEXT, encoder, (width, depth), source)


def _fitting(what: str, registry: Mapping[str, Any], kind: type[Encoder], size: tuple[Any, ...], source: str) -> str:
    """The encoder of a kind whose size begins like this."""
    sizes = {name: each.size[: len(size)] for name, each in registry.items() if issubclass(each, kind)}
    for name, known in sizes.items():
        if known == size:
            return name
    listed = ", ".join(f"{name} {known}" for name, known in sizes.items())
    raise CheckpointError(f"{source} has {what} {size}, want one of {listed}.")


def htsat_rules(prefix: str, ours: str = "audio.base.audio_encoder.") -> list[Rule]:
    """HTS-AT as its authors name it -> transformers' ClapAudioModel."""
    p, block, to = re.escape(prefix), r"layers\.(\d+)\.blocks\.(\d+)\.", ours + r"layers.\1.blocks.\2."
    kind = r"(weight|bias)"
    qkv = tuple(f"{to}attention.self.{part}.\\3" for part in ("query", "key", "value"))
    renamed = {"norm1": "layernorm_before", "norm2": "layernorm_after", r"mlp\.fc1": "intermediate.dense"}
    renamed |= {r"mlp\.fc2": "output.dense", r"attn\.proj": "attention.output.dense"}
    return [
        Rule(p + r"bn0\.(weight|bias|running_mean|running_var|num_batches_tracked)", (ours + r"batch_norm.\1",)),
        Rule(p + r"patch_embed\.(proj|norm)\." + kind, (ours + r"patch_embed.\1.\2",)),
        Rule(p + block + r"attn\.qkv\." + kind, qkv),
        *(Rule(p + block + rf"{public}\.{kind}", (f"{to}{name}.\\3",)) for public, name in renamed.items()),
        Rule(p + block + r"attn\.(relative_position_bias_table)", (to + r"attention.self.\3",)),
        Rule(p + r"layers\.(\d+)\.downsample\.(reduction|norm)\." + kind, (ours + r"layers.\1.downsample.\2.\3",)),
        Rule(p + r"norm\." + kind, (ours + r"norm.\1",)),
        Rule(p + block + r"attn\.relative_position_index", why="follows from the size of the attention windows"),
        Rule(p + block + r"attn_mask", why="follows from the shift of the attention windows"),
        Rule(p + r"(tscam_conv|head)\." + kind, why="the classifier of AudioSet's classes"),
        Rule(p + r"(spectrogram_extractor|logmel_extractor)\..*", why="the spectrogram, which data.features computes"),
    ]
