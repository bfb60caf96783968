from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prolap.config import BaseConfig, ModelConfig
from prolap.models.encoders import AUDIO, TEXT
from prolap.models.encoders.base import compact, mean_max
from prolap.models.encoders.tiny import PATCH
from prolap.models.tokenizers import WordVocabulary
from tests.tolerances import assert_same

CONFIG = BaseConfig(model=ModelConfig(width=32))
VOCABULARY = WordVocabulary([f"w{i}" for i in range(20)])
MODES = ("substitute", "delete")


TERMS = 1024
"""Roundings in a tiny tower: patches of mels x frames, then widths of 64 and below, in float64."""
pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=["tiny"])  # the others have files of their own
def audio(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    return AUDIO[request.param](CONFIG).double().eval()


@pytest.fixture(params=["tiny"])
def text(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    return TEXT[request.param](CONFIG, VOCABULARY).double().eval()


def sounds(rows: int = 4, frames: int = 10 * PATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, frames, CONFIG.data.mels, generator=generator).double(), torch.full((rows,), frames)


def modes(encoder: torch.nn.Module) -> tuple[str, ...]:
    return MODES if encoder.can_delete else ("substitute",)


def test_compact_keeps_order_and_cuts_the_tail() -> None:
    tokens = torch.arange(8.0).reshape(2, 4, 1)
    visible = torch.tensor([[False, True, False, True], [True, False, False, False]])
    kept, seen = compact(tokens, visible)
    assert kept[0, :, 0].tolist() == [1.0, 3.0]
    assert kept[1, 0, 0] == 4.0
    assert seen.tolist() == [[True, True], [True, False]]


def test_mean_max_sees_visible_tokens_only() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [float("nan")]], [[-2.0], [-4.0], [9.0]], [[7.0], [7.0], [7.0]]])
    visible = torch.tensor([[True, True, False], [True, True, False], [False, False, False]])
    assert mean_max(tokens, visible).tolist() == [[2.0, 3.0], [-3.0, -2.0], [0.0, 0.0]]


