"""Public checkpoints as they are laid out, by rule, with random weights of any size; and HTS-AT written out on such names."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

Shapes = dict[str, tuple[int, ...]]
TINY = (96, (2, 2, 6, 2), (4, 8, 16, 32), 4)  # width, depths, heads, patch
BASE = (128, (2, 2, 12, 2), (4, 8, 16, 32), 4)
MICRO = (32, (1, 1, 2), (2, 4, 8), 8)
WINDOW, IMAGE = 8, 256


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def htsat(p: str, width: int, depths: tuple[int, ...], heads: tuple[int, ...], patch: int) -> Shapes:
    shapes: Shapes = {f"{p}spectrogram_extractor.stft.conv_{part}.weight": (513, 1, 1024) for part in ("real", "imag")}
    shapes |= {f"{p}logmel_extractor.melW": (513, 64)} | norm(f"{p}bn0", 64)
    shapes |= {f"{p}bn0.running_mean": (64,), f"{p}bn0.running_var": (64,), f"{p}bn0.num_batches_tracked": ()}
    shapes |= {f"{p}patch_embed.proj.weight": (width, 1, patch, patch), f"{p}patch_embed.proj.bias": (width,)}
    shapes |= norm(f"{p}patch_embed.norm", width)
    for stage, depth in enumerate(depths):
        wide, side = width * 2**stage, IMAGE // patch // 2**stage
        for number in range(depth):
            b = f"{p}layers.{stage}.blocks.{number}."
            shapes |= norm(f"{b}norm1", wide) | linear(f"{b}attn.qkv", wide, 3 * wide)
            shapes |= {f"{b}attn.relative_position_bias_table": ((2 * WINDOW - 1) ** 2, heads[stage])}
            shapes |= {f"{b}attn.relative_position_index": (WINDOW**2, WINDOW**2)}
            shapes |= linear(f"{b}attn.proj", wide, wide) | norm(f"{b}norm2", wide)
            shapes |= linear(f"{b}mlp.fc1", wide, 4 * wide) | linear(f"{b}mlp.fc2", 4 * wide, wide)
            if number % 2 and side > WINDOW:
                shapes |= {f"{b}attn_mask": ((side // WINDOW) ** 2, WINDOW**2, WINDOW**2)}
        if stage < len(depths) - 1:
            d = f"{p}layers.{stage}.downsample"
            shapes |= {f"{d}.reduction.weight": (2 * wide, 4 * wide)} | norm(f"{d}.norm", 4 * wide)
    last = width * 2 ** (len(depths) - 1)
    shapes |= norm(f"{p}norm", last) | linear(f"{p}head", 527, 527)
    return shapes | {f"{p}tscam_conv.weight": (527, last, 2, 3), f"{p}tscam_conv.bias": (527,)}


def gpt2(p: str, width: int, layers: int, positions: int, words: int = 50_257) -> Shapes:
    shapes: Shapes = {f"{p}wte.weight": (words, width), f"{p}wpe.weight": (positions, width)}
    for number in range(layers):
        b = f"{p}h.{number}."
        shapes |= norm(f"{b}ln_1", width) | norm(f"{b}ln_2", width)
        shapes |= {f"{b}attn.bias": (1, 1, positions, positions), f"{b}attn.masked_bias": ()}
        for name, inputs, outputs in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            shapes |= {f"{b}{name}.weight": (inputs, outputs), f"{b}{name}.bias": (outputs,)}
    return shapes | norm(f"{p}ln_f", width)


def roberta(p: str, width: int, layers: int, positions: int, words: int) -> Shapes:
    e = f"{p}embeddings."
    shapes: Shapes = {f"{e}position_ids": (1, positions), f"{e}word_embeddings.weight": (words, width)}
    shapes |= {f"{e}position_embeddings.weight": (positions, width), f"{e}token_type_embeddings.weight": (1, width)}
    shapes |= norm(f"{e}LayerNorm", width)
    for number in range(layers):
        b = f"{p}encoder.layer.{number}."
        for part in ("query", "key", "value"):
            shapes |= linear(f"{b}attention.self.{part}", width, width)
        shapes |= linear(f"{b}attention.output.dense", width, width) | norm(f"{b}attention.output.LayerNorm", width)
        shapes |= linear(f"{b}intermediate.dense", width, 4 * width) | linear(f"{b}output.dense", 4 * width, width)
        shapes |= norm(f"{b}output.LayerNorm", width)
    return shapes | linear(f"{p}pooler.dense", width, width)


def msclap(audio: tuple[int, ...], text: tuple[int, ...], dim: int) -> Shapes:
    """`audio` as TINY, `text` as (width, layers, positions)."""
    shapes = htsat("audio_encoder.base.htsat.", *audio) | gpt2("caption_encoder.base.", *text)  # type: ignore[arg-type]
    for side, width in (("audio", audio[0] * 2 ** (len(audio[1]) - 1)), ("caption", text[0])):  # type: ignore[arg-type]
        p = f"{side}_encoder.projection."
        shapes |= {f"{p}linear1.weight": (dim, width), f"{p}linear2.weight": (dim, dim)} | norm(f"{p}layer_norm", dim)
    return shapes | {"logit_scale": ()}


def laion(audio: tuple[int, ...], text: tuple[int, ...], words: int, dim: int = 512) -> Shapes:
    """`audio` as TINY, `text` as (width, layers, positions)."""
    shapes = htsat("audio_branch.", *audio) | roberta("text_branch.", *text, words)  # type: ignore[arg-type]
    for side, width in (("audio", audio[0] * 2 ** (len(audio[1]) - 1)), ("text", text[0])):  # type: ignore[arg-type]
        shapes |= linear(f"{side}_projection.0", width, dim) | linear(f"{side}_projection.2", dim, dim)
        shapes |= linear(f"{side}_transform.sequential.0", dim, dim) | linear(
            f"{side}_transform.sequential.3", dim, dim
        )
    return shapes | {"logit_scale_a": (), "logit_scale_t": ()}


def drawn(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of such sizes that nothing dies out; what is computed in the public models is computed."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        last = name.rpartition(".")[2]
        if last == "relative_position_index":
            values = position_index()
        elif last in ("position_ids", "num_batches_tracked"):
            values = torch.arange(shape[-1])[None] if shape else torch.tensor(7)
        elif last == "running_var":
            values = 400 * (1 + 0.5 * values.tanh())
        elif last == "running_mean":
            values = -30 + 3 * values
        elif name.startswith("logit_scale"):
            values = torch.tensor(math.log(20.0))
        elif last == "weight" and len(shape) == 1:
            values = 1 + 0.1 * values
        elif last == "bias":
            values = 0.1 * values
        elif last == "relative_position_bias_table" or "embeddings" in name or ".wte." in name or ".wpe." in name:
            values = 0.5 * values
        else:
            values = values / math.sqrt(max(1, math.prod(shape[1:])))
        state[name] = values
    return state


def position_index() -> Tensor:
    """[64, 64]: the row of the table for each pair of places in a window of 8 by 8."""
    place = torch.arange(WINDOW**2)
    down = place[:, None] // WINDOW - place // WINDOW + WINDOW - 1
    right = place[:, None] % WINDOW - place % WINDOW + WINDOW - 1
    return down * (2 * WINDOW - 1) + right


def embed_sound(state: dict[str, Tensor], p: str, mel: Tensor, size: tuple[int, ...]) -> Tensor:
    """HTS-AT in plain steps: log-mel [B, T <= 1024, 64] -> features [B, width of the last stage]."""
    _, depths, heads, patch = size
    w = {name.removeprefix(p): value for name, value in state.items() if name.startswith(p)}
    x = (mel - w["bn0.running_mean"]) / (w["bn0.running_var"] + 1e-5).sqrt() * w["bn0.weight"] + w["bn0.bias"]
    if x.shape[1] < 1024:
        x = functional.interpolate(x[:, None], (1024, 64), mode="bicubic", align_corners=True)[:, 0]
    image = torch.cat(x.mT.split(IMAGE, dim=2), dim=1)[:, None]  # four stretches of time below each other
    x = functional.conv2d(image, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch)
    x = layer_norm(w, "patch_embed.norm", x.permute(0, 2, 3, 1))
    for stage, depth in enumerate(depths):  # type: ignore[arg-type]
        for number in range(depth):
            x = block(w, f"layers.{stage}.blocks.{number}.", x, heads[stage], shifted=number % 2 == 1)  # type: ignore[index]
        if stage < len(depths) - 1:  # type: ignore[arg-type]
            corners = [x[:, down::2, right::2] for right in (0, 1) for down in (0, 1)]
            x = layer_norm(w, f"layers.{stage}.downsample.norm", torch.cat(corners, dim=-1))
            x = x @ w[f"layers.{stage}.downsample.reduction.weight"].mT
    return layer_norm(w, "norm", x).mean(dim=(1, 2))


def block(w: dict[str, Tensor], p: str, x: Tensor, heads: int, shifted: bool) -> Tensor:
    side, width = x.shape[1], x.shape[-1]
    shift = WINDOW // 2 if shifted and side > WINDOW else 0
    y = layer_norm(w, f"{p}norm1", x).roll((-shift, -shift), dims=(1, 2))
    q, k, v = windows(affine(w, f"{p}attn.qkv", y)).unflatten(-1, (3, heads, width // heads)).permute(3, 0, 1, 4, 2, 5)
    logits = q @ k.mT / math.sqrt(width // heads)
    logits = logits + w[f"{p}attn.relative_position_bias_table"][position_index()].permute(2, 0, 1)
    if shift:  # places that only the roll made neighbours do not see each other
        region = torch.bucketize(torch.arange(side), torch.tensor([side - WINDOW, side - shift]), right=True)
        label = windows((3 * region[:, None] + region)[None, :, :, None])[..., 0]
        logits = logits - 100.0 * (label[..., None] != label[..., None, :])[:, :, None]
    y = (logits.softmax(dim=-1) @ v).transpose(2, 3).flatten(-2)
    y = affine(w, f"{p}attn.proj", y).unflatten(1, (side // WINDOW, -1)).unflatten(3, (WINDOW, WINDOW))
    y = y.permute(0, 1, 3, 2, 4, 5).reshape(x.shape).roll((shift, shift), dims=(1, 2))
    x = x + y
    return x + affine(w, f"{p}mlp.fc2", functional.gelu(affine(w, f"{p}mlp.fc1", layer_norm(w, f"{p}norm2", x))))


def windows(x: Tensor) -> Tensor:
    """[B, side, side, C] -> [B, windows, 64, C]."""
    parts = x.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW)).permute(0, 1, 3, 2, 4, 5)
    return parts.flatten(1, 2).flatten(2, 3)


def layer_norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def affine(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].mT + w[f"{name}.bias"]
