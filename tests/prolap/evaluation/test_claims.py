from __future__ import annotations

import copy
import io
import json
from dataclasses import asdict
from typing import Any

import pytest
from rich.console import Console

from prolap.evaluation.claims import Claim, claims, figure
from prolap.evaluation.report import print_report


def span(value: float, half: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def side(r1: float) -> dict[str, Any]:
    row = {"r1": r1, "r5": 0.6, "r10": 0.7, "map10": 0.5}
    part = {"t2a": row, "a2t": row, "n": 1000, "chance_r1": 0.001}
    return {**part, "unseen_sources": {**part, "n": 300}}


@pytest.fixture
def good() -> dict[str, Any]:
    """Metrics with which every claim passes."""
    roots = ("empty", "label_free", "oracle")
    test = {
        "direction": 0.99,
        "control": 0.8,
        "location": 0.9,
        "location_baseline": 0.8,
        "location_interval": [0.88, 0.92],
        "advantage": span(0.1),
    }
    return {
        "retrieval": side(0.4) | {"above_chance": span(0.4)},
        "baseline": {
            "retrieval": side(0.39),
            "traversal": {root: {"precision": 0.3, "chance": 0.2} for root in roots},
        },
        "comparison": {
            "retrieval": {
                **{name: {"r1": span(0.01)} for name in ("t2a", "a2t")},
                "mean": {"r1": span(0.01)},
            },
            "traversal": {root: {"above_chance": span(0.2), "above_baseline": span(0.1)} for root in roots},
        },
        "inclusion": {"audio": copy.deepcopy(test), "text": copy.deepcopy(test)},
        "traversal": {root: {"precision": 0.4, "chance": 0.2} for root in roots},
        "uncertainty": {
            "length_spearman": -0.5,
            "length_spearman_random_words": -0.1,
            "length_difference": span(-0.4),
            "level_partial": -0.3,
            "level_partial_random_words": 0.02,
            "wordy_general_rate": 0.7,
            "wordy_general_interval": span(0.7),
            "risk_coverage": {
                "t2a": {"full": 0.4, "half": 0.5, "gain": span(0.1), "half_by_length": 0.45},
                "a2t": {"full": 0.4, "half": 0.5, "gain": span(0.1)},
            },
        },
        "reasons": {},
    }


def by_name(metrics: dict[str, Any]) -> dict[str, Claim]:
    return {claim.name: claim for claim in claims(metrics)}


def put(metrics: dict[str, Any], path: str, value: Any) -> None:
    *head, last = path.split(".")
    for key in head:
        metrics = metrics[key]
    metrics[last] = value


NAMES = [
    "retrieval",
    "inclusion.audio",
    "inclusion.text",
    "traversal.empty",
    "traversal.label_free",
    "traversal.oracle",
    "uncertainty.length",
    "uncertainty.generality",
    "risk_coverage.t2a",
    "risk_coverage.a2t",
]


def test_all_claims_pass_where_all_hold(good: dict[str, Any]) -> None:
    found = claims(good)
    assert [claim.name for claim in found] == NAMES
    assert all(claim.passed for claim in found)
    assert (found[0].value, found[0].control) == (0.4, 0.39)
    assert (found[1].value, found[1].control, found[1].threshold) == (0.9, 0.8, 0.5)
    assert (found[3].value, found[3].control) == (pytest.approx(0.2), pytest.approx(0.1))


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("comparison.retrieval.mean.r1", span(-0.02), "retrieval"),
        ("retrieval.above_chance", span(0.015), "retrieval"),
        ("inclusion.audio.location_interval", [0.49, 0.6], "inclusion.audio"),
        ("inclusion.text.advantage", span(0.005), "inclusion.text"),
        ("inclusion.text.direction", 0.5, "inclusion.text"),
        ("comparison.traversal.empty.above_chance", span(0.005), "traversal.empty"),
        ("comparison.traversal.oracle.above_baseline", span(-0.2), "traversal.oracle"),
        ("uncertainty.length_difference", span(-0.005), "uncertainty.length"),
        ("uncertainty.length_spearman", 0.1, "uncertainty.length"),
        ("uncertainty.level_partial", 0.01, "uncertainty.generality"),
        ("uncertainty.wordy_general_rate", 0.5, "uncertainty.generality"),
        ("uncertainty.risk_coverage.t2a.gain", span(0.0), "risk_coverage.t2a"),
    ],
)
def test_each_condition_can_fail_its_claim_alone(good: dict[str, Any], path: str, value: Any, name: str) -> None:
    put(good, path, value)
    assert [claim.name for claim in claims(good) if claim.passed is False] == [name]


