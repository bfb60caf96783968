"""LAION-CLAP (`630k-audioset-best.pt` and the like), unfused: HTS-AT tiny or base and RoBERTa under {'state_dict': ...}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from prolap.models.encoders.roberta import Roberta
from prolap.weights.checkpoint import CheckpointError
from prolap.weights.importers.format import Format, Needs, audio_name, get, htsat_rules, register, text_name
from prolap.weights.importers.translation import Rule

_AUDIO = "audio_branch."
FUSED = "is a fused model, which hears long sounds through a fusion of four views; want an unfused one."
CLAP_DATA: Needs = {
    "data.features": "clap",
    "data.sample_rate": 48_000,
    "data.window": 1024,
    "data.hop": 480,
    "data.mels": 64,
}


@register
class LaionClap(Format):
    """Keys audio_branch.*, text_branch.* (RobertaModel's), audio_projection.{0,2}.*, text_projection.{0,2}.*, logit_scale_a."""

    name, preset, temperature = "laion-clap", "prolap+laion", "logit_scale_a"
    bank = f"{_AUDIO}logmel_extractor.melW"
    wrapper, prefix = "state_dict", _AUDIO

    def needs(self, tensors: Mapping[str, Tensor], config: dict[str, Any] | None, source: str) -> Needs:
        """HTS-AT and RoBERTa by their sizes, with LAION's log-mel; CheckpointError for fused files and other encoders."""
        if any(name.startswith(f"{_AUDIO}patch_embed.{part}") for name in tensors for part in ("fusion", "mel_conv")):
            raise CheckpointError(f"{source} {FUSED}")
        if f"{_AUDIO}patch_embed.proj.weight" not in tensors:
            raise CheckpointError(f"{source} is of LAION-CLAP, but its audio encoder is not HTS-AT.")
        table = "text_branch.embeddings.word_embeddings.weight"
        if table not in tensors:
            raise CheckpointError(f"{source} is of LAION-CLAP, but its text encoder is not RoBERTa.")
        return CLAP_DATA | {
            "model.audio": audio_name(tensors, _AUDIO, source),
            "model.text": text_name(tensors, Roberta, table, r"text_branch\.encoder\.layer\.(\d+)\.", source),
            "model.mean_head": "clap",
            "model.dim": get(tensors, "audio_projection.0.weight", source).shape[0],
        }

    def rules(self) -> Sequence[Rule]:
        return [
            *htsat_rules(_AUDIO),
            Rule(r"(audio|text)_projection\.0\.(weight|bias)", (r"\1_head.mean.linear1.\2",)),
            Rule(r"(audio|text)_projection\.2\.(weight|bias)", (r"\1_head.mean.linear2.\2",)),
            Rule(r"text_branch\.embeddings\.(position_ids|token_type_ids)", why="a count from 0 on, or zeros"),
            Rule(r"text_branch\.(.*)", (r"text.base.\1",)),
            Rule(r"(audio|text)_transform\..*", why="a perceptron that embeddings do not pass"),
            Rule(r"logit_scale_a", ("log_scale",)),
            Rule(r"logit_scale_t", why="a second scale, of the loss after those perceptrons"),
        ]
