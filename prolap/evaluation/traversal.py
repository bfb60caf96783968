"""Audio traversal: walk from the caption nearest to a sound to a root and see which meanings lie on the way.

Protocol: the papers' task on AudioCaps-HC, after HierarCaps (Alper and Averbuch-Elor, "Emergent visual-semantic
hierarchies in image-text representations", 2024) and ProLIP's public script. Ours counts meanings instead of strings
and compares with chance; `prolap.evaluation.hierarcaps` has the script's own form.

Which similarity. The points of the walk are means without a variance, and each retrieves the caption of the largest
dot product of means, for a probabilistic model and its deterministic baseline alike. (Our reading: the papers say
"nearest".) The alternative, `csd`, subtracts half of each caption's own trace. It would penalise wide captions, which
are the general ones that the walk should meet, and would ask the two models different questions. Only the start, the
caption nearest to the sound, uses the model's own retrieval score. Log-variance enters by the label-free root alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prolap.evaluation.captions import LEVELS, Pool, chained_clips
from prolap.evaluation.embeddings import NO_BASELINE, is_probabilistic, unit_variance
from prolap.evaluation.statistics import bootstrap, paired_bootstrap
from prolap_kernels import Gaussian, pairwise_topk

ROOTS = ("empty", "label_free", "oracle")
POINTS = 51
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
    """[N] the caption of the largest log int p_audio^2 q_caption, the public script's root; ties by the lower index."""
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
        """Means over the sounds of `precision`, `recall`, `chance` and `recall_by_level` (general to specific)."""
        return {
            "precision": float(self.precision.mean()),
            "recall": float(self.recall.mean()),
            "chance": float(self.chance.mean()),
            "recall_by_level": self.hits.mean(0).tolist(),
        }


def score_paths(path: Indices, node: Sequence[int] | Indices, chains: Sequence[Sequence[int]]) -> Traversal:
    """Precision, chance, recall and hits by level; R_i = distinct semantic nodes on path i, C_i = the clip's chain.

    node [M] is the meaning of each caption: paraphrases share it, so that a path is not punished for the wording it
    met. Chance is the exact mean over all ordered pairs i != j of |R_i & C_j| / |R_i|: it keeps the popularity of
    nodes and the root, which a random walk would not.
    """
    if len(path) < 2:
        raise ValueError(f"path has {len(path)} rows; chance compares each path with other chains and needs 2.")
    if len(chains) != len(path) or any(len(chain) != LEVELS for chain in chains):
        raise ValueError(f"chains needs a chain of {LEVELS} nodes for each of the {len(path)} paths.")
    nodes = np.asarray(node)
    sets = [frozenset(chain) for chain in chains]
    popularity = Counter(v for chain in sets for v in chain)
    precision, chance, recall, hits = [], [], [], []
    for row, chain, levels in zip(path, sets, chains, strict=True):
        met = set(nodes[row].tolist())
        own = len(met & chain)
        precision.append(own / len(met))
        chance.append((sum(popularity[v] for v in met) - own) / (len(path) - 1) / len(met))
        recall.append(own / LEVELS)
        hits.append([float(v in met) for v in levels])
    return Traversal(path, np.array(precision), np.array(chance), np.array(recall), np.array(hits))


def traverse(
    start: Indices, root: Tensor, captions: Gaussian, node: Sequence[int] | Indices, chains: Sequence[Sequence[int]]
) -> Traversal:
    """Walk from caption `start[i]` to `root` for every sound and score the paths."""
    begin = captions.mean[torch.from_numpy(np.asarray(start))]
    return score_paths(walk(begin, root, captions.mean), node, chains)


def traversal_section(
    data: Any, pool: Pool, score: str, sounds: Gaussian, captions: Gaussian, empty: Tensor
) -> tuple[dict[str, Any] | str, dict[str, Traversal]]:
    """Walks of every clip with a chain to each root, over the captions of the pool with a known node.

    sounds [clips, D], captions [M, D] those of the pool, empty [D] the mean of the empty caption. Also returns the walks.
    """
    rows, clips = pool.chained, chained_clips(data)
    if len(clips) < 2 or not len(rows):
        return f"fewer than 2 clips have a chain of {LEVELS} nodes", {}
    sounds, captions = sounds.rows(torch.tensor(clips)), captions.rows(torch.from_numpy(rows))
    if not is_probabilistic(score):
        sounds, captions = unit_variance(sounds), unit_variance(captions)
    level, node = pool.level[rows], pool.node[rows]
    chains: Sequence[Sequence[int]] = [data.chain(clip) for clip in clips]
    start, label_free = starts(sounds, captions, score=score), label_free_root(sounds, captions)
    roots = {"empty": empty, "label_free": captions.mean[label_free]}
    if (level == 0).any():
        roots["oracle"] = oracle_root(captions, level)
    walks = {name: traverse(start, root, captions, node, chains) for name, root in roots.items()}
    section: dict[str, Any] = dict.fromkeys(ROOTS, "no caption of the most general level is known")
    for name, traversal in walks.items():
        section[name] = {**traversal.metrics(), "n": len(clips), "captions": len(rows)}
    section["label_free"]["root_level"] = int(level[label_free])
    return section, walks


def traversal_comparison(model: Traversal, baseline: Traversal | None, seed: int) -> dict[str, object]:
    """Precision over chance, and that excess over the baseline's, both paired over the sounds."""
    excess = model.precision - model.chance
    above: object = NO_BASELINE
    if baseline is not None:
        above = paired_bootstrap(excess, baseline.precision - baseline.chance, seed=seed)._asdict()
    return {"above_chance": bootstrap(excess, seed=seed)._asdict(), "above_baseline": above}


@dataclass(frozen=True)
class Step:
    """A stretch of a walk on which captions of one meaning were met."""

    first: float
    last: float
    """t of its ends, 0 at the start of the walk and 1 at the root."""
    text: str
    level: int
    in_chain: bool
    """Whether the meaning is in the clip's chain."""


@dataclass(frozen=True)
class Walk:
    """The walk of one clip, in words."""

    name: str
    """Of the clip's file, or `clip` and its number where it has none."""
    precision: float
    steps: list[Step]
    chain: list[str]


def quartile_walks(traversal: Traversal, data: Any, pool: Pool) -> list[Walk]:
    """Three walks to show: the clips at the upper quartile, median and lower quartile of precision."""
    rows, clips = pool.chained, chained_clips(data)
    order = np.argsort(traversal.precision, kind="stable")
    time = np.linspace(0, 1, traversal.path.shape[1])
    walks = []
    for quantile in (0.75, 0.5, 0.25):
        index = int(order[round(quantile * (len(order) - 1))])
        chain, captions = data.chain(clips[index]), rows[traversal.path[index]]
        edges = np.flatnonzero(np.diff(pool.node[captions])) + 1
        steps = []
        # Paraphrases met one after the other are one step, shown by the first.
        for part in np.split(np.arange(len(time)), edges):
            caption = captions[part[0]]
            inside = bool(pool.node[caption] in chain)
            steps.append(Step(time[part[0]], time[part[-1]], pool.texts[caption], int(pool.level[caption]), inside))
        texts = [data.node_text(v) for v in chain]
        walks.append(Walk(_name(data, clips[index]), float(traversal.precision[index]), steps, texts))
    return walks


def _name(data: Any, clip: int) -> str:
    entries = getattr(data, "entries", None)
    return f"clip {clip}" if entries is None else PurePath(str(entries[clip].path)).name
