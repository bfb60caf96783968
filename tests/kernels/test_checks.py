"""Errors of bad input: one sentence that names the argument, what came and what is wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from prolap_kernels import (
    Gaussian,
    Inclusion,
    InfoNCELoss,
    PPCLLoss,
    Score,
    Vib,
    hierarchical_inclusion_loss,
    inclusion_loss,
    infonce_loss,
    mask_repulsive_loss,
    matched_losses,
    pairwise_loss,
    pairwise_rerank,
    pairwise_score,
    pairwise_topk,
    pointwise_objective,
    ppcl_loss,
    score_blocks,
    vib_loss,
)
from prolap_kernels.compat import ClosedFormSampledDistanceLoss, ProLIPLoss
from tests.kernels.common import gaussian

X, Y = gaussian(3, 2, 1), gaussian(4, 2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ppcl_loss(X.mean, Y, 1.0, 0.0),
            r"x must be a Gaussian\(mean, logvar\), because variances are used, got a torch.float64 tensor",
        ),
        (lambda: ppcl_loss([1], Y, 1.0, 0.0), r"x must be a Gaussian\(mean, logvar\) of two tensors, got list"),
        (
            lambda: ppcl_loss(Gaussian(X.mean[0], X.logvar[0]), Y, 1.0, 0.0),
            r"x.mean must be of shape \[N, D\] with D at least 1, got \[2\]",
        ),
        (
            lambda: ppcl_loss(Gaussian(X.mean, X.logvar[:2]), Y, 1.0, 0.0),
            r"x.logvar must be of mean's shape \[3, 2\], got \[2, 2\]",
        ),
        (lambda: ppcl_loss(Gaussian(X.mean.long(), X.logvar), Y, 1.0, 0.0), "x.mean must be float16.*got torch.int64"),
        (lambda: ppcl_loss(X, gaussian(4, 5), 1.0, 0.0), "y must have x's 2 dimensions, got 5"),
        (lambda: ppcl_loss(X, gaussian(4, 2, dtype=torch.float32), 1.0, 0.0), "y.mean must have x.mean's dtype"),
        (
            lambda: ppcl_loss(X, Y, torch.ones(2), 0.0),
            r"scale must be a finite number or a real tensor of one element, got a torch.float32 tensor of shape \[2\]",
        ),
        (lambda: ppcl_loss(X, Y, "10", 0.0), "scale must be a finite number or a real tensor of one element, got '10'"),
        (lambda: ppcl_loss(X, Y, 1.0, 0.0, x_id=torch.arange(3)), "y_id must be given where x_id is"),
        (lambda: ppcl_loss(X, Y, 1.0, 0.0, y_id=torch.arange(4)), "x_id must be given where y_id is"),
        (
            lambda: ppcl_loss(X, Y, 1.0, 0.0, x_id=torch.arange(4), y_id=torch.arange(4)),
            r"x_id must be of shape \[3\], got \[4\]",
        ),
        (
            lambda: ppcl_loss(X, Y, 1.0, 0.0, x_id=torch.rand(3), y_id=torch.arange(4)),
            "x_id must be a tensor of integers that int64 holds, got torch.float32",
        ),
        (lambda: ppcl_loss(X, Y, 1.0, 0.0, group=object()), "group must be None"),
        (lambda: ppcl_loss(X, Y, 1.0, 0.0, backend="cuda"), "backend must be one of 'reference', 'chunked', 'triton'"),
        (lambda: ppcl_loss(X, Y, 1.0, 0.0, backend="triton"), "backend 'triton' takes float16, bfloat16 or float32"),
        (lambda: pairwise_loss(X, Y, score="cosine"), "score must be one of .*got 'cosine'"),
        (lambda: pairwise_loss(X, Y, objective="sigmod"), "did you mean 'sigmoid'"),
        (
            lambda: pairwise_loss(X, Y, reduction="mean"),
            "reduction must be one of 'rows', 'pairs', 'sum', 'none', got 'mean'",
        ),
        (
            lambda: pairwise_loss(X, Y, objective="softmax", reduction="sum"),
            "reduction must be 'rows' for the objective 'softmax'",
        ),
        (lambda: pairwise_loss(X, Y, objective="softmax", bias=1.0), "bias must be 0.0 for the objective 'softmax'"),
        (lambda: pairwise_loss(X, Y, objective="softmax", negatives_only=True), "negatives_only must be False"),
        (lambda: infonce_loss(X, Y, 1.0, score="dott"), "did you mean 'dot'"),
        (lambda: mask_repulsive_loss(X, gaussian(4, 3), 1.0, 0.0), "must have .* 2 dimensions, got 3"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call()


NOTHING = (None, ["dot"], {}, "2", 1j, object(), np.ones(2), torch.ones(2, 2), X)
"""What is neither a name, a number nor a truth value."""
NUMBERS = (*NOTHING, True, math.nan, 10**400, 10**5000, np.complex64(1))
NAMES = (*NOTHING, 3, b"dot", "cosine")
DENSE = torch.ones(3, 2)
NOT_DENSE = (
    DENSE.to_sparse(), torch.nested.nested_tensor([DENSE, DENSE], layout=torch.jagged), DENSE.to("meta"), DENSE.to_mkldnn(),
    torch.empty_quantized([3, 2], torch.quantize_per_tensor(DENSE, 1.0, 0, torch.qint8)),
)  # fmt: skip
EVERY = [
    ("pairwise_loss", pairwise_loss, {"x": X, "y": X}),
    ("mask_repulsive_loss", mask_repulsive_loss, {"masked": X, "others": X, "scale": 1.0, "bias": 0.0}),
    ("infonce_loss", infonce_loss, {"x": X, "y": X, "scale": 1.0}),
    ("inclusion_loss", inclusion_loss, {"x": X, "y": X}),
    ("hierarchical_inclusion_loss", hierarchical_inclusion_loss, {"levels": [X, X]}),
    ("matched_losses", matched_losses, {"levels": [X, X], "terms": [Inclusion([0, 1])]}),
    ("vib_loss", vib_loss, {"z": X}),
    ("pairwise_score", pairwise_score, {"x": X, "y": X}),
    ("pairwise_topk", pairwise_topk, {"x": X, "y": X, "k": 1}),
    ("pairwise_rerank", pairwise_rerank, {"x": X, "y": X, "k": 1}),
    ("score_blocks", score_blocks, {"x": X, "y": X}),
    ("PPCLLoss", PPCLLoss, {}),
    ("InfoNCELoss", InfoNCELoss, {}),
    ("pointwise_objective", pointwise_objective, {"name": "mine", "loss": torch.mul}),
    ("ClosedFormSampledDistanceLoss", ClosedFormSampledDistanceLoss, {}),
    ("ProLIPLoss", ProLIPLoss, {}),
]
WRONG = {
    "scale": (*NUMBERS, torch.tensor(1j), torch.tensor(True), torch.ones((), device="meta"), torch.ones(1).to_sparse()),
    "score": NAMES, "shortlist": NAMES, "objective": NAMES, "prob_distance": NAMES, "name": (*NOTHING[:3], 3, ""),
    "reduction": NAMES, "precision": NAMES, "reduce_dims": NAMES, "convention": NAMES, "backend": NAMES[1:],
    "stats": (*NOTHING, 1, "x"), "negatives_only": (*NOTHING, 1), "precise": (*NOTHING, 0), "cache_labels": NOTHING,
    "k": (*NUMBERS, 0, -1, 2.0, 99, torch.tensor(2)), "workspace": (*NUMBERS[1:], 0, -1, 1e9, torch.tensor(2)),
    "select": (True, "x", DENSE), "loss": (None, "x", DENSE), "group": (object(), 0),
    "link_valid": (True, [True], DENSE, torch.ones(3, 1, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool).to_sparse()),
    "levels": (0, None, X.mean, [], [X], [X, None], "ab", [X, gaussian(3, 5)]),
    "terms": (
        0, None, [], [3], [Vib(True)], [Vib(7)], [Inclusion(0)], [Inclusion([0, "1"])], [Inclusion([0, 0])],  # type: ignore[list-item, arg-type]
        [Inclusion([0, 1], math.nan)], [Inclusion([0, 1], -1)], [Inclusion([0, 1], detach_mean="x")],  # type: ignore[arg-type]
    ),
    "vib_beta": NUMBERS, "inclusion_alpha": NUMBERS, "init_shift": NUMBERS, "world_size": (*NUMBERS, 0, 2),
    "use_horovod": (*NOTHING, True), "inclusion_loss_scale": (*NUMBERS, -1.0),
}  # fmt: skip
WRONG["bias"] = WRONG["scale"]
for side in ("x", "y", "z", "masked", "others"):
    WRONG[side] = (
        *NOTHING[:6], 3, (X.mean,), gaussian(3, 0),
        Gaussian(X.mean, X.logvar[:2]), Gaussian(X.mean > 0, X.logvar), Gaussian(X.mean.to(torch.complex64), X.logvar),
        *(Gaussian(t, DENSE) for t in NOT_DENSE), *(Gaussian(DENSE, t) for t in NOT_DENSE),
    )  # fmt: skip
ONLY = {"inclusion_loss": {"scale": (-1.0, -math.inf)}, "PPCLLoss": {"scale": (0, -3.0), "bias": (math.inf,)}}
"""Wrong for these functions alone."""


def accepts(function: Callable[..., Any], argument: str) -> bool:
    """Whether the function has this argument."""
    code = function.__init__.__code__ if isinstance(function, type) else function.__code__
    return argument in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


@pytest.mark.parametrize(("name", "function", "base"), EVERY, ids=[name for name, *_ in EVERY])
def test_every_wrong_argument_is_named_at_the_call(
    name: str, function: Callable[..., Any], base: dict[str, Any]
) -> None:
    function(**base)
    for argument, values in WRONG.items():
        if not accepts(function, argument):
            continue
        for value in (*values, *ONLY.get(name, {}).get(argument, ())):
            with pytest.raises((TypeError, ValueError)) as caught:
                function(**{**base, argument: value})
            message = str(caught.value)
            assert argument in message, (argument, message)
            assert len(message) < 300, message
            assert "\n" not in message, message


IDS = torch.arange(3)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.tensor([0, 1, 2**63], dtype=torch.uint64), IDS.to(torch.complex64), IDS > 0, IDS.float(), [0, 1, 2], IDS.numpy(),
        IDS.to("meta"), IDS.to_sparse(), IDS[:, None], True, 3,
    ],
)  # fmt: skip
@pytest.mark.parametrize("argument", ["x_id", "y_id"])
def test_wrong_pair_ids_are_named(argument: str, wrong: object) -> None:
    ids: dict[str, Any] = {"x_id": IDS, "y_id": IDS} | {argument: wrong}
    with pytest.raises((TypeError, ValueError), match=argument):
        ppcl_loss(X, X, 1.0, 0.0, **ids)


def test_numbers_of_numpy_do_as_well() -> None:
    z = Gaussian(X.mean, X.logvar)
    for number in (np.float32(2), np.float64(2), np.int64(2), 2):
        assert ppcl_loss(z, z, number, 0.0) == ppcl_loss(z, z, 2.0, 0.0)
        assert inclusion_loss(z, z.rows([1, 2, 0]), scale=number) == inclusion_loss(z, z.rows([1, 2, 0]), scale=2.0)
    assert pairwise_topk(z, z, np.int64(2))[1].shape == (3, 2)
    assert ppcl_loss(z, z, torch.tensor(2), 0.0) == ppcl_loss(z, z, 2.0, 0.0)


def test_an_object_of_ones_own_needs_a_name_and_a_formula() -> None:
    for name, formula, message in (
        ([], torch.mul, "score.name"),
        ("", torch.mul, "score.name"),
        ("a", 3, "score.formula"),
    ):
        with pytest.raises(TypeError, match=message):
            Score(name, formula)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_features": {"mean": DENSE}}, 'image_features must be a dict with "mean" and "std", got dict'),
        ({"text_features": DENSE}, 'text_features must be a dict with "mean" and "std", got a torch.float32 tensor'),
        ({"text_features": {"mean": DENSE[:2], "std": DENSE[:2]}}, "text_features must have image_features's 3 rows"),
        ({"image_features": {"mean": DENSE, "std": DENSE[:2]}}, "image_features.logvar must be of mean's shape"),
        ({"logit_scale": "2"}, "logit_scale must be a finite number or a real tensor of one element, got '2'"),
        ({"masked_text_features": None}, "masked_text_features must be given"),
        ({"masked_image_features": {"mean": DENSE[:, :1], "std": DENSE[:, :1]}}, "masked_image_features must have"),
        ({"output_dict": 1}, "output_dict must be True or False"),
        ({"negative_scale": [1]}, "negative_scale must be"),
    ],
)
def test_wrong_features_are_named(change: dict[str, Any], message: str) -> None:
    features = {"mean": DENSE, "std": DENSE}
    names = ("image_features", "text_features", "masked_image_features", "masked_text_features")
    sides = dict.fromkeys(names, features) | {"negative_scale": 1.0}
    with pytest.raises((TypeError, ValueError), match=message):
        ProLIPLoss(siglip_lambda=1.0)(**{**sides, **change})


@pytest.mark.parametrize("matched", [torch.eye(4), torch.eye(3, dtype=torch.complex64), "x", torch.eye(3).to_sparse()])
def test_wrong_targets_are_named(matched: object) -> None:
    features = {"mean": DENSE, "std": DENSE}
    with pytest.raises((TypeError, ValueError), match="matched must be"):
        ClosedFormSampledDistanceLoss()(features, features, matched)  # type: ignore[arg-type]
