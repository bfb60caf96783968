"""CLAP as Hugging Face's ClapModel keeps it: a folder with config.json and model.safetensors, or the file beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from prolap.models.encoders import AUDIO, TEXT
from prolap.models.encoders.roberta import Roberta
from prolap.weights.checkpoint import CheckpointError
from prolap.weights.importers.format import Format, Needs, audio_name, get, register, text_name
from prolap.weights.importers.laion import CLAP_DATA, FUSED
from prolap.weights.importers.translation import Rule

_AUDIO = "audio_model.audio_encoder."
_SAME: dict[str, dict[str, Any]] = {
    "audio_config": {
        "num_mel_bins": 64,
        "spec_size": 256,
        "window_size": 8,
        "mlp_ratio": 4.0,
        "hidden_act": "gelu",
        "projection_hidden_act": "relu",
        "qkv_bias": True,
        "enable_patch_layer_norm": True,
        "layer_norm_eps": 1e-5,
    },
    "text_config": {"hidden_act": "gelu", "projection_hidden_act": "relu", "pad_token_id": 1, "type_vocab_size": 1},
}
"""What the weights do not show and ours has so; a file that leaves one out has transformers' default, which is this."""
_TEXT_EPS = {"default": 1e-12, "ours": 1e-5}


@register
class HuggingFaceClap(Format):
    """Keys audio_model.audio_encoder.*, text_model.*, {audio,text}_projection.linear{1,2}.*, logit_scale_a."""

    name, preset, temperature = "hf-clap", "prolap+laion", "logit_scale_a"
    prefix = _AUDIO

    def needs(self, tensors: Mapping[str, Tensor], config: dict[str, Any] | None, source: str) -> Needs:
        """Sizes by the weights, compared with config.json where it says what weights do not show."""
        if config is None:
            raise CheckpointError(
                f"{source} has no config.json beside its weights, want the folder as it was published."
            )
        audio, text = (config.get(part) or {} for part in _SAME)
        if audio.get("enable_fusion") or any("fusion" in name or "mel_conv" in name for name in tensors):
            raise CheckpointError(f"{source} {FUSED}")
        audio_encoder = audio_name(tensors, _AUDIO, source)
        table, layers = "text_model.embeddings.word_embeddings.weight", r"text_model\.encoder\.layer\.(\d+)\."
        text_encoder = text_name(tensors, Roberta, table, layers, source)
        shape = AUDIO[audio_encoder].size
        expected = {
            "audio_config": _SAME["audio_config"]
            | {"num_attention_heads": list(shape.heads), "patch_stride": [shape.patch, shape.patch]},
            "text_config": _SAME["text_config"] | {"num_attention_heads": TEXT[text_encoder].size.heads},
        }
        different = [
            f"{part}.{key}={theirs[key]} (ours {value})"
            for part, theirs in (("audio_config", audio), ("text_config", text))
            for key, value in expected[part].items()
            if key in theirs and theirs[key] != value
        ]
        if different:
            raise CheckpointError(f"{source} is another model than ours: its config.json has {', '.join(different)}.")
        return CLAP_DATA | {
            "model.audio": audio_encoder,
            "model.text": text_encoder,
            "model.mean_head": "clap",
            "model.dim": get(tensors, "audio_projection.linear1.weight", source).shape[0],
        }

    def notes(self, config: dict[str, Any] | None) -> list[str]:
        """The epsilon of the text encoder's layer norms, where it differs."""
        epsilon = ((config or {}).get("text_config") or {}).get("layer_norm_eps", _TEXT_EPS["default"])
        if epsilon == _TEXT_EPS["ours"]:
            return []
        return [
            f"its config.json has {epsilon} as the text encoder's layer_norm_eps, ours is RoBERTa's {_TEXT_EPS['ours']}"
        ]

    def rules(self) -> Sequence[Rule]:
        return [
            Rule(r".*\.relative_position_index", why="follows from the size of the attention windows"),
            Rule(r"audio_model\.(audio_encoder\..*)", (r"audio.base.\1",)),
            Rule(r"text_model\.embeddings\.(position_ids|token_type_ids)", why="a count from 0 on, or zeros"),
            Rule(r"text_model\.(.*)", (r"text.base.\1",)),
            Rule(r"(audio|text)_projection\.(linear[12]\.(?:weight|bias))", (r"\1_head.mean.\2",)),
            Rule(r"logit_scale_a", ("log_scale",)),
            Rule(r"logit_scale_t", why="a second scale, of the text side's loss"),
        ]
