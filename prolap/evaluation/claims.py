"""The paper's claims, each with its value, its control, the threshold and whether it passed.

A claim reads only metrics.json, so it can be checked again from the file. A claim that fails is listed as failed; one
whose input is missing is neither passed nor failed, and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

MARGIN = 0.02
"""How much lower than the baseline's R@1 the lower bound of the paired difference may lie (fraction)."""
SMALL = 0.01
EVEN = 0.5
"""What a rate or an AUC is when nothing was learnt."""


@dataclass(frozen=True)
class Claim:
    """One statement, measured."""

    name: str
    value: float | None
    control: float | None
    """What the value is compared with: the baseline, chance, random words."""
    threshold: float
    passed: bool | None
    """None: not measured, `detail` says why."""
    criterion: str
    """What passing takes, in words."""
    detail: str
    """Intervals and further numbers, or why the input is missing."""


class _Measured(NamedTuple):
    value: float | None
    control: float | None
    passed: bool | None
    detail: str


Metrics = Mapping[str, Any]


class _Missing(Exception):
    """An input that is null or absent."""


def claims(metrics: Metrics) -> list[Claim]:
    """All claims, in a fixed order, from the metrics of an evaluation (or a metrics.json that was read back)."""
    return [
        _claim(metrics, "retrieval", -MARGIN, _RETRIEVAL, _retrieval),
        *(_learnt(metrics, f"inclusion.{x}", EVEN, _INCLUSION, partial(_inclusion, x)) for x in ("audio", "text")),
        *(
            _claim(metrics, f"traversal.{root}", 0.0, _TRAVERSAL, partial(_traversal, root))
            for root in ("empty", "label_free", "oracle")
        ),
        _learnt(metrics, "uncertainty.length", 0.0, _LENGTH, _length),
        _learnt(metrics, "uncertainty.generality", 0.0, _GENERALITY, _generality),
        *(_learnt(metrics, f"risk_coverage.{way}", 0.0, _RISK, partial(_risk, way)) for way in ("t2a", "a2t")),
    ]


def _learnt(
    metrics: Metrics, name: str, threshold: float, criterion: str, measure: Callable[[Metrics], _Measured]
) -> Claim:
    """A claim on uncertainty, which also needs retrieval above chance: a model that finds nothing is sure of nothing."""
    claim = _claim(metrics, name, threshold, f"{criterion}; retrieval above chance", measure)
    if not claim.passed:
        return claim
    try:
        above = _get(metrics, "retrieval.above_chance")
    except _Missing as missing:
        return replace(claim, passed=None, detail=str(missing))
    if above["low"] > 0:
        return claim
    return replace(claim, passed=False, detail=f"{claim.detail}; but retrieval is not above chance: {_span(above)}")


def _claim(
    metrics: Metrics, name: str, threshold: float, criterion: str, measure: Callable[[Metrics], _Measured]
) -> Claim:
    try:
        measured = measure(metrics)
    except _Missing as missing:
        measured = _Measured(None, None, None, str(missing))
    return Claim(name, measured.value, measured.control, threshold, measured.passed, criterion, measured.detail)


def _get(metrics: Metrics, path: str) -> Any:
    value: Any = metrics
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            raise _Missing(_reason(metrics, path))
    return value


def _reason(metrics: Metrics, path: str) -> str:
    reasons = metrics.get("reasons") or {}
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        reason = reasons.get(".".join(parts[:end]))
        if reason:
            return f"{path} is missing: {reason}"
    return f"{path} is missing"


def figure(value: float, sign: str = "") -> str:
    """Three decimals, and near zero three digits that count."""
    return f"{value:{sign}.3f}" if abs(value) >= SMALL or not value else f"{value:{sign}.3g}"


def _span(interval: Mapping[str, float]) -> str:
    return f"{figure(interval['value'], '+')} [{figure(interval['low'], '+')}, {figure(interval['high'], '+')}]"


_RETRIEVAL = (
    "mean R@1 of both directions: not below the baseline's (lower bound of the paired difference above the threshold), "
    "and above chance by more than that margin"
)


