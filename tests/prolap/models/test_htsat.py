"""HTS-AT around transformers' model: windows, masks, what is pooled, and what stays out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prolap.config import BaseConfig, DataConfig, ModelConfig
from prolap.models.encoders import AUDIO, htsat
from prolap.models.encoders.htsat import HTSAT, TOKENS, HTSATMicro
from tests.tolerances import assert_same, assert_same_gradients, likely

WHOLE = BaseConfig()  # the recipe "prolap": windows of 1024 frames, which are not stretched
SEVEN = BaseConfig(data=DataConfig(features="msclap", sample_rate=44_100))  # windows of 965 frames, stretched
TERMS = 8192
"""Roundings in float64: four stages of attention and products over up to 1024 values, and means over 64 tokens."""
pytestmark = pytest.mark.usefixtures("float64")


def encoder(config: BaseConfig = WHOLE, kind: type[HTSAT] = HTSATMicro) -> HTSAT:
    torch.manual_seed(0)
    return kind(config).double().eval()


def sound(frames: int, rows: int = 1, seed: int = 1) -> Tensor:
    return torch.randn(rows, frames, 64, generator=torch.Generator().manual_seed(seed)).double()


def drawn(grid: Tensor, seed: int = 2, ratio: float = 0.6) -> Tensor:
    masked = torch.rand(grid.shape, generator=torch.Generator().manual_seed(seed)) < ratio
    masked[:, 3] = False
    return masked & grid


@torch.no_grad()
def hidden_frames(masked: Tensor, frames: int) -> Tensor:
    """Where the masked tokens of windows of 1024 frames lie, bool [B, frames, 64]."""
    cells = masked.view(len(masked), -1, 2, 32).permute(0, 1, 3, 2).flatten(1, 2)  # [B, windows · 32, halves]
    return cells.repeat_interleave(32, dim=1).repeat_interleave(32, dim=2)[:, :frames]


def test_a_full_window_is_what_the_model_itself_says() -> None:
    for config, frames in ((WHOLE, 1024), (SEVEN, 965)):
        model, x = encoder(config), sound(frames, rows=2)
        assert model.window == frames
        with torch.no_grad():
            expected = model.base(input_features=x[:, None]).pooler_output
            assert_same(model(x), expected, terms=TERMS)


@pytest.mark.parametrize("token", [0, 9, 31, 32, 50, 63])
def test_a_token_of_the_grid_is_32_frames_by_32_bands(token: int) -> None:
    """What [MASK] replaces is what those 32 by 32 values of the spectrogram reach, and nothing else."""
    model, x, seen = encoder(), sound(1024), []
    model.base.audio_encoder.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    masked = torch.zeros(1, TOKENS, dtype=torch.bool)
    masked[0, token] = True
    half, time = divmod(token, 32)
    other = x.clone()
    other[:, 32 * time : 32 * time + 32, 32 * half : 32 * half + 32] += 1.0
    with torch.no_grad():
        model(x), model(other), model(x, None, masked)
    reached = (seen[0] != seen[1]).any(dim=-1)
    assert torch.equal(reached, (seen[2] == model.mask).all(dim=-1))
    assert reached.sum() == (32 // model.base.audio_encoder.patch_embed.patch_stride[0]) ** 2


def test_nothing_of_what_is_masked_reaches_the_features() -> None:
    model, x = encoder(), sound(1500, rows=5)
    frames = torch.tensor([1500, 1024, 310, 1100, 1])
    masked = drawn(model.grid(x, frames))
    masked[:3, :2] = masked[:3, 32:34] = True  # a repetition, or the overlap of a window moved back, would tell
    masked[0, TOKENS + 14] = masked[2, 9] = False  # these hold the sound's last frames and have room for more
    hidden = hidden_frames(masked, 1500)
    other = torch.where(hidden, 100 * sound(1500, 5, seed=3), x)
    other[torch.arange(1500) >= frames[:, None]] = float("nan")
    with torch.no_grad():
        out = model(x, frames, masked)
        assert torch.equal(model(other, frames, masked), out)
        assert (out[:4] - model(x, frames)[:4]).abs().amax(dim=1).min() > 1e-3
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x, frames, masked).square().sum(), x)
    assert gradient[hidden].abs().max() == 0
    assert gradient[0][~hidden[0]].gt(0).any()


def test_where_a_window_is_stretched_two_frames_at_a_tokens_edge_are_shared() -> None:
    model, x = encoder(SEVEN), sound(965)
    masked = torch.zeros(1, TOKENS, dtype=torch.bool)
    masked[0, 10] = masked[0, 42] = True  # all bands of frames 301.6 ... 331.7
    inside, edge = x.clone(), x.clone()
    inside[:, 304:330] += 10.0
    edge[:, 301:333] += 10.0
    with torch.no_grad():
        out = model(x, None, masked)
        assert torch.equal(model(inside, None, masked), out)
        assert not torch.equal(model(edge, None, masked), out)


def test_pooling_takes_the_unmasked_tokens_alone() -> None:
    model, x, seen = encoder(), sound(1024, rows=3), []
    model.base.register_forward_hook(lambda module, inputs, out: seen.append(out.last_hidden_state.flatten(2)))
    masked = drawn(model.grid(x))
    with torch.no_grad():
        out = model(x, None, masked)
    for row in range(3):
        expected = seen[0][row][:, ~masked[row]].mean(dim=1)
        assert_same(out[row], expected, terms=TERMS)


def test_the_grid_counts_tokens_at_least_half_full() -> None:
    model = encoder()
    frames = torch.tensor([1, 48, 47, 1024, 1024 + 16, 1024 + 15, 2000])
    grid = model.grid(torch.zeros(7, 2000, 64), frames).view(7, 2, 2, 32)
    assert torch.equal(grid[:, :, 0], grid[:, :, 1])
    assert grid[:, :, 0].sum(dim=2).tolist() == [[1, 0], [2, 0], [1, 0], [32, 0], [32, 1], [32, 0], [32, 31]]


@pytest.mark.parametrize("config", [WHOLE, SEVEN])
def test_a_long_sound_is_the_mean_of_its_windows(config: BaseConfig) -> None:
    model = encoder(config)
    w = model.window
    x = sound(2 * w + 300)
    with torch.no_grad():
        parts = [model(x[:, start : start + w]) for start in (0, w, w + 300)]
        assert_same(model(x), torch.stack(parts).mean(dim=0), terms=TERMS)


def test_a_short_sound_is_repeated() -> None:
    model, x = encoder(SEVEN), sound(300)
    repeated = x.repeat(1, 4, 1)[:, :965]
    with torch.no_grad():
        assert_same(model(x), model(repeated), terms=TERMS)


@pytest.mark.parametrize("kind", [HTSATMicro, HTSAT])
def test_a_sound_does_not_depend_on_the_batch(kind: type[HTSAT]) -> None:
    model = encoder(SEVEN, kind)
    frames = torch.tensor([1200, 400] if kind is HTSAT else [1200, 400, 965, 2])
    x = sound(1200, rows=len(frames))
    grid = model.grid(x, frames)
    masked = drawn(grid)
    masked[-1] = False
    with torch.no_grad():
        plain, hidden = model(x, frames), model(x, frames, masked)
        for row, count in enumerate(frames.tolist()):
            alone = x[row : row + 1, :count]
            tokens = model.grid(alone).shape[1]
            again = model(alone), model(alone, None, masked[row : row + 1, :tokens])
            assert_same(again[0][0], plain[row], terms=TERMS)
            assert_same(again[1][0], hidden[row], terms=TERMS)
        assert torch.equal(model(x, frames), plain)
        assert_same(hidden[-1], plain[-1], terms=TERMS)  # a row that masks nothing is the plain one


def test_windows_in_chunks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, sizes = encoder(), sound(2500, rows=2), []
    model.base.register_forward_pre_hook(lambda _, args, kw: sizes.append(len(kw["input_features"])), with_kwargs=True)
    with torch.no_grad():
        whole = model(x)
        monkeypatch.setattr(htsat, "CHUNK", 4)
        assert_same(model(x), whole, terms=TERMS)
    model.train()(x)  # in training the batch norm wants all of them at once
    assert sizes == [6, 4, 2, 6]


def test_the_batch_norm_learns_from_sounds_and_masked_ones_use_what_it_knows() -> None:
    model, x = encoder().train(), sound(1024, rows=3)
    norm = model.base.audio_encoder.batch_norm
    masked = drawn(model.grid(x))
    model(x)
    after, known = norm.running_mean.clone(), model(x, None, masked)
    assert after.abs().max() > 1e-3
    assert torch.equal(norm.running_mean, after)
    assert_same(model(x[:1], None, masked[:1]), known[:1], terms=TERMS)
    assert norm.training


def test_the_batch_norm_is_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # no float64 here
    model, x, seen = encoder().to(torch.float32), sound(1024).to(torch.float32), []
    model.base.audio_encoder.batch_norm.register_forward_hook(lambda m, i, out: seen.extend([i[0].dtype, out.dtype]))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        out = model(x)
    assert seen == [torch.float32, torch.float32]
    assert out.dtype == torch.float32
    with torch.no_grad():
        # four stages of products whose operands are rounded to bfloat16: independent roundings, some hundred
        assert_same(out, model(x), terms=likely(100), dtype=torch.bfloat16)


def test_unusable_inputs_are_refused() -> None:
    model, x = encoder(), sound(1024)
    with pytest.raises(ValueError, match="mode: this encoder cannot leave tokens out"):
        model(x, None, torch.zeros(1, TOKENS, dtype=torch.bool), "delete")
    with pytest.raises(ValueError, match=r"masked: got torch.bool of shape \(1, 32\)"):
        model(x, None, torch.zeros(1, 32, dtype=torch.bool))
    with pytest.raises(ValueError, match="data.mels: got 32, want 64 for HTS-AT"):
        encoder(BaseConfig(data=DataConfig(mels=32)))


def test_published_sizes() -> None:
    """SPEC 7: HTS-AT tiny has 28 to 31 million parameters, a good tenth of which are heads that are not kept."""
    with torch.device("meta"):
        counts = {n: sum(p.numel() for p in AUDIO[n](SEVEN).parameters()) for n in ("htsat-tiny", "htsat-base")}
        widths = [AUDIO[name](SEVEN).width for name in counts]
    assert 27e6 < counts["htsat-tiny"] < 31e6
    assert 65e6 < counts["htsat-base"] < 75e6
    assert widths == [768, 1024]


def test_recomputing_activations_gives_the_same_gradients() -> None:
    results: list[Any] = []
    for again in (False, True):
        model = encoder(replace(WHOLE, model=ModelConfig(dropout=0.2, checkpointing=again))).train()
        calls: list[int] = []
        model.base.audio_encoder.layers[0].blocks[0].register_forward_hook(lambda *_, calls=calls: calls.append(1))
        x = sound(1024, rows=2)
        torch.manual_seed(5)
        out = model(x, None, drawn(model.grid(x)))
        out.square().sum().backward()
        assert len(calls) == 1 + again
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append({"": out.detach(), **grads})
    assert len(results[0]) == len(results[1]) > 50
    assert_same_gradients(*results, terms=TERMS)
