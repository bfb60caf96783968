"""What a term of the loss is: its options, what it needs and its function; and the registry of all terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache, partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from prolap.config.options import ConfigError, NotNegative, Positive
from prolap.training.views import MODALITIES, Views
from prolap.utils.registry import Registry
from prolap_kernels import SCORES, Gaussian, Inclusion, Vib, matched_losses

PARTNER = -1
"""The level of the rows that the mixtures were made with."""


@dataclass(frozen=True)
class TermConfig:
    """The options that every term has."""

    weight: NotNegative = 0.0
    """Weight in the total loss; 0 leaves the term out."""


class Logit(NamedTuple):
    """What a pair's logit is: scale * score(x, y) + bias, with the model's learned scale and bias."""

    score: str
    scale: Tensor
    bias: Tensor


class Term:
    """A weighted term of the loss. Subclasses set `name` and `config`, write `loss`, and say what they need."""

    name: ClassVar[str]
    """Its section under `loss`, and its name in the logs."""
    config: ClassVar[type]
    """A frozen dataclass of its options with defaults; `weight` is one of them."""
    needs_masks: ClassVar[tuple[str, ...]] = ()
    """Modalities, of "audio" and "text", whose masked copies it looks at (or mixtures in their place)."""
    uses_mixtures: ClassVar[bool] = False
    """Whether it looks at mixtures, so that a run with `mix.share` makes them."""
    refuses_mixtures: ClassVar[str] = ""
    """Why it cannot be computed with mixtures in the place of masked copies; empty if it can."""

    def loss(self, views: Views, config: Any, logit: Logit) -> Tensor:
        """The unweighted term, a 0-d tensor."""
        raise NotImplementedError(f"{type(self).__name__} has no `loss`.")

    def uses_logvar(self, config: Any, score: str) -> bool:
        """Whether it looks at log-variances; `score` is the model's."""
        return True


class PairTerm(Term):
    """A term over pairs, which are scored by the option `score` of its own, or by the model's where that is None."""

    def logit(self, config: Any, logit: Logit) -> Logit:
        """The model's logit, with the term's own score."""
        return logit._replace(score=getattr(config, "score", None) or logit.score)

    def uses_logvar(self, config: Any, score: str) -> bool:
        own = getattr(config, "score", None)
        if (own or score) not in SCORES:
            option = f"loss.{self.name}.score" if own else "model.score"
            raise ConfigError(f"{option}: got {own or score!r}, want one of {', '.join(SCORES)}.")
        return SCORES[own or score].uses_logvar


class MatchedTerm(Term):
    """A term over matched rows, the mean of what `entries` lists; all such terms of a step are one kernel call."""

    def entries(self, levels: Levels, config: Any) -> list[Inclusion | Vib]:
        """Inclusion losses and bottlenecks over indices that `levels` gives."""
        raise NotImplementedError(f"{type(self).__name__} has no `entries`.")

    def loss(self, views: Views, config: Any, logit: Logit) -> Tensor:
        return _matched(views, {self.name: (self, config)})[0][self.name]


@dataclass(frozen=True)
class InclusionConfig(TermConfig):
    """-log sigmoid(scale * H(x in y)) on matched rows."""

    scale: Positive = 1.0
    """Factor on H inside the sigmoid."""
    convention: Literal["exact", "prolip"] = "exact"
    """`exact` is the formula as derived, `prolip` what ProLIP's public code computes."""
    reduce_dims: Literal["sum", "mean", "none"] = "sum"
    """H as a sum or a mean over dimensions, or a sigmoid for each dimension (none)."""
    detach_mean: bool = False
    """Let the loss move variances only."""

    def inclusion(self, chain: tuple[int, ...], valid: Tensor | None = None) -> Inclusion:
        """Each of the chain inside the next; `valid` [links, rows] says which links count."""
        return Inclusion(chain, self.scale, self.convention, self.reduce_dims, valid, self.detach_mean)


class Levels:
    """The embeddings that the matched terms of a step look at, gathered as they are asked for."""

    def __init__(self, views: Views) -> None:
        self.views = views
        self._indices: dict[tuple[str, int], int] = {}

    def index(self, modality: str, level: int = 0) -> int:
        """The index of a modality's rows (level 0), of their copies, from level 1, or of the PARTNER of each mixture."""
        return self._indices.setdefault((modality, level), len(self._indices))

    def gaussians(self) -> list[Gaussian]:
        """All that were asked for, by index."""
        return [self._gaussian(modality, level) for modality, level in self._indices]

    def _gaussian(self, modality: str, level: int) -> Gaussian:
        if level > 0:
            return self.views.copies(modality)[level - 1]
        rows: Gaussian = getattr(self.views, modality)
        return rows.rows(self.views.partner) if level == PARTNER and self.views.partner is not None else rows


