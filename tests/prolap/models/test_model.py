from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prolap.config import BaseConfig, ModelConfig
from prolap.models.heads import MEAN_HEADS
from prolap.models.model import ProLAP, build_model, build_tokenizer
from prolap.models.tokenizers import WordVocabulary
from prolap.training.config import load_config
from tests.tolerances import assert_same, likely

VOCABULARY = WordVocabulary(["a", "dog", "barks", "rain", "falls"])
CONFIG = BaseConfig(model=ModelConfig(width=32, dim=16, dropout=0.1))
RATE = CONFIG.data.sample_rate

TERMS = likely(1024)
"""Independent float32 roundings of a log-mel, a tower of patches of up to 1024 values and a head; outputs are of size 1."""


def model(config: BaseConfig = CONFIG) -> ProLAP:
    return build_model(config, VOCABULARY)


def tone(pitch: float, seconds: float = 1.0, rate: int = RATE) -> Tensor:
    return 0.3 * torch.sin(torch.arange(round(seconds * rate)) * (2 * math.pi * pitch / rate))


def test_the_seed_alone_makes_the_weights() -> None:
    before = torch.get_rng_state()
    one = model().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    two, other = model().state_dict(), model(replace(CONFIG, seed=1)).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_log_variance_parameters_can_be_told_by_name() -> None:
    names = dict(model().named_parameters())
    assert sum(".logvar." in name for name in names) == 8
    assert names["log_scale"].ndim == names["bias"].ndim == 0


def test_a_score_that_is_not_registered_is_named_with_its_option() -> None:
    with pytest.raises(ValueError, match="model.score: got 'cosine', want one of "):
        model(replace(CONFIG, model=replace(CONFIG.model, score="cosine")))


def test_scale_and_bias_start_as_configured_and_stay_bounded() -> None:
    for init in (10.0, 99.0):
        built = model(replace(CONFIG, model=replace(CONFIG.model, scale_init=init, bias_init=-7.0, scale_max=100.0)))
        assert built.scale.item() == pytest.approx(init, rel=1e-5)
        assert built.bias.item() == -7.0
    with torch.no_grad():
        built.log_scale.fill_(50.0)
    assert 95 < built.scale.item() <= 100
    built.scale.backward()
    assert built.log_scale.grad.item() > 0
    with pytest.raises(ValueError, match="model.scale_init: got 100.0, want above 0 and below model.scale_max=100.0"):
        model(replace(CONFIG, model=replace(CONFIG.model, scale_init=100.0, scale_max=100.0)))


def test_the_scale_has_a_lower_bound_where_one_is_set() -> None:
    for options in (
        replace(CONFIG.model, scale_init=10.0, scale_min=5.0),
        replace(CONFIG.model, scale_init=5.05, scale_min=5.0, scale_max=5.1),
    ):
        built = model(replace(CONFIG, model=options))
        assert built.scale.item() == pytest.approx(options.scale_init, rel=1e-5)
        with torch.no_grad():
            built.log_scale.fill_(-50.0)
        assert 5 <= built.scale.item() < 5.05
        built.scale.backward()
        assert built.log_scale.grad.item() > 0
    with pytest.raises(ValueError, match="model.scale_init: got 4.0, want above model.scale_min=5.0 and below"):
        model(replace(CONFIG, model=replace(CONFIG.model, scale_init=4.0, scale_min=5.0)))


def test_unknown_encoder_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="model.audio: got 'huge', want one of htsat-base, "):
        model(replace(CONFIG, model=replace(CONFIG.model, audio="huge")))


def test_grids_and_masks_reach_the_encoders() -> None:
    built = model().eval()
    audio, frames = torch.randn(2, 40, CONFIG.data.mels), torch.tensor([40, 20])
    masked = built.audio_grid(audio, frames)
    masked[:, 0] = False
    assert not torch.allclose(built.encode_audio(audio, frames, masked).mean, built.encode_audio(audio, frames).mean)
    tokens = VOCABULARY(["a dog barks"])
    grid = built.text_grid(tokens)
    assert grid.tolist() == [[True, True, True, False]]
    assert_same(built.encode_text(tokens, grid, "delete").mean, built.encode_text(VOCABULARY([""])).mean, terms=TERMS)


def test_embed_text_matches_encode_text_and_restores_training() -> None:
    built = model().train()
    built.text_head.eval()
    texts = ["a dog barks", "", "rain falls", "unheard of", "a a a a a"]
    z = built.embed_text(texts, batch_size=2)
    assert built.training
    assert built.text.training
    assert not built.text_head.training
    assert not z.mean.requires_grad
    assert z.mean.dtype == torch.float32
    assert_same(z.mean.norm(dim=1), torch.ones(5), terms=4)
    built.eval()
    with torch.no_grad():
        whole = built.encode_text(VOCABULARY(texts))
    assert_same(z.mean, whole.mean, terms=TERMS)
    assert_same(z.logvar, whole.logvar, terms=TERMS)
    assert z.logvar.shape == (5, 16)


