"""What the registry of terms makes of their attributes: sections of options, masks, mixtures, and errors."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
from torch import Tensor

from prolap.config.options import ConfigError
from prolap.training.config import load_config
from prolap.training.terms import (
    TERMS,
    InclusionConfig,
    Logit,
    Term,
    TermConfig,
    active_terms,
    all_terms,
    loss_config,
    mixes,
    needs_masks,
    register,
    trains_uncertainty,
)
from prolap.training.terms.masked_pairs import MaskedPairsConfig
from prolap.training.terms.pairs import PairsConfig
from prolap.training.terms.repulsion import RepulsionConfig
from prolap.training.terms.vib import VibConfig
from prolap.training.views import Views
from tests.prolap.training.test_terms import LOGIT, views


def test_terms_are_the_sections_of_the_configuration() -> None:
    assert list(TERMS) == [section.name for section in fields(loss_config())]


@pytest.mark.parametrize(
    ("change", "masks"),
    [
        (lambda c: c, False),
        (lambda c: replace(c, hierarchy=InclusionConfig(weight=0.1)), True),
        (lambda c: replace(c, repulsion=RepulsionConfig(weight=0.1)), True),
        (lambda c: replace(c, masked_pairs=MaskedPairsConfig(weight=0.1)), True),
        (lambda c: replace(c, vib=VibConfig(weight=1)), False),
    ],
)
def test_masks_are_needed_only_by_terms_that_count(change: Callable[[Any], Any], masks: bool) -> None:
    assert needs_masks(change(loss_config())) == ({"audio", "text"} if masks else set())


def test_repulsion_does_not_go_with_mixtures() -> None:
    loss = loss_config(repulsion=RepulsionConfig(weight=0.1))
    assert not mixes(0, loss)
    with pytest.raises(ConfigError, match="loss.repulsion.weight: got 0.1 with mix.share 0.5, want 0"):
        mixes(0.5, loss)


def test_an_unknown_score_is_named_with_its_option() -> None:
    with pytest.raises(ConfigError, match="model.score: got 'cosine', want one of "):
        trains_uncertainty(loss_config(), "cosine")
    with pytest.raises(ConfigError, match="loss.repulsion.score: got 'cosine'"):
        trains_uncertainty(loss_config(repulsion=RepulsionConfig(weight=1, score="cosine")), "dot")
    with pytest.raises(
        ConfigError, match="loss.repulsion.score: got 'cosine'"
    ):  # also after a term that uses log-variances
        trains_uncertainty(loss_config(repulsion=RepulsionConfig(weight=1, score="cosine")), "csd")


def test_weight_zero_everywhere_is_refused() -> None:
    assert list(active_terms(loss_config(vib=VibConfig(weight=1e-5)))) == ["pairs", "vib"]
    with pytest.raises(ValueError, match="every term has weight 0"):
        active_terms(loss_config(pairs=PairsConfig(weight=0)))
    with pytest.raises(ValueError, match="partner: got 'all'"):
        TERMS["repulsion"].loss(views(), RepulsionConfig(partner="all"), LOGIT)  # type: ignore[arg-type]


@dataclass(frozen=True)
class NarrowConfig(TermConfig):
    limit: float = -8.0


class Narrow(Term):
    """A term of a user's own: log-variances of masked captions are pulled up to a limit."""

    name = "narrow"
    config = NarrowConfig
    needs_masks = ("text",)

    def loss(self, views: Views, config: NarrowConfig, logit: Logit) -> Tensor:
        copies, _ = views.stacked("text")
        return (config.limit - copies.logvar).relu().mean()


@pytest.fixture
def narrow() -> Iterator[type[Term]]:
    yield register(Narrow)
    del TERMS["narrow"]


def test_a_term_of_ones_own_has_options_and_gets_the_masks_that_it_needs(narrow: type[Term]) -> None:
    loss = load_config(overrides=["loss.narrow.weight=2", "loss.narrow.limit=1"]).loss
    assert (loss.narrow.weight, loss.narrow.limit) == (2.0, 1.0)
    assert needs_masks(loss) >= {"text"}
    assert needs_masks(loss_config(narrow=NarrowConfig(weight=1))) == {"text"}
    assert pickle.loads(pickle.dumps(loss)) == loss
    losses, _ = all_terms(views(), loss_config(narrow=NarrowConfig(weight=1)), LOGIT)
    assert list(losses) == ["pairs", "narrow"]
    with pytest.raises(ValueError, match="loss.*narrow.*want another name"):
        register(type("Other", (Narrow,), {}))


def test_a_term_that_does_not_say_what_it_needs_is_told_so() -> None:
    unmasked = replace(views(), masked_text=None)
    with pytest.raises(ValueError, match="masked text: .* the term's `needs_masks`"):
        Narrow().loss(unmasked, NarrowConfig(), LOGIT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "no name"}, "Wrong.name: got 'no name', want an identifier"),
        ({"config": dict}, "Wrong.config: got <class 'dict'>, want a frozen dataclass with defaults"),
        ({"needs_masks": "text"}, r"Wrong.needs_masks: got 'text', want a tuple of names in \('audio', 'text'\)"),
    ],
)
def test_a_term_that_lacks_something_is_not_registered(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        register(type("Wrong", (Narrow,), change))
    assert "narrow" not in TERMS


@pytest.mark.parametrize(
    ("option", "value"),
    [("loss.vib.weight", -1), ("loss.hierarchy.scale", 0), ("model.dropout", 1.5), ("mask.share", 2)],
)
def test_a_value_out_of_its_range_is_refused_with_its_option(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{option}: got {value} "):
        load_config("prolap+tiny", overrides={option: value})
