"""Models of ours that start from public files, and the smallest public files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prolap.models.model import ProLAP, build_model, build_tokenizer
from prolap.training.config import Config
from prolap.weights.importers import open_public
from prolap.weights.importers.translation import Report
from tests.prolap import public_layouts as public

SMALL_GPT2 = (128, 2, 128)
SMALL_ROBERTA = (128, 2, 130)
MICRO_MSCLAP = ["model.audio=htsat-micro", "model.text=gpt2-micro", "model.dim=32"]
MICRO_LAION = ["model.audio=htsat-micro", "model.text=roberta-micro", "model.dim=32"]


def built(config: Config) -> ProLAP:
    return build_model(config, build_tokenizer(config, [])).eval()


def imported(path: Path, config: Config) -> tuple[ProLAP, Report]:
    found, model = open_public(path), built(config)
    found.check(config)
    return model, found.load(model)


def small_msclap(path: Path, changes: Callable[[dict[str, Tensor]], Any] = lambda state: None) -> Path:
    """A file in the format of MS-CLAP with micro encoders, after `changes` to its tensors."""
    state = public.drawn(public.msclap(public.MICRO, SMALL_GPT2, 32))
    state.pop("audio_encoder.base.htsat.logmel_extractor.melW")
    changes(state)
    torch.save({"model": state}, path)
    return path


def clap(words: int, **text: Any) -> Any:
    """A ClapModel in the size micro, with 32 dimensions."""
    from transformers import ClapConfig, ClapModel

    width, depths, heads, patch = public.MICRO
    audio = {"patch_embeds_hidden_size": width, "depths": depths, "num_attention_heads": heads, "hidden_size": 128}
    audio |= {"patch_size": patch, "patch_stride": [patch, patch], "num_hidden_layers": 3, "enable_fusion": False}
    sizes = {"vocab_size": words, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 512, "max_position_embeddings": 130, "layer_norm_eps": 1e-5, **text}
    torch.manual_seed(0)
    model = ClapModel(ClapConfig(audio_config=audio, text_config=sizes, projection_dim=32)).eval()
    for parameter in model.parameters():  # transformers draws them so small that all sounds are one
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1 / math.sqrt(parameter[0].numel()))
    return model
