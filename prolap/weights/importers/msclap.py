"""MS-CLAP 2023 (`CLAP_weights_2023.pth`): HTS-AT tiny and GPT-2 under {'model': ...}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from prolap.models.encoders.gpt2 import GPT2
from prolap.weights.checkpoint import CheckpointError
from prolap.weights.importers.format import Format, Needs, audio_name, get, htsat_rules, register, text_name
from prolap.weights.importers.translation import Rule

_AUDIO, _TEXT = "audio_encoder.base.htsat.", "caption_encoder.base."
_PARTS = ("audio_encoder.", "caption_encoder.", "logit_scale")


@register
class MSClap2023(Format):
    """Keys audio_encoder.base.htsat.*, audio_encoder.projection.*, caption_encoder.base.* (GPT2Model's), .projection.*."""

    name, preset, temperature = "msclap-2023", "prolap", "logit_scale"
    bank = f"{_AUDIO}logmel_extractor.melW"
    wrapper, prefix = "model", "audio_encoder.base."

    def needs(self, tensors: Mapping[str, Tensor], config: dict[str, Any] | None, source: str) -> Needs:
        """HTS-AT and GPT-2 by their sizes, with MS-CLAP's log-mel; CheckpointError for the 2022 file and captioners."""
        if not any(name.startswith(_AUDIO) for name in tensors) or f"{_TEXT}wte.weight" not in tensors:
            raise CheckpointError(f"{source} is of MS-CLAP, but not with HTS-AT and GPT-2; want the version 2023.")
        projection = get(tensors, "audio_encoder.projection.linear1.weight", source)
        return {
            "data.features": "msclap",
            "data.sample_rate": 44_100,
            "data.window": 1024,
            "data.hop": 320,
            "data.mels": 64,
            "model.audio": audio_name(tensors, _AUDIO, source),
            "model.text": text_name(tensors, GPT2, f"{_TEXT}wte.weight", r"caption_encoder\.base\.h\.(\d+)\.", source),
            "model.mean_head": "msclap",
            "model.dim": projection.shape[0],
        }

    def rules(self) -> Sequence[Rule]:
        heads = r"projection\.(linear1\.weight|linear2\.weight|layer_norm\.weight|layer_norm\.bias)"
        return [
            *htsat_rules(_AUDIO),
            Rule(rf"audio_encoder\.{heads}", (r"audio_head.mean.\1",)),
            Rule(rf"caption_encoder\.{heads}", (r"text_head.mean.\1",)),
            Rule(r"caption_encoder\.base\.h\.\d+\.attn\.(bias|masked_bias)", why="GPT-2's causal mask"),
            Rule(r"caption_encoder\.base\.(.*)", (r"text.base.\1",)),
            Rule(r"logit_scale", ("log_scale",)),
        ]
