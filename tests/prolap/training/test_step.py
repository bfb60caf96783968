from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prolap.config import MaskConfig, ModelConfig
from prolap.data.batch import Batch
from prolap.models.model import build_model
from prolap.models.tokenizers import WordVocabulary
from prolap.training.config import Config
from prolap.training.step import encode_views, training_losses
from prolap.training.terms import TERMS, InclusionConfig, Logit, all_terms, loss_config
from prolap.training.terms.masked_pairs import MaskedPairsConfig
from prolap.training.terms.pairs import PairsConfig
from prolap.training.terms.repulsion import RepulsionConfig
from prolap.training.terms.vib import VibConfig
from prolap_kernels import inclusion_score
from tests.tolerances import assert_same, assert_same_gradients

VOCABULARY = WordVocabulary([f"w{i}" for i in range(30)])
EVERYTHING = loss_config(
    pairs=PairsConfig(),
    masked_pairs=MaskedPairsConfig(weight=0.1),
    cross_inclusion=InclusionConfig(weight=1e-3),
    hierarchy=InclusionConfig(weight=5e-3),
    vib=VibConfig(weight=1e-5),
    repulsion=RepulsionConfig(weight=1e-2),
)
CONFIG = Config(model=ModelConfig(width=32, dim=16), mask=MaskConfig(share=0.25), loss=EVERYTHING)
MODALITIES = ("audio", "text")