def test_audio_grid_counts_patches_at_least_half_full(audio: torch.nn.Module) -> None:
    x = torch.zeros(5, 3 * PATCH + 1, CONFIG.data.mels)
    frames = torch.tensor([3 * PATCH + 1, 2 * PATCH, PATCH + PATCH // 2, PATCH + PATCH // 2 - 1, 1])
    assert audio.grid(x, frames).sum(dim=1).tolist() == [3, 2, 2, 1, 1]


def test_audio_padding_never_leaks(audio: torch.nn.Module) -> None:
    x, _ = sounds(3)
    frames = torch.tensor([10 * PATCH, 4 * PATCH + 3, 1])
    clean = audio(x, frames)
    poisoned = x.clone()
    for row, length in enumerate(frames.tolist()):
        poisoned[row, length:] = float("nan")
    assert torch.equal(audio(poisoned, frames), clean)
    alone = audio(x[1:2, : 4 * PATCH + 3], frames[1:2])
    assert_same(alone, clean[1:2], terms=TERMS)


def test_masked_audio_never_leaks(audio: torch.nn.Module) -> None:
    x, frames = sounds()
    masked = torch.rand(audio.grid(x, frames).shape, generator=torch.Generator().manual_seed(2)) < 0.6
    masked[:, 3] = False
    other = torch.where(masked.repeat_interleave(PATCH, dim=1)[..., None], torch.randn_like(x) * 100, x)
    for mode in modes(audio):
        out = audio(x, frames, masked, mode)
        assert torch.equal(audio(other, frames, masked, mode), out)
        assert not torch.allclose(out, audio(x, frames))


def test_gradient_of_masked_audio_is_zero(audio: torch.nn.Module) -> None:
    x, frames = sounds(2)
    x.requires_grad_()
    masked = torch.zeros(audio.grid(x, frames).shape, dtype=torch.bool)
    masked[:, 2:5] = True
    for mode in modes(audio):
        (gradient,) = torch.autograd.grad(audio(x, frames, masked, mode).square().sum(), x)
        hidden = masked.repeat_interleave(PATCH, dim=1)
        assert gradient[hidden].abs().max() == 0
        assert gradient[~hidden].abs().amin(dim=-1).gt(0).float().mean() > 0.9


def test_empty_mask_changes_nothing(audio: torch.nn.Module, text: torch.nn.Module) -> None:
    x, frames = sounds()
    tokens = VOCABULARY(["w1 w2 w3", "", "w4"])
    for mode in MODES:
        nothing = torch.zeros_like(audio.grid(x, frames))
        assert_same(audio(x, frames, nothing, mode), audio(x, frames), terms=TERMS)
        assert_same(text(tokens, None, torch.zeros_like(tokens).bool(), mode), text(tokens), terms=TERMS)


def test_rows_do_not_depend_on_the_batch(audio: torch.nn.Module, text: torch.nn.Module) -> None:
    audio.train(), text.train()
    x, frames = sounds()
    assert_same(audio(x, frames)[1:2], audio(x[1:2], frames[1:2]), terms=TERMS)
    texts = ["w1 w2 w3 w4 w5 w6", "w7", "", "w8 w9"]
    together = text(VOCABULARY(texts))
    alone = torch.cat([text(VOCABULARY([caption])) for caption in texts])
    assert_same(alone, together, terms=TERMS)


def test_deleting_audio_is_the_sound_without_it(audio: torch.nn.Module) -> None:
    if not audio.can_delete:
        pytest.skip("this encoder cannot delete")
    x, frames = sounds(1)
    masked = torch.zeros(audio.grid(x, frames).shape, dtype=torch.bool)
    masked[:, 7:] = True  # the end, so that what stays keeps its place
    short = audio(x[:, : 7 * PATCH], torch.tensor([7 * PATCH]))
    assert_same(audio(x, frames, masked, "delete"), short, terms=TERMS)


def test_text_grid_spares_end_and_padding(text: torch.nn.Module) -> None:
    tokens = VOCABULARY(["w1 w2 unheard", ""])
    assert text.grid(tokens, None).tolist() == [[True, True, True, False], [False] * 4]
    everything = torch.ones_like(tokens, dtype=torch.bool)
    for mode in modes(text):
        out = text(tokens, None, everything, mode)
        assert out.isfinite().all()
        assert_same(out[1:], text(tokens)[1:], terms=TERMS)  # "" has nothing to hide


def test_masked_words_never_leak(text: torch.nn.Module) -> None:
    tokens = VOCABULARY(["w1 w2 w3 w4 w5", "w6 w7"])
    other = VOCABULARY(["w1 w9 w3 w10 w5", "w11 w7"])
    for mode in modes(text):
        out = text(tokens, None, tokens != other, mode)
        assert torch.equal(text(other, None, tokens != other, mode), out)
        assert not torch.allclose(out, text(tokens))


def test_deleting_words_is_the_caption_without_them(text: torch.nn.Module) -> None:
    if not text.can_delete:
        pytest.skip("this encoder cannot delete")
    tokens = VOCABULARY(["w1 w2 w3 w4", "w5 w6"])
    masked = torch.tensor([[False, True, True, False, False], [True, False, False, False, False]])
    without = text(VOCABULARY(["w1 w4", "w6"]))
    assert_same(text(tokens, None, masked, "delete"), without, terms=TERMS)
    assert not torch.allclose(text(tokens, None, masked, "substitute"), without)


def test_order_of_words_matters(text: torch.nn.Module) -> None:
    one, two = text(VOCABULARY(["w1 w2 w3", "w3 w2 w1"]))
    assert (one - two).abs().max() > 1e-3


def test_empty_caption_embeds(text: torch.nn.Module) -> None:
    out = text(VOCABULARY([""]))
    assert out.isfinite().all()
    assert out.abs().max() > 0
    assert VOCABULARY([""]).tolist() == [[WordVocabulary.end]]


def test_wrong_masks_are_refused(audio: torch.nn.Module, text: torch.nn.Module) -> None:
    x, frames = sounds()
    tokens = VOCABULARY(["w1 w2"])
    with pytest.raises(ValueError, match="masked: got torch.bool of shape"):
        audio(x, frames, torch.zeros(4, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="masked: got torch.float32"):
        text(tokens, None, torch.zeros(1, 3))
    with pytest.raises(ValueError, match="mode: got 'drop'"):
        text(tokens, None, None, "drop")