def _checked(term: type[Term]) -> Term:
    """A term of this class. Errors: ValueError that says what the class lacks."""
    name: Any = getattr(term, "name", None)
    config: Any = getattr(term, "config", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"{term.__name__}.name: got {name!r}, want an identifier.")
    try:
        default = config()
    except TypeError:
        default = None
    if not getattr(getattr(config, "__dataclass_params__", None), "frozen", False) or not hasattr(default, "weight"):
        raise ValueError(
            f"{term.__name__}.config: got {config!r}, want a frozen dataclass with defaults, `weight` one of them."
        )
    if not isinstance(term.needs_masks, tuple) or not set(term.needs_masks) <= set(MODALITIES):
        raise ValueError(
            f"{term.__name__}.needs_masks: got {term.needs_masks!r}, want a tuple of names in {MODALITIES}."
        )
    return term()


TERMS: Registry[Term] = Registry("loss", _checked)
"""All terms by name, which is also their section under `loss`; the loss sums them in this order."""
register = TERMS.register


def loss_config(**terms: Any) -> Any:
    """The section `loss` of a configuration: the options of every registered term, its defaults unless `terms` has others."""
    return _loss_class(tuple(TERMS.values()))(**terms)


@cache
def _loss_class(terms: tuple[Term, ...]) -> type:
    sections = [(term.name, term.config, field(default=term.config())) for term in terms]
    content = {"__doc__": "The weighted terms; a term of weight 0 is not computed.", "__reduce__": _reduce}
    return make_dataclass("LossConfig", sections, frozen=True, namespace=content)


def _reduce(loss: Any) -> tuple[Any, ...]:
    """For pickle, which does not find a class that was made by a function."""
    return partial(loss_config, **{section.name: getattr(loss, section.name) for section in fields(loss)}), ()


def active_terms(loss: Any) -> dict[str, Any]:
    """Name -> options of the terms that are computed, those of weight other than 0. Errors: ConfigError without any."""
    active = {name: getattr(loss, name) for name in TERMS if getattr(loss, name).weight}
    if not active:
        raise ConfigError("loss: every term has weight 0, want at least one that counts.")
    return active


def needs_masks(loss: Any) -> set[str]:
    """The modalities whose masked copies (or mixtures in their place) a term that counts looks at."""
    return {modality for name in active_terms(loss) for modality in TERMS[name].needs_masks}


def mixes(share: float, loss: Any) -> bool:
    """Whether a run makes mixtures: the option `mix.share` asks for them and a term that counts looks at them.

    Errors: ConfigError if a term that counts cannot be computed with them.
    """
    active = active_terms(loss)
    if not share or not any(TERMS[name].uses_mixtures for name in active):
        return False
    for name, options in active.items():
        if TERMS[name].refuses_mixtures:
            reason = TERMS[name].refuses_mixtures
            raise ConfigError(f"loss.{name}.weight: got {options.weight} with mix.share {share}, want 0: {reason}.")
    return True


def trains_uncertainty(loss: Any, score: str) -> bool:
    """Whether a term that counts looks at log-variances; a deterministic model, by the `score`, has none."""
    uses = [TERMS[name].uses_logvar(options, score) for name, options in active_terms(loss).items()]  # each is checked
    return any(uses)


def all_terms(views: Views, loss: Any, logit: Logit) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """By name: the unweighted terms that count, and the share of saturated rows of the inclusion terms.

    All terms over matched rows are one kernel call.
    """
    active = active_terms(loss)
    matched_terms = {name: (term, active[name]) for name in active if isinstance(term := TERMS[name], MatchedTerm)}
    matched, saturated = _matched(views, matched_terms)
    losses = {
        name: matched[name] if name in matched else TERMS[name].loss(views, options, logit)
        for name, options in active.items()
    }
    return losses, saturated


def _matched(views: Views, terms: Mapping[str, tuple[MatchedTerm, Any]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    levels = Levels(views)
    entries_of = {name: term.entries(levels, options) for name, (term, options) in terms.items()}
    every_entry = [entry for entries in entries_of.values() for entry in entries]
    if not every_entry:
        return {}, {}
    values, shares = matched_losses(levels.gaussians(), every_entry, stats=True)
    losses, saturated, start = {}, {}, 0
    for name, entries in entries_of.items():
        part = slice(start, start + len(entries))
        start = part.stop
        losses[name] = values[part.start] if len(entries) == 1 else torch.stack(values[part]).mean()
        if isinstance(entries[0], Inclusion):
            saturated[name] = shares[part].mean()
    return losses, saturated