def batch(rows: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(3)
    audio = torch.randn(rows, 96, 64, generator=generator)
    texts = [" ".join(f"w{(i * k) % 30}" for k in range(1, 5 + i % 5)) for i in range(rows)]
    chain = torch.stack([torch.zeros(rows), torch.arange(rows) % 2, torch.arange(rows) % 4, torch.arange(rows)], dim=1)
    level = torch.arange(rows) % 4
    return Batch(audio, torch.full((rows,), 96), VOCABULARY(texts), torch.arange(rows), chain.long(), level)


def losses(config: Config = CONFIG, seed: int = 0, amp: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model = build_model(config, VOCABULARY)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        return training_losses(model, batch(), config, torch.Generator().manual_seed(seed))


def test_total_is_the_weighted_sum_of_the_logged_terms() -> None:
    total, logs = losses()
    expected = sum(getattr(EVERYTHING, name).weight * logs[f"loss/{name}"] for name in TERMS)
    assert_same(total.detach(), expected, terms=len(TERMS))
    assert total.dtype == torch.float32
    assert total.requires_grad


def test_logs_name_everything_and_are_detached() -> None:
    _, logs = losses()
    expected = {f"loss/{name}" for name in TERMS} | {
        "scale",
        "bias",
        "saturated/cross_inclusion",
        "saturated/hierarchy",
    }
    for modality in MODALITIES:
        expected |= {f"uncertainty/{modality}{end}" for end in ("", "_trace", "_spread", "_masked_1", "_masked_2")}
        expected.add(f"bounds/{modality}")
    assert set(logs) == expected | {"uncertainty/text_masked_3"}
    assert all(value.ndim == 0 and not value.requires_grad and value.isfinite() for value in logs.values())
    assert logs["scale"].item() == pytest.approx(CONFIG.model.scale_init)
    assert logs["bias"].item() == CONFIG.model.bias_init
    for modality in MODALITIES:
        assert logs[f"uncertainty/{modality}"].item() == pytest.approx(-6, abs=0.1)
        assert logs[f"uncertainty/{modality}_trace"].item() == pytest.approx(16 * 2.479e-3, rel=0.1)
        assert 0 < logs[f"uncertainty/{modality}_spread"] < 0.1
        assert logs[f"bounds/{modality}"] == 0


def test_terms_of_weight_zero_are_not_computed_and_need_no_masks() -> None:
    config = replace(CONFIG, loss=loss_config(vib=VibConfig(weight=1e-5)))
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    _, logs = training_losses(build_model(config, VOCABULARY), batch(), config, generator)
    assert {name for name in logs if name.startswith("loss/")} == {"loss/pairs", "loss/vib"}
    assert not any("masked" in name for name in logs)
    assert torch.equal(generator.get_state(), before)


def test_the_generator_determines_the_masks() -> None:
    state = torch.get_rng_state()
    one, again, other = (losses(seed=seed)[0].item() for seed in (0, 0, 1))
    assert one == again != other
    assert torch.equal(torch.get_rng_state(), state)


def in_float64(batch: Batch) -> Batch:
    return replace(batch, audio=batch.audio.double())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mode", ["substitute", "delete"])
def test_stacked_masked_copies_are_what_single_ones_would_be(mode: str) -> None:
    config = replace(CONFIG, mask=replace(CONFIG.mask, mode=mode))
    model, data = build_model(config, VOCABULARY).double().eval(), in_float64(batch())
    views = encode_views(model, data, config, torch.Generator().manual_seed(0))
    assert [len(v) for v in (views.masked_audio, views.masked_text)] == [2, 3]
    assert views.audio_links.shape == (2, 4)
    assert views.text_links.shape == (3, 4)

    from prolap.data.masking import recursive_masks

    generator = torch.Generator().manual_seed(0)
    masks = recursive_masks(model.audio_grid(data.audio[:4], data.frames[:4]), 2, 0.75, generator)
    for mask, copy in zip(masks, views.masked_audio, strict=True):
        single = model.encode_audio(data.audio[:4], data.frames[:4], mask, mode)
        assert_same(copy.mean, single.mean, terms=1024)
    masks = recursive_masks(model.text_grid(data.tokens[:4]), 3, 0.75, generator)
    for mask, copy in zip(masks, views.masked_text, strict=True):
        single = model.encode_text(data.tokens[:4], mask, mode)
        assert_same(copy.mean, single.mean, terms=1024)


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("kind", ["diagonal", "shared"])
def test_every_parameter_learns(amp: bool, kind: str) -> None:
    config = replace(CONFIG, model=replace(CONFIG.model, logvar=kind))
    model = build_model(config, VOCABULARY)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        total, logs = training_losses(model, batch(), config, torch.Generator().manual_seed(0))
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert total.isfinite()
    assert all(value.isfinite() for value in logs.values())


def test_autocast_changes_little() -> None:
    full, half = losses()[0].item(), losses(amp=True)[0].item()
    assert half == pytest.approx(full, rel=0.03)


def test_share_takes_at_least_one_row() -> None:
    config = replace(CONFIG, mask=replace(CONFIG.mask, share=0.001))
    views = encode_views(build_model(config, VOCABULARY), batch(), config, torch.Generator())
    assert len(views.masked_audio[0].mean) == 1


def test_masks_without_copies_are_refused() -> None:
    config = replace(CONFIG, mask=replace(CONFIG.mask, audio_copies=0, text_copies=0))
    with pytest.raises(ValueError, match="audio_copies and text_copies are both 0"):
        losses(config)


def test_a_few_steps_learn_the_batch() -> None:
    model = build_model(CONFIG, VOCABULARY)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    data, first = batch(), None
    for step in range(40):
        total, logs = training_losses(model, data, CONFIG, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        first = logs["loss/pairs"] if first is None else first
    assert logs["loss/pairs"] < 0.5 * first


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("dims", ["sum", "mean", "none"])
@pytest.mark.parametrize("detach", [False, True])
def test_the_terms_together_are_the_terms_alone_with_their_gradients(dims: str, detach: bool) -> None:
    loss = replace(
        EVERYTHING,
        cross_inclusion=InclusionConfig(weight=1e-3, scale=0.1, reduce_dims=dims, detach_mean=detach),
        hierarchy=InclusionConfig(weight=5e-3, scale=3.0, convention="prolip"),
    )
    config = replace(CONFIG, loss=loss)
    model = build_model(config, VOCABULARY).double()
    grads, totals = [], []
    for together in (True, False):
        views = encode_views(model, in_float64(batch()), config, torch.Generator().manual_seed(0))
        logit = Logit(config.model.score, model.scale, model.bias)
        found = (
            all_terms(views, loss, logit)[0]
            if together
            else {name: term.loss(views, getattr(loss, name), logit) for name, term in TERMS.items()}
        )
        total = sum(getattr(loss, name).weight * value for name, value in found.items())
        model.zero_grad()
        total.backward()
        totals.append(total.detach())
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert_same(*totals, terms=1024, dtype=torch.float64)
    assert_same_gradients(*grads, terms=1024)


def test_the_saturated_share_is_that_of_the_rows() -> None:
    view_model = build_model(CONFIG, VOCABULARY)
    views = encode_views(view_model, batch(), CONFIG, torch.Generator().manual_seed(0))
    steep = replace(EVERYTHING, cross_inclusion=InclusionConfig(weight=1, scale=1e4))
    _, saturated = all_terms(views, steep, Logit("csd", view_model.scale, view_model.bias))
    share = (inclusion_score(views.audio, views.text) * 1e4 > 6.9068).float().mean()  # sigmoid(-6.9068) = 1e-3
    assert_same(saturated["cross_inclusion"], share, terms=4)
    assert set(saturated) == {"cross_inclusion", "hierarchy"}
