"""Public checkpoints with random weights: every name accounted for, and the same numbers as the public modules."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from prolap.config.options import leaves
from prolap.models.model import ProLAP, build_tokenizer
from prolap.training.config import load_config
from prolap.weights.importers import FORMATS
from prolap.weights.importers.translation import Report, fit, translate
from tests.prolap import public_layouts as public
from tests.prolap.public_models import MICRO_LAION, MICRO_MSCLAP, SMALL_GPT2, SMALL_ROBERTA, clap, imported
from tests.prolap.small_tokenizers import TEXTS, write_roberta
from tests.tolerances import bound, likely

# features about 1 in size against float64: independent float32 roundings in sums over up to 3072 values, whatever the library
EXACT = {"rtol": 0.0, "atol": bound(torch.float32, likely(3072))}


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("roberta")
    write_roberta(folder)
    return folder


def sounds(rows: int = 3, frames: int = 965) -> Tensor:
    """Log-mels in decibels with a shape in time and in pitch, so that features of different sounds differ."""
    time, band = torch.arange(frames)[:, None] / frames, torch.arange(64) / 64
    shapes = [20 * torch.cos(9 * (row + 1) * time + 5 * band) + 15 * torch.sin(40 * band * time) for row in range(rows)]
    noise = torch.randn(rows, frames, 64, generator=torch.Generator().manual_seed(3))
    return torch.stack(shapes) + 5 * noise - 30


def double(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in state.items()}


def accounted(report: Report, state: dict[str, Tensor], model: ProLAP) -> None:
    """Every public name is mapped or dropped, every one of ours filled, new or computed."""
    assert report.mapped.keys() | report.dropped.keys() == state.keys()
    ours = {name for names in report.mapped.values() for name in names}
    computed = {name for name in model.state_dict() if name.endswith("relative_position_index")}
    assert ours.isdisjoint(report.new)
    assert ours | set(report.new) | computed == model.state_dict().keys()
    assert {"audio.mask", "text.mask", "bias", "audio_head.logvar.0.weight"} <= set(report.new)
    assert len(report.new) == 11
    assert all(report.dropped.values())


def test_msclap_has_the_numbers_of_the_public_modules(tmp_path: Path) -> None:
    """HTS-AT tiny as published, windows shifted and not; GPT-2 in small by transformers' own model."""
    from transformers import GPT2Config, GPT2Model

    state = public.drawn(public.msclap(public.TINY, SMALL_GPT2, 32))
    torch.save({"model": state}, tmp_path / "clap.pth")
    config = load_config("prolap", overrides=[*MICRO_MSCLAP, "model.audio=htsat-tiny"])
    with pytest.warns(RuntimeWarning, match="its mel bank is not that of data.features=msclap"):  # it is drawn
        model, report = imported(tmp_path / "clap.pth", config)
    accounted(report, state, model)
    mel, w = sounds(2), double(state)
    features = public.embed_sound(w, "audio_encoder.base.htsat.", mel.double(), public.TINY)
    assert (features[0] - features[1]).abs().max() > 0.05
    texts = ["a dog barks", "rain falls on a tin roof while birds sing", "x"]
    tokens = model.vocabulary(texts)
    gpt2 = GPT2Model(GPT2Config(n_embd=128, n_layer=2, n_head=4, n_positions=128)).eval().double()
    prefix = "caption_encoder.base."
    masks = (".attn.bias", ".attn.masked_bias")
    words = {n.removeprefix(prefix): v for n, v in w.items() if n.startswith(prefix) and not n.endswith(masks)}
    gpt2.load_state_dict(words)
    with torch.no_grad():
        states = gpt2(input_ids=tokens, attention_mask=(tokens != 0).long()).last_hidden_state
        read = states[torch.arange(3), tokens.ne(0).sum(-1) - 1]
        torch.testing.assert_close(model.audio(mel).double(), features, **EXACT)
        torch.testing.assert_close(model.text(tokens).double(), read, **EXACT)
        for side, expected, got in (
            ("audio", features, model.encode_audio(mel, torch.full((2,), 965))),
            ("caption", read, model.encode_text(tokens)),
        ):
            p = f"{side}_encoder.projection."
            first = expected @ w[f"{p}linear1.weight"].mT
            second = functional.gelu(first) @ w[f"{p}linear2.weight"].mT
            out = public.layer_norm(w, f"{p}layer_norm", first + second)
            torch.testing.assert_close(got.mean.double(), functional.normalize(out), **EXACT)
            assert got.logvar.mean().item() == pytest.approx(config.model.logvar_init, abs=0.5)
    assert model.scale.item() == pytest.approx(20.0, rel=1e-6)
    assert model.bias.item() == config.model.bias_init


def test_laion_has_the_numbers_of_the_public_modules(tmp_path: Path, roberta: Path) -> None:
    from transformers import RobertaConfig, RobertaModel

    config = load_config("prolap+laion", overrides=[*MICRO_LAION, f"model.tokenizer={roberta}"])
    words = len(build_tokenizer(config, []))
    state = public.drawn(public.laion(public.MICRO, SMALL_ROBERTA, words, 32))
    del state["audio_branch.logmel_extractor.melW"]
    content = {"epoch": 3, "name": "630k", "state_dict": {f"module.{name}": value for name, value in state.items()}}
    torch.save(content, tmp_path / "clap.pt")
    model, report = imported(tmp_path / "clap.pt", config)
    accounted(report, state, model)
    mel, w = sounds(frames=1001), double(state)
    features = public.embed_sound(w, "audio_branch.", mel.double(), public.MICRO)
    sizes: dict[str, Any] = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 512, "max_position_embeddings": 130, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    plain = RobertaModel(RobertaConfig(vocab_size=words, **sizes)).eval().double()
    own = {n.removeprefix("text_branch."): v for n, v in w.items() if n.startswith("text_branch.")}
    del own["embeddings.position_ids"]
    plain.load_state_dict(own)
    tokens = model.vocabulary(TEXTS)
    with torch.no_grad():
        read = plain(input_ids=tokens, attention_mask=(tokens != 1).long()).pooler_output
        for side, expected, got in (
            ("audio", features, model.encode_audio(mel, torch.full((3,), 1001))),
            ("text", read, model.encode_text(tokens)),
        ):
            out = public.affine(w, f"{side}_projection.0", expected).relu()
            out = public.affine(w, f"{side}_projection.2", out)
            torch.testing.assert_close(got.mean.double(), functional.normalize(out), **EXACT)
    assert (model.encode_audio(mel, torch.full((3,), 1001)).mean[0] - functional.normalize(out)[0]).abs().max() > 1e-2