def _retrieval(metrics: Metrics) -> _Measured:
    difference, above_chance = _get(metrics, "comparison.retrieval.mean.r1"), _get(metrics, "retrieval.above_chance")
    single = {way: _get(metrics, f"comparison.retrieval.{way}.r1") for way in ("t2a", "a2t")}
    value, control = (
        sum(_get(metrics, f"{section}.{way}.r1") for way in ("t2a", "a2t")) / 2
        for section in ("retrieval", "baseline.retrieval")
    )
    passed = difference["low"] > -MARGIN and above_chance["low"] > MARGIN
    detail = f"difference {_span(difference)}; T->A {_span(single['t2a'])}; A->T {_span(single['a2t'])}"
    return _Measured(value, control, passed, detail)


_INCLUSION = "location AUC A: lower bounds of A - 1/2 and of A - A of the baseline above 0, and direction above 1/2"


def _inclusion(modality: str, metrics: Metrics) -> _Measured:
    names = ("location", "location_baseline", "location_interval", "direction", "control", "advantage")
    keys = [f"inclusion.{modality}.{name}" for name in names]
    value, baseline, (low, high), direction, control, advantage = (_get(metrics, key) for key in keys)
    passed = low > EVEN and advantage["low"] > 0 and direction > EVEN
    detail = (
        f"A in [{low:.3f}, {high:.3f}]; A - baseline {_span(advantage)}; "
        f"direction {direction:.3f}, its control {control:.3f}"
    )
    return _Measured(value, baseline, passed, detail)


_TRAVERSAL = "precision - chance: its lower bound and that of its paired difference to the baseline's above 0"


def _traversal(root: str, metrics: Metrics) -> _Measured:
    precision, chance = (_get(metrics, f"traversal.{root}.{key}") for key in ("precision", "chance"))
    baseline, baseline_chance = (_get(metrics, f"baseline.traversal.{root}.{key}") for key in ("precision", "chance"))
    above_chance, above_baseline = (
        _get(metrics, f"comparison.traversal.{root}.{key}") for key in ("above_chance", "above_baseline")
    )
    passed = above_chance["low"] > 0 and above_baseline["low"] > 0
    detail = f"precision {precision:.3f}, chance {chance:.3f}; over the baseline {_span(above_baseline)}"
    detail += "; this root uses level labels" if root == "oracle" else ""
    return _Measured(precision - chance, baseline - baseline_chance, passed, detail)


_LENGTH = "longer captions are less uncertain (below 0), and more so than random words of equal lengths"


def _length(metrics: Metrics) -> _Measured:
    real, random = (_get(metrics, f"uncertainty.length_spearman{end}") for end in ("", "_random_words"))
    difference = _get(metrics, "uncertainty.length_difference")
    return _Measured(real, random, real < 0 and difference["high"] < 0, f"real - random {_span(difference)}")


_GENERALITY = "at fixed length u falls with level (below 0), and u(wordy general) > u(terse specific) in over 1/2"


def _generality(metrics: Metrics) -> _Measured:
    rate, interval = (_get(metrics, f"uncertainty.wordy_general_{key}") for key in ("rate", "interval"))
    partial_, random = (metrics["uncertainty"].get(key) for key in ("level_partial", "level_partial_random_words"))
    if rate > EVEN:  # else it has failed already: where u is a function of the length, the partial is undefined
        partial_ = _get(metrics, "uncertainty.level_partial")
    detail = f"rate {rate:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]; control: the partial on random words"
    return _Measured(partial_, random, rate > EVEN and partial_ < 0, detail)


_RISK = "R@1 rises when the most uncertain half of the queries is left out: lower bound of the gain above 0"


def _risk(direction: str, metrics: Metrics) -> _Measured:
    row = _get(metrics, f"uncertainty.risk_coverage.{direction}")
    gain, length = row["gain"], row.get("half_by_length")
    detail = f"gain {_span(gain)}" + (f"; leaving out the shortest half: {length:.3f}" if length is not None else "")
    return _Measured(row["half"], row["full"], gain["low"] > 0, detail)
