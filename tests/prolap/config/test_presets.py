"""The presets say what SPEC and papers say, and the baselines train no log-variance."""

from __future__ import annotations

import pytest

from prolap.config.loading import differences, preset_names
from prolap.config.options import ConfigError
from prolap.data.features import make_features
from prolap.models.encoders import AUDIO, TEXT
from prolap.training.config import load_config
from prolap.training.terms import TERMS, active_terms, needs_masks
from prolap_kernels import SCORES

SIZES = {
    "laion": ("htsat-tiny", "roberta"),
    "micro": ("htsat-micro", "gpt2-micro"),
    "msclap": ("htsat-tiny", "gpt2"),
    "tiny": ("tiny", "tiny"),
}


def test_the_names() -> None:
    objectives = {"clap", "mixprolap", "prolap", "prolap-v1", "quickstart", "siglip"}
    assert set(preset_names()) == objectives | set(SIZES)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("objective", ["prolap", "siglip"])
def test_a_size_changes_the_encoders_and_not_the_objective(objective: str, size: str) -> None:
    config = load_config(f"{objective}+{size}")
    assert (config.model.audio, config.model.text) == SIZES[size]
    changed = [name for name, _, _ in differences(load_config(objective), config)]
    start = {"optim.lr", "optim.scale_lr", "optim.clip", "model.bias_init"}  # small models start from random weights
    assert all(name == "preset" or name in start or name.startswith(("data.", "model.")) for name in changed)
    make_features(config.data)  # the log-mel's options fit together


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_names_what_is_registered(name: str) -> None:
    config = load_config(name)
    assert config.model.audio in AUDIO
    assert config.model.text in TEXT
    assert config.model.score in SCORES
    assert active_terms(config.loss).keys() <= TERMS.keys()


def test_an_unknown_part_of_a_preset_is_named() -> None:
    with pytest.raises(ConfigError, match="got 'tinny'.*did you mean tiny"):
        load_config("prolap+tinny")


def test_prolap_is_as_published() -> None:
    config = load_config("prolap")
    assert (config.batch_size, config.epochs) == (256, 50)
    assert (config.optim.optimizer, config.optim.lr, config.optim.warmup_epochs) == ("adam", 1e-5, 1)
    loss = config.loss
    assert (config.model.score, loss.pairs.objective) == ("csd", "sigmoid")
    assert (loss.hierarchy.weight, loss.cross_inclusion.weight, loss.vib.weight) == (5e-3, 5e-7, 1e-5)
    assert loss.repulsion.weight == 0
    mask = config.mask
    assert (mask.ratio, mask.share, mask.text_copies, mask.audio_copies) == (0.75, 0.125, 3, 2)


def test_v1_is_prolap_with_mask_repulsion_alone() -> None:
    changed = {name for name, _, _ in differences(load_config("prolap"), load_config("prolap-v1"))}
    assert changed == {"preset", "loss.repulsion.weight"}
    assert load_config("prolap-v1").loss.repulsion.weight > 0


@pytest.mark.parametrize(("name", "objective"), [("siglip", "sigmoid"), ("clap", "softmax")])
def test_baselines_are_deterministic_and_else_as_prolap(name: str, objective: str) -> None:
    config = load_config(name)
    assert list(active_terms(config.loss)) == ["pairs"]
    assert (config.model.score, config.loss.pairs.objective) == ("dot", objective)
    assert not needs_masks(config.loss)
    assert not config.trains_uncertainty
    changed = {key for key, _, _ in differences(load_config("prolap"), config)}
    start = {"preset", "model.score", "model.scale_init", "model.bias_init"}
    assert all(key in start or key.startswith("loss.") for key in changed)


@pytest.mark.parametrize("name", ["prolap", "prolap-v1", "quickstart"])
def test_probabilistic_presets_train_a_log_variance(name: str) -> None:
    config = load_config(name)
    assert config.trains_uncertainty
    assert needs_masks(config.loss)
    assert config.model.logvar_bounds[0] < config.model.logvar_init < config.model.logvar_bounds[1]