def test_hugging_face_has_the_numbers_of_clapmodel_from_the_waveform_on(tmp_path: Path, roberta: Path) -> None:
    from transformers import ClapFeatureExtractor

    config = load_config("prolap+laion", overrides=[*MICRO_LAION, f"model.tokenizer={roberta}"])
    theirs = clap(len(build_tokenizer(config, [])))
    theirs.save_pretrained(tmp_path)
    model, report = imported(tmp_path, config)
    accounted(report, dict(theirs.state_dict()), model)
    assert report.notes == []
    extractor = ClapFeatureExtractor(
        frequency_min=50, frequency_max=14_000, truncation="rand_trunc", padding="repeatpad"
    )
    time = torch.arange(480_000) / 48_000
    waves = [
        0.3 * torch.sin(2 * math.pi * (200 + 900 * time) * time),
        0.2 * torch.sin(5000 * time) * torch.cos(3 * time),
    ]
    inputs = extractor([wave.numpy() for wave in waves], sampling_rate=48_000, return_tensors="pt")
    tokens = model.vocabulary(TEXTS)
    with torch.no_grad():
        audio = theirs.get_audio_features(input_features=inputs["input_features"]).pooler_output
        text = theirs.get_text_features(input_ids=tokens, attention_mask=(tokens != 1).long()).pooler_output
    assert (audio[0] - audio[1]).abs().max() > 1e-2
    torch.testing.assert_close(model.embed_text(TEXTS).mean, text, **EXACT)
    # quiet bands differ by the float32 noise of the spectrum, up to 0.05 dB seen, of which little reaches the embedding
    torch.testing.assert_close(model.embed_audio(waves, sample_rate=48_000).mean, audio, **EXACT)


class Words:
    """Stands in for a tokenizer where only its length counts."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


MSCLAP_FULL = public.msclap(public.TINY, (768, 12, 1024), 1024)
FULL: dict[str, tuple[str, list[str], Callable[[], public.Shapes], int]] = {
    "msclap-2023": ("prolap", [], lambda: MSCLAP_FULL, 50_257),
    "laion-clap": ("prolap+laion", [], lambda: public.laion(public.TINY, (768, 12, 514), 50_265), 50_265),
    "laion-clap base": (
        "prolap+laion",
        ["model.audio=htsat-base"],
        lambda: public.laion(public.BASE, (768, 12, 514), 50_265),
        50_265,
    ),
}


@pytest.mark.parametrize("name", FULL)
def test_every_name_and_shape_of_the_published_size_has_its_place(name: str) -> None:
    preset, overrides, shapes, words = FULL[name]
    config, form = load_config(preset, overrides=overrides), FORMATS[name.split()[0]]
    with torch.device("meta"):
        model = ProLAP(config, Words(words))  # type: ignore[arg-type]
        state = {key: torch.empty(shape) for key, shape in shapes().items()}
    have = leaves(config)
    needs = form.needs(state, None, "it")
    assert {key: have[key] for key in needs} == needs
    done = translate(state, form.rules())
    new = fit(done, model.state_dict(), "it")
    assert len(done.mapped) + len(done.dropped) == len(state)
    assert len(new) == 11
    report = Report("it", form.name, "", done.mapped, done.dropped, new)
    accounted(report, state, model)
    assert not any("norm" in key or "mlp" in key or "embed" in key for key in done.dropped if "position" not in key)


def test_hugging_faces_published_size_has_its_place() -> None:
    from transformers import ClapConfig, ClapModel

    config = load_config("prolap+laion")
    with torch.device("meta"):
        model, theirs = ProLAP(config, Words(50_265)), ClapModel(ClapConfig())  # type: ignore[arg-type]
    state, form = dict(theirs.state_dict()), FORMATS["hf-clap"]
    needs, have = form.needs(state, ClapConfig().to_dict(), "it"), leaves(config)
    assert {key: have[key] for key in needs} == needs
    done = translate(state, form.rules())
    report = Report("it", form.name, "", done.mapped, done.dropped, fit(done, model.state_dict(), "it"))
    accounted(report, state, model)
    assert "layer_norm_eps" in form.notes(ClapConfig().to_dict())[0]


def test_a_part_cut_from_qkv_in_another_order_would_be_seen() -> None:
    """What the parity tests can tell apart."""
    state = public.drawn(public.htsat("x.", *public.MICRO))
    right = public.embed_sound(state, "x.", sounds(), public.MICRO)
    for name, value in list(state.items()):
        if "attn.qkv" in name:
            q, k, v = value.chunk(3)
            state[name] = torch.cat([k, v, q])
    assert (public.embed_sound(state, "x.", sounds(), public.MICRO) - right).abs().max() > 100 * EXACT["atol"]