def test_uncertainty_counts_only_where_retrieval_is_above_chance(good: dict[str, Any]) -> None:
    put(good, "retrieval.above_chance", span(0.005))
    failed = {claim.name: claim.detail for claim in claims(good) if claim.passed is False}
    assert failed.keys() == {name for name in NAMES if not name.startswith("traversal")}
    assert "retrieval is not above chance: +0.005 [-0.005, +0.015]" in failed["uncertainty.length"]
    del good["retrieval"]["above_chance"]
    assert by_name(good)["uncertainty.length"].passed is None


def test_figures_near_zero_have_digits_that_count() -> None:
    assert [figure(value) for value in (0.0, 0.1234, -0.000123, 2.0)] == ["0.000", "0.123", "-0.000123", "2.000"]
    assert figure(0.00045678, "+") == "+0.000457"


def test_missing_input_is_neither_passed_nor_failed_and_says_why(good: dict[str, Any]) -> None:
    put(good, "uncertainty.level_partial", None)
    good["reasons"]["uncertainty.level_partial"] = "undefined: no variation"
    put(good, "inclusion.text", None)
    good["reasons"]["inclusion.text"] = "no masked copies were asked for"
    found = by_name(good)
    assert found["uncertainty.generality"].passed is None
    assert "no variation" in found["uncertainty.generality"].detail
    assert found["inclusion.text"].value is None
    assert "no masked copies" in found["inclusion.text"].detail
    assert found["inclusion.audio"].passed
    assert {claim.passed for claim in claims({})} == {None}
    assert [claim.name for claim in claims({})] == NAMES


def test_claims_are_the_same_from_a_file(good: dict[str, Any]) -> None:
    assert claims(json.loads(json.dumps(good))) == claims(good)
    assert set(asdict(claims(good)[0])) >= {"name", "value", "control", "threshold", "passed"}


def test_report_prints_both_models_and_every_claim(good: dict[str, Any]) -> None:
    put(good, "uncertainty.level_partial", 0.2)
    out = io.StringIO()
    print_report(good, claims(good), console=Console(file=out, width=160))
    text = out.getvalue()
    assert "N = 1,000 clips" in text
    assert "40.0 / 39.0" in text
    assert "unseen sources (n = 300)" in text
    assert "+1.0 [+0.0, +2.0] points" in text
    for name in NAMES:
        row = next(line for line in text.splitlines() if f" {name} " in line)
        assert ("failed" if name == "uncertainty.generality" else "passed") in row
    assert "9 of 10 claims passed" in text


def test_report_without_a_baseline(good: dict[str, Any]) -> None:
    good["baseline"] = {"retrieval": None, "traversal": None}
    good["comparison"] = {"retrieval": None, "traversal": None}
    out = io.StringIO()
    print_report(good, claims(good), console=Console(file=out, width=160))
    assert "│ 40.0 │" in out.getvalue()
    assert "points" not in out.getvalue()
    unmeasured = [line for line in out.getvalue().splitlines() if "not measured" in line and "│" in line]
    assert len(unmeasured) == 4, "retrieval and three walks are held against the baseline"
    assert "6 of 6 claims passed; 4 not measured." in out.getvalue()
