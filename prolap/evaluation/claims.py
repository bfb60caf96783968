"""The paper's claims, each with its value, its control, the threshold and whether it passed.

A claim reads only metrics.json, so it can be checked again from the file. A claim that fails is listed as failed; one
whose input is missing is neither passed nor failed, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MARGIN = 0.02
"""How much lower than the baseline's R@1 the lower bound of the paired difference may lie (fraction)."""


@dataclass(frozen=True)
class Claim:
    """One statement, measured."""

    name: str
    value: float | None
    control: float | None
    """What the value has to be held against: the baseline, chance, random words."""
    threshold: float
    passed: bool | None
    """None: not measured, `detail` says why."""
    criterion: str
    """What passing takes, in words."""
    detail: str
    """Intervals and further numbers, or why the input is missing."""


class _Missing(Exception):
    """An input that is null or absent."""


def _get(metrics: Mapping[str, Any], path: str) -> Any:
    value: Any = metrics
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            raise _Missing(_reason(metrics, path))
    return value


def _reason(metrics: Mapping[str, Any], path: str) -> str:
    reasons = metrics.get("reasons") or {}
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        found = reasons.get(".".join(parts[:end]))
        if found:
            return f"{path} is missing: {found}"
    return f"{path} is missing"


def _span(interval: Mapping[str, float]) -> str:
    return f"{interval['value']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]"


def _retrieval(m: Mapping[str, Any]) -> Claim:
    both, above = (_get(m, f"comparison.retrieval.mean.{key}") for key in ("r1", "above_chance"))
    single = {name: _get(m, f"comparison.retrieval.{name}.r1") for name in ("t2a", "a2t")}
    ours, theirs = (
        sum(_get(m, f"{where}.{name}.r1") for name in ("t2a", "a2t")) / 2
        for where in ("retrieval", "baseline.retrieval")
    )
    return Claim(
        name="retrieval",
        value=ours,
        control=theirs,
        threshold=-MARGIN,
        passed=both["low"] > -MARGIN and above["low"] > MARGIN,
        criterion="mean R@1 of both directions not below the baseline's: lower bound of the paired difference > threshold; "
        "and above chance by more than that margin, for two models at chance are equal too",
        detail=f"difference {_span(both)}; T->A {_span(single['t2a'])}; A->T {_span(single['a2t'])}",
    )


def _inclusion(m: Mapping[str, Any], modality: str) -> Claim:
    at = f"inclusion.{modality}"
    low, high = _get(m, f"{at}.location_interval")
    direction, control = _get(m, f"{at}.direction"), _get(m, f"{at}.control")
    advantage = _get(m, f"{at}.advantage")
    return Claim(
        name=f"inclusion.{modality}",
        value=_get(m, f"{at}.location"),
        control=_get(m, f"{at}.location_baseline"),
        threshold=0.5,
        passed=low > 0.5 and advantage["low"] > 0 and direction > 0.5,
        criterion="location AUC: lower bounds of A - 1/2 and of A - A of the baseline above 0, and direction above 1/2",
        detail=f"A in [{low:.3f}, {high:.3f}]; A - baseline {_span(advantage)}; "
        f"direction {direction:.3f}, its control {control:.3f}",
    )


def _traversal(m: Mapping[str, Any], root: str) -> Claim:
    precision, chance = _get(m, f"traversal.{root}.precision"), _get(m, f"traversal.{root}.chance")
    baseline, baseline_chance = (_get(m, f"baseline.traversal.{root}.{key}") for key in ("precision", "chance"))
    above, beyond = (_get(m, f"comparison.traversal.{root}.{key}") for key in ("above_chance", "above_baseline"))
    return Claim(
        name=f"traversal.{root}",
        value=precision - chance,
        control=baseline - baseline_chance,
        threshold=0.0,
        passed=above["low"] > 0 and beyond["low"] > 0,
        criterion="precision - chance: lower bound above 0, and lower bound of its paired difference to the baseline's above 0",
        detail=f"precision {precision:.3f}, chance {chance:.3f}; over the baseline {_span(beyond)}"
        + ("; this root uses level labels" if root == "oracle" else ""),
    )


def _length(m: Mapping[str, Any]) -> Claim:
    real, random = (_get(m, f"uncertainty.length_spearman{end}") for end in ("", "_random_words"))
    difference = _get(m, "uncertainty.length_difference")
    return Claim(
        name="uncertainty.length",
        value=real,
        control=random,
        threshold=0.0,
        passed=real < 0 and difference["high"] < 0,
        criterion="longer captions are less uncertain (below 0), and more so than random words of equal lengths",
        detail=f"real - random {_span(difference)}",
    )


def _generality(m: Mapping[str, Any]) -> Claim:
    rate, span = _get(m, "uncertainty.wordy_general_rate"), _get(m, "uncertainty.wordy_general_interval")
    partial, random = (m["uncertainty"].get(key) for key in ("level_partial", "level_partial_random_words"))
    if rate > 0.5:  # else it has failed already: where u is a function of the length, the partial is undefined
        partial = _get(m, "uncertainty.level_partial")
    return Claim(
        name="uncertainty.generality",
        value=partial,
        control=random,
        threshold=0.0,
        passed=rate > 0.5 and partial < 0,
        criterion="at fixed length u falls with level (below 0), and u(wordy general) > u(terse specific) in over 1/2",
        detail=f"rate {rate:.3f} [{span['low']:.3f}, {span['high']:.3f}]; control: the partial on random words",
    )


def _risk(m: Mapping[str, Any], direction: str) -> Claim:
    row = _get(m, f"uncertainty.risk_coverage.{direction}")
    gain, length = row["gain"], row.get("half_by_length")
    return Claim(
        name=f"risk_coverage.{direction}",
        value=row["half"],
        control=row["full"],
        threshold=0.0,
        passed=gain["low"] > 0,
        criterion="R@1 rises when the most uncertain half of the queries is left out: lower bound of the gain above 0",
        detail=f"gain {_span(gain)}" + (f"; leaving out the shortest half: {length:.3f}" if length is not None else ""),
    )


def claims(metrics: Mapping[str, Any]) -> list[Claim]:
    """All claims, in a fixed order, from the sections of `evaluate` (or a metrics.json that was read back)."""
    rows: list[tuple[str, float, Any]] = [
        ("retrieval", -MARGIN, lambda: _retrieval(metrics)),
        *((f"inclusion.{name}", 0.5, lambda name=name: _inclusion(metrics, name)) for name in ("audio", "text")),
        *(
            (f"traversal.{root}", 0.0, lambda root=root: _traversal(metrics, root))
            for root in ("empty", "label_free", "oracle")
        ),
        ("uncertainty.length", 0.0, lambda: _length(metrics)),
        ("uncertainty.generality", 0.0, lambda: _generality(metrics)),
        *((f"risk_coverage.{name}", 0.0, lambda name=name: _risk(metrics, name)) for name in ("t2a", "a2t")),
    ]
    return [_claim(name, threshold, make) for name, threshold, make in rows]


def _claim(name: str, threshold: float, make: Any) -> Claim:
    try:
        found: Claim = make()
    except _Missing as missing:
        return Claim(name, None, None, threshold, None, "needs its input", str(missing))
    return found


def as_json(found: list[Claim]) -> list[dict[str, Any]]:
    """The `claims` list of metrics.json."""
    return [asdict(claim) for claim in found]
