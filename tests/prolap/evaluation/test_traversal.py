from __future__ import annotations

import numpy as np
import pytest
import torch

from prolap.evaluation.hierarcaps import read_hierarcaps, script_traversal
from prolap.evaluation.traversal import (
    containment_roots,
    label_free_root,
    oracle_root,
    score_paths,
    starts,
    traverse,
    walk,
)
from prolap_kernels import Gaussian, pairwise_score
from prolap_kernels.search import WORKSPACE
from tests.tolerances import assert_same, likely


def gaussians(n: int, dim: int = 5, seed: int = 0, shift: float = -2.0) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=-1)
    return Gaussian(mean, torch.randn(n, dim, generator=generator) + shift)


def brute_walk(start: np.ndarray, root: np.ndarray, captions: np.ndarray, points: int) -> list[list[int]]:
    out = []
    for i, s in enumerate(start):
        r = root if root.ndim == 1 else root[i]
        line = [(1 - t) * s + t * r for t in np.linspace(0, 1, points)]
        out.append([int(np.argmax(captions @ (p / np.linalg.norm(p)))) for p in line])
    return out


@pytest.mark.parametrize("own_root", [False, True])
def test_walk_retrieves_what_scoring_every_point_retrieves(own_root: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    start, captions = gaussians(30).mean.double(), gaussians(400, seed=1).mean.double()
    root = gaussians(30, seed=2).mean.double()
    root = root if own_root else root[0]
    monkeypatch.setattr("prolap.evaluation.traversal._BLOCK", 3000)
    found = walk(start, root, captions)
    assert found.shape == (30, 51)
    assert found.tolist() == brute_walk(start.numpy(), root.numpy(), captions.numpy(), 51)
    assert np.mean([len(set(row)) for row in found.tolist()]) > 3, "paths through several captions, or nothing is shown"


def test_walk_breaks_ties_by_the_lower_index() -> None:
    captions = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = walk(captions[2:3], captions[3], captions, points=5)
    assert found.tolist() == [[1, 1, 0, 0, 0]]


def test_known_path_on_a_circle() -> None:
    # Captions 0..3 every 30 degrees from the start to the root, far ones on the other side.
    angle = torch.deg2rad(torch.tensor([0.0, 30.0, 60.0, 90.0, 180.0, 270.0]))
    captions = Gaussian(torch.stack([angle.cos(), angle.sin()], 1), torch.zeros(6, 2))
    found = traverse(
        np.array([0, 4]), captions.mean[3], captions, [10, 11, 12, 13, 14, 15], [(13, 12, 11, 10), (13, 12, 11, 14)]
    )
    assert sorted(set(found.path[0].tolist())) == [0, 1, 2, 3]
    assert found.path[0, 0] == 0
    assert found.path[0, -1] == 3
    assert found.precision[0] == found.recall[0] == 1.0
    assert found.hits[0].tolist() == [1.0] * 4


def test_paraphrases_are_one_node() -> None:
    path = np.array([[0, 1, 2, 3], [4, 4, 5, 5]])
    node = [7, 7, 8, 8, 9, 1]
    found = score_paths(path, node, [(8, 7, 5, 6), (1, 2, 3, 4)])
    assert found.precision.tolist() == [1.0, 0.5]
    assert found.recall.tolist() == [0.5, 0.25]
    assert found.hits.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]


def test_chance_is_the_mean_over_all_other_chains() -> None:
    rng = np.random.default_rng(0)
    node = rng.integers(0, 12, 60)
    path = rng.integers(0, 60, (15, 9))
    chains = [tuple(rng.permutation(12)[:4].tolist()) for _ in range(15)]
    found = score_paths(path, node, chains)
    met = [set(node[row].tolist()) for row in path]
    brute = [np.mean([len(met[i] & set(chains[j])) / len(met[i]) for j in range(15) if j != i]) for i in range(15)]
    assert found.chance == pytest.approx(brute)
    assert found.metrics()["chance"] == pytest.approx(np.mean(brute))
    assert found.metrics()["precision"] == pytest.approx(
        np.mean([len(m & set(c)) / len(m) for m, c in zip(met, chains, strict=True)])
    )
    assert np.mean(found.metrics()["recall_by_level"]) == pytest.approx(found.metrics()["recall"])


def test_a_path_that_ignores_the_sound_is_no_better_than_chance() -> None:
    rng = np.random.default_rng(1)
    chains = [(0, 1 + i % 3, 4 + i % 9, 100 + i) for i in range(90)]
    node = np.array([0, 1, 4, 100])
    found = score_paths(np.tile(np.arange(4), (90, 1)), node, [chains[i] for i in rng.permutation(90)])
    assert found.precision.mean() == pytest.approx(found.chance.mean(), abs=0.02)
    assert found.precision.mean() > 0.25, "popular nodes are met by anyone"