def test_embed_audio_does_not_depend_on_batching() -> None:
    built = model().train()
    waves = [tone(200), tone(500, 0.5), tone(900, 0.2)]
    together = built.embed_audio(waves, RATE)
    assert built.training
    alone = torch.cat([built.embed_audio([wave], RATE).mean for wave in waves])
    assert_same(together.mean, alone, terms=TERMS)
    assert (together.mean[0] - together.mean[1]).abs().max() > 1e-3


def test_embed_audio_reads_files_of_any_rate(tmp_path: Path) -> None:
    import soundfile

    built = model()
    stereo = tone(440, rate=44_100).repeat(2, 1)
    path = tmp_path / "tone.wav"
    soundfile.write(path, stereo.T.numpy(), 44_100, subtype="FLOAT")
    from_file = built.embed_audio([path, str(path)])
    from_wave = built.embed_audio([stereo, stereo.numpy()], 44_100)
    direct = built.embed_audio([tone(440)], RATE)
    assert_same(from_file.mean, from_wave.mean, terms=TERMS)
    assert (from_file.mean[:1] * direct.mean).sum().item() > 0.99


def test_embed_audio_uses_the_first_seconds() -> None:
    built, seconds = model(), CONFIG.data.seconds
    long = torch.cat([tone(300, seconds), tone(2000, 2.0)])
    start = built.embed_audio([long[: round(seconds * RATE)]], RATE)
    assert_same(built.embed_audio([long], RATE).mean, start.mean, terms=TERMS)


def test_eval_seconds_say_how_much_of_a_sound_is_heard(tmp_path: Path) -> None:
    import soundfile

    built = model(replace(CONFIG, data=replace(CONFIG.data, seconds=0.5, eval_seconds=2.0)))
    long = torch.cat([tone(300, 1.0), tone(2000, 2.0)])
    path = tmp_path / "long.wav"
    soundfile.write(path, long.numpy(), RATE, subtype="FLOAT")
    heard, start = (built.embed_audio([long[: round(s * RATE)]], RATE).mean for s in (2.0, 0.5))
    assert_same(built.embed_audio([long], RATE).mean, heard, terms=TERMS)
    assert_same(built.embed_audio([path]).mean, heard, terms=TERMS)
    assert (heard - start).abs().max() > 1e-3


def test_the_published_architecture_in_small_embeds_sounds_and_captions() -> None:
    """HTS-AT and GPT-2 with MS-CLAP's log-mel and projections: windows, repeats and padding change nothing."""
    config = load_config(overrides={"preset": "prolap+micro", "data.eval_seconds": 12})
    built = build_model(config, build_tokenizer(config, []))
    waves = [tone(300, 9.0, 44_100), tone(500, 0.4, 44_100), tone(900, 7.0, 44_100)]
    together = built.embed_audio(waves, 44_100)
    again = built.embed_audio(waves[::-1], 44_100, batch_size=1)
    assert_same(together.mean, again.mean.flip(0), terms=TERMS)
    assert_same(together.logvar, again.logvar.flip(0), terms=TERMS)
    texts = ["a dog barks!", "", "rain falls on a roof while a man speaks"]
    together = built.embed_text(texts)
    again = built.embed_text(texts[::-1], batch_size=1)
    assert_same(together.mean, again.mean.flip(0), terms=TERMS)
    assert together.mean.shape == (3, config.model.dim)
    assert type(built.audio_head.mean) is MEAN_HEADS["msclap"]

    built.eval()
    frames = torch.tensor([400, 700])
    audio = torch.randn(2, 700, config.data.mels)
    masked = built.audio_grid(audio, frames) & (torch.rand(built.audio_grid(audio, frames).shape) < 0.5)
    substituted, deleted = (built.encode_audio(audio, frames, masked, mode) for mode in ("substitute", "delete"))
    assert torch.equal(substituted.mean, deleted.mean), "HTS-AT cannot leave tokens out"
    with pytest.raises(ValueError, match="mode: got 'drop'"):
        built.encode_audio(audio, frames, masked, "drop")


def test_errors_say_what_is_wanted() -> None:
    built = model()
    with pytest.raises(TypeError, match="audio: got a single str"):
        built.embed_audio("dog.wav")
    with pytest.raises(TypeError, match="audio: got a single Tensor"):
        built.embed_audio(tone(200), RATE)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="audio: got a int"):
        built.embed_audio([1], RATE)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="audio: got an empty list"):
        built.embed_audio([])
    with pytest.raises(ValueError, match="sample_rate: got None"):
        built.embed_audio([tone(200)])
    with pytest.raises(ValueError, match="sample_rate: got 16000 with paths"):
        built.embed_audio(["dog.wav"], 16_000)
    with pytest.raises(ValueError, match=r"waveform of shape \(0,\)"):
        built.embed_audio([torch.zeros(0)], RATE)
    with pytest.raises(TypeError, match="texts: got str"):
        built.embed_text("a dog")
    with pytest.raises(ValueError, match="texts: got an empty list"):
        built.embed_text([])
