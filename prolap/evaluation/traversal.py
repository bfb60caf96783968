"""Audio traversal: walk from the caption nearest to a sound to a root and see which meanings lie on the way.

Which similarity. The points of the walk are means without a variance, and each retrieves the caption of the largest
dot product of means, for a probabilistic model and its deterministic baseline alike. The alternative, `csd`, would take
half of each caption's own trace away, so wide captions, which are just the general ones the walk is to meet, would be
penalised by the very property that the model is to learn, and the two models would be asked different questions.
(Our reading: the papers say "nearest".) Only the start, the nearest caption to the sound, uses the model's own
retrieval score. Log-variance therefore enters by the label-free root alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prolap_kernels import Gaussian, pairwise_topk

POINTS = 51
LEVELS = 4
_BLOCK = 4_000_000  # scores, or elements of embeddings in float64, held at a time

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1, eps=1e-300)


def starts(audio: Gaussian, captions: Gaussian, *, score: str = "csd") -> Indices:
    """Index of the caption nearest to each sound by the model's retrieval score; ties by the lower index.

    Scores are those of `prolap.evaluation.retrieval`, float64 rounded to float32: equal captions tie.
    """
    return pairwise_topk(audio, captions, 1, score=score, precise=True)[1][:, 0].cpu().numpy()


def label_free_root(audio: Gaussian, captions: Gaussian) -> int:
    """argmax_c mean_a -KL(a || c), the caption that holds all sounds at the smallest mean cost. Uses no label.

    In closed form, without the matrix: mean_a KL = 1/2 sum_d [l_c - mean l_a + (mean v_a + var mu_a +
    (mean mu_a - mu_c)^2) / v_c - 1], in float64. A deterministic baseline gives equal log-variances of 0, and the same
    line becomes the largest mean of -(squared distance) / 2: the caption nearest to the mean sound.
    """
    block = max(1, _BLOCK // max(1, audio.mean.shape[1]))
    centre = torch.stack([part.double().sum(0) for part in audio.mean.split(block)]).sum(0) / len(audio.mean)
    spread = torch.zeros_like(centre)
    for mean, logvar in zip(audio.mean.split(block), audio.logvar.split(block), strict=True):
        spread += logvar.double().exp().sum(0) + (mean.double() - centre).square().sum(0)
    spread /= len(audio.mean)
    cost = []
    for mean, logvar in zip(captions.mean.split(block), captions.logvar.split(block), strict=True):
        width = logvar.double()
        # mean l_a and the -1 are the same for every caption.
        cost.append((width + (spread + (centre - mean.double()).square()) * torch.exp(-width)).sum(1))
    return int(torch.cat(cost).argmin())


def oracle_root(captions: Gaussian, level: Sequence[int] | Indices) -> Tensor:
    """[D] unit mean of the captions of level 0 (the papers' level 1). Uses the level labels: an upper reference."""
    chosen = torch.from_numpy(np.asarray(level) == 0)
    if not bool(chosen.any()):
        raise ValueError("level holds no 0; the oracle root needs captions of the most general level.")
    return _unit(captions.mean[chosen].double().mean(0))


def containment_roots(audio: Gaussian, captions: Gaussian) -> Indices:
    """For each sound the caption of the largest log int p_audio^2 q_caption, the public script's root; ties as above."""
    return pairwise_topk(audio, captions, 1, score="containment", precise=True)[1][:, 0].cpu().numpy()


def walk(start: Tensor, root: Tensor, captions: Tensor, *, points: int = POINTS) -> Indices:
    """Caption retrieved at each point (1-t) start + t root, t = 0 .. 1 in `points` even steps: [N, points].

    start [N, D], root [D] or [N, D], captions [M, D] means. Points are renormalised, which scales all similarities of
    a point alike and so never changes its nearest caption. A caption can only win somewhere if no other is at least as
    near to both ends, so each walk is scored against that small front, exactly. Ties go to the lower index.

    Beyond its arguments, the result and one float64 copy of `captions` it holds a few arrays of `_BLOCK` scores.
    """
    captions = captions.double()
    time = np.linspace(0.0, 1.0, points)[:, None]
    shared = root.ndim == 1
    far = (root.double().reshape(-1, root.shape[-1])[:1] @ captions.T).numpy()
    order = np.argsort(-far, axis=1, kind="stable")
    out = np.empty((len(start), points), dtype=np.int64)
    block = max(1, _BLOCK // max(1, len(captions)))
    for first in range(0, len(start), block):
        near = (start[first : first + block].double() @ captions.T).numpy()
        if not shared:
            far = (root[first : first + block].double() @ captions.T).numpy()
            order = np.argsort(-far, axis=1, kind="stable")
        front = np.take_along_axis(near, np.broadcast_to(order, near.shape), axis=1)
        front = front >= np.maximum.accumulate(front, axis=1)
        for row in range(len(near)):
            here = 0 if shared else row
            kept = np.sort(order[here][front[row]])
            values = (1 - time) * near[row, kept] + time * far[here, kept]
            out[first + row] = kept[values.argmax(1)]
    return out


@dataclass(frozen=True)
class Traversal:
    """What the walks of all sounds met. Arrays have one row a sound."""

    path: Indices
    """[N, points] caption index at each point."""
    precision: Floats
    """[N] |R_i & C_i| / |R_i|."""
    chance: Floats
    """[N] mean over j != i of |R_i & C_j| / |R_i|."""
    recall: Floats
    """[N] |R_i & C_i| / 4."""
    hits: Floats
    """[N, 4] 1 where the node of that level was met."""

    def metrics(self) -> dict[str, object]:
        """`precision`, `recall`, `chance`, `recall_by_level` (general to specific), means over the sounds."""
        return {
            "precision": float(self.precision.mean()),
            "recall": float(self.recall.mean()),
            "chance": float(self.chance.mean()),
            "recall_by_level": self.hits.mean(0).tolist(),
        }


def score_paths(path: Indices, node: Sequence[int] | Indices, chains: Sequence[Sequence[int]]) -> Traversal:
    """R_i = distinct semantic nodes on path i, C_i = the clip's chain; precision, chance, recall, hits per level.

    node [M] is the meaning of each caption: paraphrases share it, so that a path is not punished for the wording it
    met. Chance is the exact mean over all ordered pairs i != j of |R_i & C_j| / |R_i|: it keeps the popularity of
    nodes and the root, which a random walk would not.
    """
    if len(path) < 2:
        raise ValueError(f"path has {len(path)} rows; chance compares each path with other chains, 2 are needed.")
    if len(chains) != len(path) or any(len(chain) != LEVELS for chain in chains):
        raise ValueError(f"chains needs a chain of {LEVELS} nodes for each of the {len(path)} paths.")
    nodes = np.asarray(node)
    sets = [frozenset(chain) for chain in chains]
    popular: dict[int, int] = {}
    for chain in sets:
        for v in chain:
            popular[v] = popular.get(v, 0) + 1
    precision, chance, recall, hits = [], [], [], []
    for row, chain, levels in zip(path, sets, chains, strict=True):
        met = set(nodes[row].tolist())
        own = len(met & chain)
        precision.append(own / len(met))
        chance.append((sum(popular.get(v, 0) for v in met) - own) / (len(path) - 1) / len(met))
        recall.append(own / LEVELS)
        hits.append([float(v in met) for v in levels])
    return Traversal(path, np.array(precision), np.array(chance), np.array(recall), np.array(hits))


def traverse(
    start: Indices,
    root: Tensor,
    captions: Gaussian,
    node: Sequence[int] | Indices,
    chains: Sequence[Sequence[int]],
    *,
    points: int = POINTS,
) -> Traversal:
    """Walk from caption `start[i]` to `root` for every sound and score the paths."""
    begin = captions.mean[torch.from_numpy(np.asarray(start))]
    return score_paths(walk(begin, root, captions.mean, points=points), node, chains)
