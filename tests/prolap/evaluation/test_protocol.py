from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
import torch
from torch import Tensor

from prolap.config import MaskConfig
from prolap.data.dataset import Caption
from prolap.evaluation.claims import claims
from prolap.evaluation.embeddings import embed_sounds, rows_to_mask, score_of
from prolap.evaluation.protocol import evaluate, evaluate_retrieval
from prolap.evaluation.report import repeated_captions
from prolap.utils.progress import shown
from prolap_kernels import Gaussian
from tests.tolerances import assert_same, largest

CLIPS = 40
DIM = 24
FRAMES = 8


def unit_vector(key: str) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    return torch.nn.functional.normalize(torch.randn(DIM, generator=generator), dim=0)


class World:
    """40 clips; a chain shares its general nodes with other clips; a terse and a wordy caption for every node."""

    name = "world"

    def __init__(self, chains: bool = True) -> None:
        self.chains = chains
        self.nodes = [(i % 2, 10 + i % 4, 20 + i % 20, 100 + i) for i in range(CLIPS)]
        self.text = {v: (f"n{v} s", f"n{v} " + "w " * (2 + v % 5)) for chain in self.nodes for v in chain}

    def __len__(self) -> int:
        return CLIPS

    def features_batch(self, indices: Any, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        index = torch.tensor(list(indices))
        return index.float()[:, None, None].expand(-1, FRAMES, 2).clone(), torch.full((len(index),), FRAMES)

    def captions(self, i: int) -> list[Caption]:
        rows = [Caption(text.strip(), level, v) for level, v in enumerate(self.nodes[i]) for text in self.text[v]]
        return rows if self.chains else [row._replace(level=-1, node=-1) for row in rows]

    def evaluation_captions(self, i: int) -> list[Caption]:
        return [self.captions(i)[6]]

    def chain(self, i: int) -> tuple[int, ...]:
        return self.nodes[i] if self.chains else ()

    def unseen(self, i: int) -> bool:
        return i % 4 == 0

    def node_text(self, node: int) -> str:
        return self.text[node][0]


class Model:
    """Reads (knows the nodes), counts (variance from the number of words alone) or guesses (knows nothing)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.world = World()
        self.words: dict[str, int] = {}
        self.level = {v: level for chain in self.world.nodes for level, v in enumerate(chain)}
        self.chain = {v: chain[: level + 1] for chain in self.world.nodes for level, v in enumerate(chain)}

    def vocabulary(self, texts: list[str]) -> Tensor:
        rows = [[self.words.setdefault(w, len(self.words) + 1) for w in text.split()] or [0] for text in texts]
        return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)

    def text_grid(self, tokens: Tensor) -> Tensor:
        return tokens > 0

    def audio_grid(self, audio: Tensor, frames: Tensor) -> Tensor:
        return torch.ones(len(audio), FRAMES, dtype=torch.bool)

    def embed_text(self, texts: list[str]) -> Gaussian:
        return self.encode_text(self.vocabulary(texts))

    def encode_text(self, tokens: Tensor, masked: Tensor | None = None, mode: str = "substitute") -> Gaussian:
        names = {number: word for word, number in self.words.items()}
        words = [[names[int(t)] for t in row if t > 0] for row in tokens]
        nodes = [int(row[0][1:]) if row and row[0][0] == "n" and len(row) > 1 else None for row in words]
        # Random strings may begin with a node's name too; only those of a node's own length are captions.
        known = [
            v if v in self.level and " ".join(row) in self._own(v) else None
            for v, row in zip(nodes, words, strict=True)
        ]
        mean = torch.stack([self._mean(v, " ".join(row)) for v, row in zip(known, words, strict=True)])
        if self.kind == "counts":
            level = torch.tensor([float(len(row)) for row in words])
        else:
            level = torch.tensor(
                [2.0 * self.level.get(v, 1.5) + 0.01 * (hash_of(str(r)) % 7) for v, r in zip(known, words, strict=True)]
            )
        return self._hide(mean, -2.0 - level, masked)

    def _own(self, node: int) -> list[str]:
        return [text.strip() for text in self.world.text[node]]

    def encode_audio(
        self, audio: Tensor, frames: Tensor, masked: Tensor | None = None, mode: str = "substitute"
    ) -> Gaussian:
        clips = audio[:, 0, 0].long().tolist()
        mean = torch.stack([self._mean(self.world.nodes[i][3], f"sound {i}") for i in clips])
        return self._hide(mean, torch.full((len(clips),), -9.0) + torch.tensor(clips) / 40, masked)

    def _mean(self, node: int | None, text: str) -> Tensor:
        if self.kind == "guesses" or node is None:
            return unit_vector(text)
        # Ever more specific parts, each smaller than the last.
        parts = [unit_vector(f"node {v}") * 0.8**place for place, v in enumerate(self.chain[node])]
        return torch.nn.functional.normalize(torch.stack(parts).sum(0), dim=0)

    def _hide(self, mean: Tensor, u: Tensor, masked: Tensor | None) -> Gaussian:
        share = torch.zeros(len(mean)) if masked is None else masked.float().mean(1)
        return Gaussian(mean, (u + 3.0 * share)[:, None].expand(-1, DIM).contiguous())


def hash_of(text: str) -> int:
    return zlib.crc32(text.encode())


@pytest.fixture(scope="module")
def reading() -> dict[str, Any]:
    return evaluate(Model("reads"), World(), baseline=Model("guesses"), seed=1).metrics


def nulls(value: Any, path: str = "") -> list[str]:
    if isinstance(value, dict):
        return [p for k, v in value.items() if k != "reasons" for p in nulls(v, f"{path}.{k}" if path else k)]
    if isinstance(value, list):
        return [p for i, v in enumerate(value) for p in nulls(v, f"{path}.{i}")]
    return [path] if value is None else []


def test_every_name_of_the_schema_is_there_and_is_a_fraction(reading: dict[str, Any]) -> None:
    for side in (reading["retrieval"], reading["baseline"]["retrieval"]):
        for direction in ("t2a", "a2t"):
            assert all(0 <= side[direction][key] <= 1 for key in ("r1", "r5", "r10", "map10"))
        assert side["n"] == CLIPS
        assert side["chance_r1"] == pytest.approx(1 / CLIPS)
        assert side["unseen_sources"]["n"] == CLIPS // 4
        assert side["unseen_sources"]["gallery"] == CLIPS
    assert len(reading["uncertainty"]["by_level"]) == 4
    for modality in ("audio", "text"):
        row = reading["inclusion"][modality]
        assert all(0 <= row[key] <= 1 for key in ("direction", "control", "location", "location_baseline"))
    assert len(reading["inclusion"]["text"]["levels"]) == MaskConfig().text_copies
    assert len(reading["inclusion"]["audio"]["levels"]) == MaskConfig().audio_copies
    for root in ("empty", "label_free", "oracle"):
        for side in (reading["traversal"], reading["baseline"]["traversal"]):
            assert all(0 <= side[root][key] <= 1 for key in ("precision", "recall", "chance"))
            assert len(side[root]["recall_by_level"]) == 4


def test_it_is_json_and_nulls_have_reasons(reading: dict[str, Any]) -> None:
    assert json.loads(json.dumps(reading, allow_nan=False)) == reading
    assert nulls(reading) == sorted(reading["reasons"], key=nulls(reading).index)


def test_a_model_that_reads_passes_and_its_guessing_baseline_does_not(reading: dict[str, Any]) -> None:
    assert reading["retrieval"]["t2a"]["r1"] == 1.0
    assert reading["baseline"]["retrieval"]["t2a"]["r1"] < 0.2
    assert reading["comparison"]["retrieval"]["mean"]["r1"]["low"] > 0.7
    assert reading["uncertainty"]["level_partial"] < -0.8
    assert abs(reading["uncertainty"]["level_partial_random_words"]) < 0.3
    assert reading["uncertainty"]["wordy_general_rate"] == 1.0
    up = reading["uncertainty"]["by_level"]
    assert up == sorted(up, reverse=True)
    assert reading["inclusion"]["audio"]["direction"] == 1.0
    assert reading["inclusion"]["audio"]["location"] > 0.95
    masked = reading["uncertainty"]["by_mask"]["audio"]
    assert masked == sorted(masked)
    assert len(set(masked)) == 3
    walk = reading["traversal"]["oracle"]
    assert walk["precision"] > walk["chance"] + 0.2
    assert walk["recall_by_level"][3] == 1.0
    found = {claim.name: claim.passed for claim in claims(reading)}
    assert found["retrieval"]
    assert found["traversal.oracle"]
    assert found["uncertainty.generality"]


def test_a_model_that_counts_words_is_exposed() -> None:
    found = evaluate(Model("counts"), World(), baseline=Model("reads"), seed=1).metrics
    assert found["uncertainty"]["length_spearman"] == pytest.approx(-1.0)
    assert found["uncertainty"]["length_spearman_random_words"] == pytest.approx(-1.0)
    assert found["uncertainty"]["level_partial"] is None
    assert "no variation" in found["reasons"]["uncertainty.level_partial"]
    assert found["uncertainty"]["wordy_general_rate"] == 0.0
    passed = {claim.name: claim.passed for claim in claims(found)}
    assert passed["uncertainty.length"] is False
    assert passed["uncertainty.generality"] is False


def test_a_guessing_model_is_at_chance() -> None:
    found = evaluate(Model("guesses"), World(), baseline=Model("reads"), seed=1).metrics
    assert found["retrieval"]["t2a"]["r10"] < 0.5
    walk = found["traversal"]["oracle"]
    assert walk["precision"] == pytest.approx(walk["chance"], abs=0.08)
    passed = {claim.name: claim.passed for claim in claims(found)}
    assert not passed["retrieval"]
    assert not passed["traversal.oracle"]


def test_repeats_exactly_and_leaves_global_random_numbers_alone(reading: dict[str, Any]) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = evaluate(Model("reads"), World(), baseline=Model("guesses"), seed=1).metrics
    assert torch.equal(before, torch.get_rng_state())
    assert again == reading


def test_without_baseline_and_without_chains_there_are_reasons() -> None:
    found = evaluate(Model("reads"), World(chains=False), seed=1).metrics
    assert found["baseline"] == {"retrieval": None, "traversal": None}
    assert found["reasons"]["baseline.retrieval"] == "no baseline was given"
    assert "chain" in found["reasons"]["traversal"]
    assert found["uncertainty"]["by_level"] is None
    assert found["inclusion"]["audio"]["location_baseline"] is None
    assert set(nulls(found)) == set(found["reasons"])
    listed = claims(found)
    assert not any(claim.passed for claim in listed if claim.name.startswith(("traversal", "inclusion", "retrieval")))
    assert "no baseline was given" in next(claim.detail for claim in listed if claim.name == "retrieval")


class Settings:
    class model:
        score = "dot"


def test_a_deterministic_model_has_no_uncertainty_to_report() -> None:
    model = Model("reads")
    model.config = Settings
    assert score_of(model) == "dot"
    found = evaluate(model, World(), baseline=Model("guesses")).metrics
    assert found["uncertainty"] is None
    assert found["inclusion"] is None
    assert "deterministic" in found["reasons"]["uncertainty"]
    assert found["traversal"]["label_free"]["precision"] > found["traversal"]["label_free"]["chance"]
    assert not any(
        claim.passed for claim in claims(found) if claim.name.startswith(("uncertainty", "risk", "inclusion"))
    )


def test_dev_retrieval_is_the_retrieval_section(reading: dict[str, Any]) -> None:
    section = {key: value for key, value in reading["retrieval"].items() if key != "above_chance"}
    assert evaluate_retrieval(Model("reads"), World()) == section


def test_evidence_for_the_plots() -> None:
    evidence = evaluate(Model("reads"), World(), baseline=Model("guesses"), seed=1).evidence
    assert evidence.sweep["audio"]["ratio"][0] == 0.0
    assert evidence.sweep["audio"]["ratio"] == sorted(evidence.sweep["audio"]["ratio"])
    assert evidence.sweep["audio"]["mean"] == sorted(evidence.sweep["audio"]["mean"])
    assert len(evidence.walks) == 3
    for walk in evidence.walks:
        assert walk.steps[0].first == 0.0
        assert walk.steps[-1].last == 1.0
        assert len(walk.chain) == 4
    assert [w.precision for w in evidence.walks] == sorted((w.precision for w in evidence.walks), reverse=True)
    assert evidence.risk["t2a"].hit_rate[-1] == 1.0
    assert len(evidence.captions["u"]) == len(evidence.captions["level"]) > 50


def test_masked_samples_are_bounded_and_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prolap.evaluation.embeddings.MASKED_SAMPLES", 15)
    monkeypatch.setattr("prolap.evaluation.embeddings.BATCH", 7)
    found = embed_sounds([Model("reads")], World(), MaskConfig(), seed=2)[0]
    rows = rows_to_mask(CLIPS, 2)
    assert len(set(rows.tolist())) == 15
    assert torch.equal(found.rows, rows)
    assert found.plain.mean.shape == (CLIPS, DIM)
    x, masked, kept = found.level(0)
    assert torch.equal(x.mean, found.plain.mean[rows[kept]])
    assert torch.equal(x.mean, masked.mean), "this model keeps the mean, so a mismatched row would show"
    assert_same(masked.logvar[:, 0] - x.logvar[:, 0], 3 * found.share[0][kept], terms=4, scale=largest(masked.logvar))
    assert bool((found.share[1] >= found.share[0]).all())


def test_too_few_clips_is_an_error() -> None:
    class One(World):
        def __len__(self) -> int:
            return 1

    with pytest.raises(ValueError, match="at least 2"):
        evaluate(Model("reads"), One())


def test_shared_captions_are_counted_and_their_policy_is_stated(capsys: pytest.CaptureFixture[str]) -> None:
    class Shared(World):
        def evaluation_captions(self, i: int) -> list[Caption]:
            return [self.captions(i)[4]]  # of level 2, which two clips share

    strict, alike = (
        evaluate(Model("reads"), Shared(), same_text=policy).metrics for policy in ("negative", "positive")
    )
    repeats = strict["retrieval"]["same_text"]
    assert {key: repeats[key] for key in ("positive", "captions", "distinct", "shared")} == {
        "positive": False,
        "captions": CLIPS,
        "distinct": CLIPS // 2,
        "shared": CLIPS,
    }
    assert repeats["ceiling"] == {"t2a": {"r1": 0.5, "r5": 1.0, "r10": 1.0}, "a2t": {"r1": 0.0, "r5": 1.0, "r10": 1.0}}
    assert alike["retrieval"]["same_text"]["positive"] is True
    for way in ("t2a", "a2t"):
        assert strict["retrieval"][way]["r1"] <= repeats["ceiling"][way]["r1"] < alike["retrieval"][way]["r1"]
    assert "R@1 is at most T->A 50.0, A->T 0.0 %" in repeated_captions(strict["retrieval"])
    assert "--same-text positive" in repeated_captions(alike["retrieval"])


def test_progress_names_each_work_once(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(True):
        evaluate(Model("reads"), World(chains=False))
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert len(lines) == len(set(lines)), lines
