from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from prolap.evaluation.retrieval import TextRepeats, clips_to_captions, ranks, retrieve, summary
from prolap.evaluation.uncertainty import risk_coverage
from prolap_kernels import Gaussian, pairwise_score
from prolap_kernels.search import WORKSPACE
from tests.live_memory import peak_bytes

RANX = """
import json, sys
from ranx import Qrels, Run, evaluate
qrels, run, metrics = json.load(sys.stdin)
print(json.dumps({k: float(v) for k, v in evaluate(Qrels(qrels), Run(run), metrics).items()}))
"""


def gaussians(n: int, dim: int = 6, seed: int = 0) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=-1)
    return Gaussian(mean, torch.randn(n, dim, generator=generator) - 2)


def brute_ranks(scores: np.ndarray, relevance: list[list[int]]) -> list[list[int]]:
    """Sort by score, irrelevant first among equals."""
    out = []
    for row, wanted in zip(scores, relevance, strict=True):
        order = sorted(range(len(row)), key=lambda j: (-row[j], j in wanted))
        out.append([place for place, j in enumerate(order, start=1) if j in wanted])
    return out


@pytest.mark.parametrize("score", ["csd", "dot"])
def test_ranks_are_those_of_a_sort(score: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, gallery = gaussians(23), gaussians(31, seed=1)
    relevance = [sorted({i, (3 * i + 2) % 31, 7}) for i in range(23)]
    monkeypatch.setitem(WORKSPACE, "cpu", 6 << 10)  # blocks that divide queries and gallery
    found = ranks(queries, gallery, relevance, score=score)
    wanted = brute_ranks(pairwise_score(queries, gallery, score=score).numpy(), relevance)
    assert [row[:p].tolist() for row, p in zip(found.ranks, found.positives, strict=True)] == wanted
    for k in (1, 3, 10):
        assert found.hits(k).tolist() == [float(row[0] <= k) for row in wanted]
        by_hand = [sum(i / r for i, r in enumerate(row, 1) if r <= k) / len(row) for row in wanted]
        assert found.average_precision(k) == pytest.approx(by_hand)


@pytest.mark.parametrize("score", ["csd", "dot", "csd_distance", "kl"])
@pytest.mark.parametrize("workspace", [1000, 20_000, WORKSPACE["cpu"]])
def test_ties_are_broken_against_us(score: str, workspace: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORKSPACE, "cpu", workspace)
    same = Gaussian(torch.ones(67, 5) / 5**0.5, torch.zeros(67, 5))
    assert ranks(same, same, list(range(67)), score=score).ranks[:, 0].tolist() == [67] * 67


def test_a_model_that_says_the_same_of_everything_finds_nothing() -> None:
    same = Gaussian(torch.ones(67, 5) / 5**0.5, torch.zeros(67, 5))
    found = ranks(same, same, list(range(67)))
    assert found.hits(10).sum() == 0
    several = ranks(Gaussian(same.mean[:1], same.logvar[:1]), same, [[0, 5, 9]])
    assert several.ranks.tolist() == [[65, 66, 67]]


def test_copies_of_the_relevant_item_tie_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gallery item stands there four times, so the best rank that we grant ourselves is 4."""
    queries, items = gaussians(30, dim=33), gaussians(30, dim=33, seed=1)
    gallery = items.rows(torch.arange(120) % 30)
    wanted = brute_ranks(pairwise_score(queries, items).numpy(), [[q] for q in range(30)])
    for workspace in (40_000, WORKSPACE["cpu"]):
        monkeypatch.setitem(WORKSPACE, "cpu", workspace)
        found = ranks(queries, gallery, [q + 30 * (q % 4) for q in range(30)])
        assert found.ranks[:, 0].tolist() == [4 * row[0] for row in wanted]


def test_memory_does_not_grow_with_the_matrix(tmp_path: Path) -> None:
    """8000 x 8000 scores are 512 MB in float64; the embeddings 1 MB."""
    x, y = (Gaussian(torch.randn(8000, 16), torch.randn(8000, 16)) for _ in range(2))
    relevant = torch.randperm(8000).numpy()
    assert peak_bytes(lambda: ranks(x, y, relevant), tmp_path) <= WORKSPACE["cpu"] + 8000 * 200  # some numbers a query


def test_map_divides_by_the_positives_missed_too() -> None:
    # One of two captions first, the other beyond 10: AP@10 is 1/2, not 1.
    score = torch.tensor([1.0, *np.linspace(0.9, 0.5, 12), 0.1])
    queries = Gaussian(torch.ones(1, 1), torch.zeros(1, 1))
    gallery = Gaussian(score[:, None], torch.zeros(14, 1))
    found = ranks(queries, gallery, [[0, 13]], score="dot")
    assert found.average_precision(10).tolist() == [0.5]
    assert found.average_precision(14) == pytest.approx([0.5 * (1 + 2 / 14)])
    assert found.hits(1).tolist() == [1.0]


def test_agrees_with_ranx() -> None:
    audio, text = gaussians(40, seed=2), gaussians(100, seed=3)
    clip = np.sort(np.arange(100) % 40)
    text = Gaussian(torch.nn.functional.normalize(text.mean + 1.0 * audio.mean[clip], dim=-1), text.logvar)
    found = retrieve(audio, text, clip)
    scores = pairwise_score(Gaussian(*(v.double() for v in audio)), Gaussian(*(v.double() for v in text))).numpy()
    qrels = {f"q{a}": {f"d{c}": 1 for c in np.flatnonzero(clip == a)} for a in range(40)}
    run = {f"q{a}": {f"d{c}": float(scores[a, c]) for c in range(100)} for a in range(40)}
    metrics = ["hit_rate@1", "hit_rate@5", "hit_rate@10", "map@10", "map@16"]
    theirs = json.loads(
        subprocess.run(
            [sys.executable, "-c", RANX],
            input=json.dumps([qrels, run, metrics]),
            env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    ours = summary(found.a2t)
    assert 0.1 < ours["r1"] < ours["r10"] < 1
    assert [ours["r1"], ours["r5"], ours["r10"], ours["map10"]] == pytest.approx([theirs[m] for m in metrics[:4]])
    assert found.a2t.average_precision(16).mean() == pytest.approx(theirs["map@16"])


def test_both_directions_of_a_perfect_and_a_random_model() -> None:
    audio, clip = gaussians(50, dim=16), np.arange(50).repeat(2)
    perfect = retrieve(audio, Gaussian(audio.mean[clip], audio.logvar[clip] * 0), clip, score="dot").metrics()
    assert perfect["t2a"] == perfect["a2t"] == {"r1": 1.0, "r5": 1.0, "r10": 1.0, "map10": 1.0}
    assert (perfect["n"], perfect["captions"], perfect["gallery"]) == (50, 100, 50)
    assert perfect["chance_r1"] == pytest.approx(1 / 50)
    chance = retrieve(gaussians(400, seed=8), gaussians(400, seed=9), np.arange(400), score="dot").metrics()
    assert chance["t2a"]["r10"] == pytest.approx(10 / 400, abs=0.02)


def test_unseen_clips_ask_the_whole_gallery() -> None:
    audio = gaussians(20, seed=4)
    text = Gaussian(torch.roll(audio.mean, 1, 0), audio.logvar)
    clip, unseen = np.arange(20), np.arange(20) % 5 == 0
    both = retrieve(audio, text, clip)
    found = both.metrics(unseen)
    assert found["n"] == found["captions"] == 4
    assert found["gallery"] == 20
    assert found["chance_r1"] == 1 / 20
    assert found["t2a"]["r5"] == both.t2a.hits(5)[unseen].mean()


def test_captions_of_several_clips_set_a_ceiling_or_are_all_positive() -> None:
    """Clips 0, 1 and 2 share a text, clip 2 has one of its own besides, clip 3 one that it says twice."""
    texts, clip = ["Rain  falls", "rain falls", "rain falls", "two dogs", "a bell", "a bell"], [0, 1, 2, 2, 3, 3]
    distinct = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    text = Gaussian(distinct[[0, 0, 0, 1, 2, 2]], torch.zeros(6, 8))
    audio = Gaussian(
        distinct[[0, 0, 1, 2]] + torch.tensor([[0.0], [0.0], [0.3], [0.0]]) * distinct[0], torch.zeros(4, 8)
    )
    repeats = TextRepeats(texts, clip)
    section = repeats.section("negative")
    assert (section["captions"], section["distinct"], section["shared"]) == (6, 3, 3)
    assert section["ceiling"] == {
        "t2a": {"r1": 4 / 6, "r5": 1.0, "r10": 1.0},
        "a2t": {"r1": 2 / 4, "r5": 1.0, "r10": 1.0},
    }
    strict = retrieve(audio, text, clip, score="dot").metrics()
    assert strict["t2a"]["r1"] <= 4 / 6
    assert strict["a2t"]["r1"] == 2 / 4
    alike = retrieve(audio, text, clip, score="dot", positives=repeats).metrics()
    assert alike["t2a"]["r1"] == alike["a2t"]["r1"] == 1.0
    assert alike["chance_r1"] == pytest.approx((3 * 3 / 4 + 3 / 4) / 6)
    assert repeats.section("positive")["ceiling"]["t2a"]["r1"] == 1.0


def test_errors_name_the_argument() -> None:
    z = gaussians(3)
    with pytest.raises(ValueError, match="relevance of query 1 is empty"):
        ranks(z, z, [[0], [], [1]])
    with pytest.raises(ValueError, match="gallery has 3 items"):
        ranks(z, z, [0, 1, 3])
    with pytest.raises(ValueError, match="not finite"):
        ranks(Gaussian(z.mean * float("nan"), z.logvar), z, [0, 1, 2])
    assert clips_to_captions([2, 0, 2], 3) == [[1], [], [0, 2]]


def test_risk_coverage_orders_by_uncertainty_and_averages_ties() -> None:
    hits = np.array([1.0, 0.0, 1.0, 0.0])
    sure = risk_coverage(hits, [0.1, 0.9, 0.2, 0.8])
    assert sure.hit_rate.tolist() == [1.0, 1.0, pytest.approx(2 / 3), 0.5]
    assert sure.at(0.5) == 1.0
    assert sure.area == pytest.approx(1 - np.mean([1, 1, 2 / 3, 0.5]))
    blind = risk_coverage(hits, np.zeros(4))
    assert blind.hit_rate == pytest.approx([0.5] * 4), "equal uncertainty gains nothing, whatever the order"
