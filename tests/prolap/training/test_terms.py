from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from prolap.data.batch import Batch
from prolap.training.terms import (
    TERMS,
    InclusionConfig,
    Logit,
    loss_config,
)
from prolap.training.terms.masked_pairs import MaskedPairsConfig
from prolap.training.terms.pairs import PairsConfig
from prolap.training.terms.repulsion import RepulsionConfig
from prolap.training.terms.vib import VibConfig
from prolap.training.views import Views, pair_ids
from prolap_kernels import Gaussian, inclusion_score, pairwise_score
from tests.tolerances import assert_same

B, D, ROWS = 8, 6, 3
TERMS_OF_SUMS = 20 * 24
"""Roundings: sums over 8 x 8 pairs or 24 copies, of logits over 6 dimensions, each of some 20 operations."""
SCALE, BIAS = torch.tensor(4.0), torch.tensor(-2.0)
LOGIT = Logit("csd", SCALE, BIAS)
CHAIN = torch.tensor([[0, 0, i // 2, i] for i in range(B)])
LEVEL = torch.tensor([0, 3, 2, 2, 1, 3, 0, -1])


def gaussian(seed: int, rows: int = B) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean = normalize(torch.randn(rows, D, generator=generator, dtype=torch.float64), dim=-1)
    logvar = torch.randn(rows, D, generator=generator, dtype=torch.float64) - 3
    return Gaussian(mean.requires_grad_(), logvar.requires_grad_())


def views(shared: str = "positive", audio_copies: int = 2, text_copies: int = 3) -> Views:
    empty = torch.zeros(B, 1)
    batch = Batch(empty, empty, empty, torch.arange(B) + 40, CHAIN, LEVEL)
    links = torch.tensor([[True, True, True], [True, False, True], [True, True, False]])
    return Views(
        gaussian(0), gaussian(1), batch,
        [gaussian(10 + k, ROWS) for k in range(audio_copies)], [gaussian(20 + k, ROWS) for k in range(text_copies)],
        links[:audio_copies], links[:text_copies], shared,
    )  # fmt: skip


def signs(view: Views) -> Tensor:
    """[B, B] dense: +1 where clip i and caption j belong together, 0 left out, else -1."""
    out = torch.zeros(B, B)
    for at, x, y, _ in pair_ids(view.batch, view.shared).blocks(torch.arange(B), torch.arange(B)):
        counted = (x >= 0)[:, None] & (y >= 0)[None, :]
        out[:, at] = torch.where(counted, torch.where(x[:, None] == y[None, :], 1.0, -1.0), 0.0)
    return out


def weights(view: Views) -> Tensor:
    """[B]: one over the mean number of positives of the captions of a level, if shared captions are positive."""
    out, positives = torch.ones(B, dtype=torch.float64), (signs(view) > 0).sum(dim=0).double()
    for level in LEVEL.unique() if view.shared == "positive" else ():
        out[level == LEVEL] = 1 / positives[level == LEVEL].mean()
    return out


def dense(x: Gaussian, y: Gaussian, sign: Tensor, weight: Tensor, score: str = "csd") -> Tensor:
    logit = SCALE * pairwise_score(x, y, score=score) + BIAS
    return (torch.where(sign != 0, -logsigmoid(sign * logit), 0.0) * weight).sum()


def cat(*parts: Gaussian) -> Gaussian:
    return Gaussian(torch.cat([p.mean for p in parts]), torch.cat([p.logvar for p in parts]))


@pytest.mark.parametrize("shared", ["keep", "ignore", "positive"])
@pytest.mark.parametrize("score", ["csd", "dot"])
def test_pairs_is_the_sum_over_the_pair_matrix(shared: str, score: str) -> None:
    view = views(shared)
    sign = signs(view)
    expected = dense(view.audio, view.text, sign, weights(view), score) / (sign != 0).any(dim=1).sum()
    loss = TERMS["pairs"].loss(view, PairsConfig(), LOGIT._replace(score=score))
    assert_same(loss, expected, terms=TERMS_OF_SUMS, dtype=torch.float64)
    mine, theirs = (torch.autograd.grad(value, view.audio.mean)[0] for value in (loss, expected))
    assert_same(mine, theirs, terms=TERMS_OF_SUMS, dtype=torch.float64)


@pytest.mark.parametrize("shared", ["keep", "positive"])
def test_masked_copies_meet_the_other_modality_as_their_own_rows_do(shared: str) -> None:
    view = views(shared)
    sign, sound, text = signs(view), torch.arange(ROWS).repeat(2), torch.arange(ROWS).repeat(3)
    audio = dense(cat(*view.masked_audio), view.text, sign[sound], weights(view)) / len(sound)
    captions = dense(view.audio, cat(*view.masked_text), sign[:, text], weights(view)[text]) / len(text)
    loss = TERMS["masked_pairs"].loss(view, MaskedPairsConfig(weight=1), LOGIT)
    assert_same(loss, (audio + captions) / 2, terms=TERMS_OF_SUMS, dtype=torch.float64)


def test_softmax_is_cross_entropy_both_ways() -> None:
    view = views("keep")
    logit = SCALE * view.audio.mean @ view.text.mean.T
    target = torch.arange(B)
    expected = torch.nn.functional.cross_entropy(logit, target) + torch.nn.functional.cross_entropy(logit.T, target)
    loss = TERMS["pairs"].loss(view, PairsConfig(objective="softmax"), LOGIT._replace(score="dot"))
    assert_same(loss, expected / 2, terms=TERMS_OF_SUMS, dtype=torch.float64)


def test_cross_inclusion_puts_audio_inside_text() -> None:
    view = views()
    expected = -logsigmoid(0.3 * inclusion_score(view.audio, view.text)).mean()
    loss = TERMS["cross_inclusion"].loss(view, InclusionConfig(scale=0.3), LOGIT)
    assert_same(loss, expected, terms=TERMS_OF_SUMS, dtype=torch.float64)
    loss.backward()
    assert view.audio.logvar.grad.sum() > 0  # descent makes the audio narrower
    assert view.text.logvar.grad.sum() < 0


def test_hierarchy_averages_valid_links_and_modalities() -> None:
    view = views()
    means = []
    for full, copies, valid in (
        (view.audio, view.masked_audio, view.audio_links),
        (view.text, view.masked_text, view.text_links),
    ):
        chain = [full.rows(slice(ROWS)), *copies]
        scores = [inclusion_score(a, b) for a, b in zip(chain, chain[1:], strict=False)]
        means.append(-logsigmoid(torch.stack(scores))[valid].mean())
    loss = TERMS["hierarchy"].loss(view, InclusionConfig(), LOGIT)
    assert_same(loss, (means[0] + means[1]) / 2, terms=TERMS_OF_SUMS, dtype=torch.float64)
    alone = TERMS["hierarchy"].loss(views(text_copies=0), InclusionConfig(), LOGIT)
    assert_same(alone, means[0], terms=TERMS_OF_SUMS, dtype=torch.float64)


@pytest.mark.parametrize("name", ["cross_inclusion", "hierarchy"])
@pytest.mark.parametrize("detach", [False, True])
def test_detach_mean_moves_variances_only(name: str, detach: bool) -> None:
    view = views()
    TERMS[name].loss(view, InclusionConfig(detach_mean=detach), LOGIT).backward()
    assert (view.audio.mean.grad is None) == detach
    assert view.audio.logvar.grad.abs().sum() > 0


def test_vib_is_the_mean_of_both_modalities() -> None:
    view = views()
    kl = [0.5 * (z.mean**2 + z.logvar.exp() - z.logvar - 1).mean() for z in (view.audio, view.text)]
    assert_same(
        TERMS["vib"].loss(view, VibConfig(), LOGIT), (kl[0] + kl[1]) / 2, terms=TERMS_OF_SUMS, dtype=torch.float64
    )


def repel(masked: Gaussian, others: Gaussian, sign: Tensor) -> Tensor:
    return dense(masked, others, torch.where(sign < 0, -1.0, 0.0), torch.ones(())) / len(sign)


def by_index(rows: int, copies: int, others: int) -> Tensor:
    source = torch.arange(rows).repeat(copies)
    return torch.where(source[:, None] == torch.arange(others)[None, :], 1.0, -1.0)


@pytest.mark.parametrize("shared", ["keep", "positive"])
def test_repulsion_across_spares_what_belongs_together(shared: str) -> None:
    view = views(shared)
    sign = signs(view)
    audio = repel(cat(*view.masked_audio), view.text, sign[:ROWS].repeat(2, 1))
    text = repel(cat(*view.masked_text), view.audio, sign.T[:ROWS].repeat(3, 1))
    loss = TERMS["repulsion"].loss(view, RepulsionConfig(partner="cross"), LOGIT)
    assert_same(loss, (audio + text) / 2, terms=TERMS_OF_SUMS, dtype=torch.float64)


def test_repulsion_from_the_same_modality() -> None:
    view = views("keep")
    audio = repel(cat(*view.masked_audio), view.audio, by_index(ROWS, 2, B))
    text = repel(cat(*view.masked_text), view.text, by_index(ROWS, 3, B))
    loss = TERMS["repulsion"].loss(view, RepulsionConfig(partner="same"), LOGIT)
    assert_same(loss, (audio + text) / 2, terms=TERMS_OF_SUMS, dtype=torch.float64)


def test_repulsion_within_a_level() -> None:
    view = views("keep")
    sides = []
    for copies in (view.masked_audio, view.masked_text):
        sides.append(torch.stack([repel(z, z, by_index(ROWS, 1, ROWS)) for z in copies]).mean())
    loss = TERMS["repulsion"].loss(view, RepulsionConfig(partner="level"), LOGIT)
    assert_same(loss, (sides[0] + sides[1]) / 2, terms=TERMS_OF_SUMS, dtype=torch.float64)


def test_repulsion_spares_paraphrases_of_a_shared_caption() -> None:
    view = views("positive")
    batch = replace(view.batch, level=torch.tensor([0, 3, 2, 2, 1, 3, 0, -1]))
    keep, positive = (
        TERMS["repulsion"].loss(replace(view, batch=batch, shared=shared), RepulsionConfig(partner="same"), LOGIT)
        for shared in ("keep", "positive")
    )
    assert positive < keep  # rows 0 and 6 drew captions of one node


PARTNER = torch.tensor([4, 0, 7])


def mixed_views() -> Views:
    view = views("keep", text_copies=1)
    links = torch.tensor([[True, False, True], [True, False, False]]), torch.tensor([[True, True, False]])
    return replace(view, audio_links=links[0], text_links=links[1], partner=PARTNER)


def test_sources_lie_inside_mixtures_and_purer_ones_inside_more_even_ones() -> None:
    view = mixed_views()
    (one, two), (joined,) = view.masked_audio, view.masked_text
    first, second = view.audio.rows(slice(ROWS)), view.text.rows(slice(ROWS))
    scores = torch.stack([inclusion_score(first, one), inclusion_score(one, two)])
    expected = [
        -logsigmoid(scores)[view.audio_links].mean(),
        -logsigmoid(inclusion_score(view.audio.rows(PARTNER), two))[[0, 2]].mean(),  # row 1 is not mixed on any level
        -logsigmoid(inclusion_score(second, joined))[:2].mean(),  # row 2 joins two captions that are alike
        -logsigmoid(inclusion_score(view.text.rows(PARTNER), joined))[:2].mean(),
    ]
    loss = TERMS["hierarchy"].loss(view, InclusionConfig(), LOGIT)
    assert_same(loss, torch.stack(expected).mean(), terms=TERMS_OF_SUMS, dtype=torch.float64)
    loss.backward()
    for source, mixture in ((view.audio, two), (view.text, joined)):
        assert source.logvar.grad[PARTNER[0]].sum() > 0  # descent narrows the sources
        assert mixture.logvar.grad.sum() < 0


def test_mixed_sounds_lie_inside_joined_captions() -> None:
    view = mixed_views()
    pairs = [(view.audio, view.text), *((level, view.masked_text[0]) for level in view.masked_audio)]
    expected = torch.stack([-logsigmoid(inclusion_score(*pair)).mean() for pair in pairs]).mean()
    loss = TERMS["cross_inclusion"].loss(view, InclusionConfig(), LOGIT)
    assert_same(loss, expected, terms=TERMS_OF_SUMS, dtype=torch.float64)


def test_mixtures_meet_joined_captions_alone() -> None:
    view = mixed_views()
    sign = torch.where(torch.eye(ROWS) > 0, 1.0, -1.0).repeat(2, 1)
    expected = dense(cat(*view.masked_audio), view.masked_text[0], sign, torch.ones(())) / (2 * ROWS)
    options = MaskedPairsConfig(weight=1), LOGIT
    assert_same(TERMS["masked_pairs"].loss(view, *options), expected, terms=TERMS_OF_SUMS, dtype=torch.float64)
    turned = replace(view, partner=torch.tensor([1, 0, 7]))  # rows 0 and 1 are the same two clips
    sign[0, 1] = sign[1, 0] = sign[3, 1] = sign[4, 0] = 1.0
    expected = dense(cat(*view.masked_audio), view.masked_text[0], sign, torch.ones(())) / (2 * ROWS)
    assert_same(TERMS["masked_pairs"].loss(turned, *options), expected, terms=TERMS_OF_SUMS, dtype=torch.float64)


def test_mixtures_are_not_repelled_and_no_bottleneck_sees_them() -> None:
    view = mixed_views()
    with pytest.raises(ValueError, match="repulsion: got mixtures, want masked copies"):
        TERMS["repulsion"].loss(view, RepulsionConfig(), LOGIT)
    TERMS["vib"].loss(view, VibConfig(), LOGIT).backward()
    assert all(copy.logvar.grad is None for copy in (*view.masked_audio, *view.masked_text))


@pytest.mark.parametrize("name", sorted(TERMS))
def test_every_term_gives_finite_gradients(name: str) -> None:
    view = views()
    TERMS[name].loss(view, getattr(loss_config(), name), LOGIT).backward()
    gradients = [part.grad for z in (view.audio, view.text) for part in z if part.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)
    assert sum(g.abs().sum() for g in gradients) > 0