def test_label_free_root_is_the_argmax_of_mean_negative_kl() -> None:
    audio, captions = gaussians(40), gaussians(70, seed=3)
    wanted = pairwise_score(
        Gaussian(*(v.double() for v in audio)), Gaussian(*(v.double() for v in captions)), score="kl"
    )
    assert label_free_root(audio, captions) == int(wanted.mean(0).argmax())
    still = Gaussian(captions.mean, torch.zeros_like(captions.logvar))
    calm = Gaussian(audio.mean, torch.zeros_like(audio.logvar))
    distance = torch.cdist(audio.mean.double(), captions.mean.double()).square().mean(0)
    assert label_free_root(calm, still) == int(distance.argmin()), "without variances it is the least mean distance"


def test_label_free_root_does_not_depend_on_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    audio, captions = gaussians(40), gaussians(70, seed=3)
    whole = label_free_root(audio, captions)
    for elements in (1, 35, 60):
        monkeypatch.setattr("prolap.evaluation.traversal._BLOCK", elements)
        assert label_free_root(audio, captions) == whole


def test_label_free_root_survives_tiny_variances() -> None:
    audio, captions = gaussians(20, shift=-25.0), gaussians(30, seed=5, shift=-25.0)
    wanted = pairwise_score(
        Gaussian(*(v.double() for v in audio)), Gaussian(*(v.double() for v in captions)), score="kl"
    )
    assert label_free_root(audio, captions) == int(wanted.mean(0).argmax())


def test_oracle_root_is_the_unit_mean_of_the_most_general_level() -> None:
    captions = gaussians(6)
    root = oracle_root(captions, [0, 3, 0, 1, 2, 3])
    wanted = (captions.mean[0] + captions.mean[2]).double()
    assert_same(root, wanted / wanted.norm(), terms=likely(len(wanted)) + 4, dtype=torch.float32)
    with pytest.raises(ValueError, match="level holds no 0"):
        oracle_root(captions, [1, 2, 3, 1, 2, 3])


def test_starts_use_the_models_own_score() -> None:
    audio, captions = gaussians(25), gaussians(60, seed=4, shift=-1.0)
    for score in ("csd", "dot"):
        assert (
            starts(audio, captions, score=score).tolist()
            == pairwise_score(audio, captions, score=score).argmax(1).tolist()
        )
    assert starts(audio, captions, score="csd").tolist() != starts(audio, captions, score="dot").tolist()


@pytest.mark.parametrize("workspace", [2000, 30_000, WORKSPACE["cpu"]])
def test_equal_captions_are_met_by_the_lower_index(workspace: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words under two nodes are two captions with one embedding."""
    monkeypatch.setitem(WORKSPACE, "cpu", workspace)
    audio, captions = gaussians(25, dim=33), gaussians(60, dim=33, seed=4)
    twice = captions.rows(torch.arange(120) % 60)
    for score in ("csd", "dot", "csd_distance"):
        assert starts(audio, twice, score=score).tolist() == starts(audio, captions, score=score).tolist()
    assert containment_roots(audio, twice).tolist() == containment_roots(audio, captions).tolist()


def test_containment_root_is_each_sounds_own() -> None:
    audio, captions = gaussians(25), gaussians(60, seed=4)
    wanted = pairwise_score(audio, captions, score="containment").argmax(1)
    assert containment_roots(audio, captions).tolist() == wanted.tolist()


def test_hierarcaps_file_and_the_public_form(tmp_path) -> None:
    file = tmp_path / "chains.csv"
    file.write_text(
        'url,captions\na.wav,"sound => dog => dog barks => a dog barks twice"\na.wav,"noise => animal => x => y"\n'
    )
    chains = read_hierarcaps(file)
    assert chains == {"a.wav": [("sound", "dog", "dog barks", "a dog barks twice"), ("noise", "animal", "x", "y")]}
    file.write_text("url,captions\na.wav,only => three => here\n")
    with pytest.raises(ValueError, match="line 2: 3 captions"):
        read_hierarcaps(file)
    file.write_text("url,text\na.wav,x\n")
    with pytest.raises(ValueError, match="columns"):
        read_hierarcaps(file)


def test_public_form_matches_strings_of_any_reference() -> None:
    angle = torch.deg2rad(torch.tensor([0.0, 30.0, 60.0, 90.0, -60.0]))
    mean = torch.stack([angle.cos(), angle.sin()], 1)
    # The sound lies off the narrow captions; only the wide one at 90 degrees holds it, so that is its root.
    captions = Gaussian(mean[:4], torch.tensor([[-9.0], [-9.0], [-9.0], [1.0]]).expand(4, 2))
    audio = Gaussian(mean[4:], torch.full((1, 2), -8.0))
    assert containment_roots(audio, captions).tolist() == [3]
    references = [[("q", "b", "c", "d"), ("a", "r", "s", "t")]]
    found = script_traversal(audio, captions, ["d", "c", "b", "a"], references, score="dot")
    assert found == {"precision": 1.0, "recall": 1.0, "recall_by_level": [1.0] * 4}
    reworded = script_traversal(audio, captions, ["d", "C", "b", "A"], references, score="dot")
    assert reworded == {"precision": 0.5, "recall": 0.5, "recall_by_level": [0.0, 1.0, 0.0, 1.0]}
