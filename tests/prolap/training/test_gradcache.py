"""GradCache: the unchunked gradient where rows do not depend on each other, else that of autograd through the same chunks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prolap.config import DataConfig, MaskConfig, ModelConfig
from prolap.data.batch import Batch
from prolap.models.encoders import TEXT
from prolap.models.model import ProLAP
from prolap.training import gradcache
from prolap.training.config import Config, load_config
from prolap.training.gradcache import Chunks, Encode
from prolap.training.step import training_losses
from prolap.training.synthetic import SyntheticLoader, synthetic_model
from prolap.training.terms import InclusionConfig, loss_config
from prolap.training.terms.masked_pairs import MaskedPairsConfig
from prolap.training.terms.pairs import PairsConfig
from prolap.training.terms.repulsion import RepulsionConfig
from prolap.training.terms.vib import VibConfig
from prolap_kernels import Gaussian
from tests.live_memory import peak_bytes
from tests.prolap.tiny import tiny_config
from tests.prolap.training.test_train import trainer_of
from tests.tolerances import assert_same, assert_same_gradients, likely

EVERYTHING = loss_config(
    pairs=PairsConfig(),
    masked_pairs=MaskedPairsConfig(weight=0.1),
    cross_inclusion=InclusionConfig(weight=1e-3),
    hierarchy=InclusionConfig(weight=5e-3),
    vib=VibConfig(weight=1e-5),
    repulsion=RepulsionConfig(weight=1e-2),
)
TINY = ModelConfig(width=32, dim=16, dropout=0.2)
MICRO = ModelConfig(audio="htsat-micro", text="gpt2-micro", mean_head="msclap", dim=16, dropout=0.2, max_tokens=12)
MODELS = {
    "tiny": TINY,
    "tiny, delete": TINY,
    "micro": MICRO,
    "micro, checkpointing": replace(MICRO, checkpointing=True),
}


@cache
def config_of(name: str) -> Config:
    mask = MaskConfig(share=0.5, mode="delete" if "delete" in name else "substitute")
    return Config(model=MODELS[name], mask=mask, loss=EVERYTHING, data=DataConfig(mels=64))


def model_of(config: Config, training: bool = True) -> ProLAP:
    return synthetic_model(config).train(training)


def batch(config: Config, rows: int = 8, frames: int = 96) -> Batch:
    """Sounds and captions of all lengths."""
    generator = torch.Generator().manual_seed(3)
    length = 12
    tokens = torch.randint(3, 4_000, (rows, length), generator=generator)
    for row in range(rows):
        end = 2 + (5 * row) % (length - 2)
        tokens[row, end] = TEXT[config.model.text].tokenizer.end
        tokens[row, end + 1 :] = 0
    index = torch.arange(rows)
    return Batch(
        audio=torch.randn(rows, frames, 64, generator=generator),
        frames=torch.randint(frames // 3, frames + 1, (rows,), generator=generator),
        tokens=tokens,
        index=index,
        chain=torch.stack([index * 0, index % 2, index % 4, index], dim=1),
        level=index % 4,
    )


class Plain(Encode):
    """Chunks in one graph, for autograd to go through."""

    def __init__(self, model: ProLAP, rows: int) -> None:
        super().__init__(model)
        self.rows = rows

    def audio(self, audio: Tensor, frames: Tensor, masked: Tensor | None = None, mode: str = "substitute") -> Gaussian:
        return self._parts(self.model.encode_audio, (audio, frames), masked, mode)

    def text(self, tokens: Tensor, masked: Tensor | None = None, mode: str = "substitute") -> Gaussian:
        return self._parts(self.model.encode_text, (tokens,), masked, mode)

    def _parts(self, forward: Callable[..., Gaussian], inputs: Any, masked: Tensor | None, mode: str) -> Gaussian:
        if masked is not None:
            inputs = [torch.cat([part] * (len(masked) // len(part))) for part in inputs]
        parts = []
        for start in range(0, len(inputs[0]), self.rows):
            at = slice(start, start + self.rows)
            parts.append(forward(*(part[at] for part in inputs), None if masked is None else masked[at], mode))
        return Gaussian(torch.cat([part.mean for part in parts]), torch.cat([part.logvar for part in parts]))


class Step:
    """What a step leaves behind."""

    def __init__(self, encode: Encode, config: Config, data: Batch | None = None, amp: bool = False) -> None:
        model = encode.model
        data = batch(config) if data is None else data
        data = replace(data, audio=data.audio.to(model.bias.dtype))
        torch.manual_seed(5)
        self.masks = torch.Generator().manual_seed(7)
        cache = isinstance(encode, Chunks)  # else a weight that is cast once would add up its gradient in bfloat16
        with torch.autocast("cpu", torch.bfloat16, enabled=amp, cache_enabled=cache):
            loss, logs = training_losses(model, data, config, self.masks, encode)
        encode.backward(loss)
        self.loss, self.logs = loss.detach(), logs
        self.random = torch.get_rng_state()
        self.buffers = {name: value.clone() for name, value in model.named_buffers()}
        self.grads = {name: p.grad for name, p in model.named_parameters()}

    def difference(self, other: Step) -> float:
        """|g - g'| / |g| of all parameters together."""
        both = [(g, other.grads[name]) for name, g in self.grads.items() if g is not None]
        one, two = (torch.cat([pair[k].flatten() for pair in both]) for k in (0, 1))
        return float((one - two).norm() / one.norm())


def assert_same_losses(step: Step, other: Step, terms: float) -> None:
    """Inclusion sums differences of log-variances of size 6, and their squares over variances of e^-6: 400."""
    assert step.logs.keys() == other.logs.keys()
    for name, value in step.logs.items():
        assert_same(value, other.logs[name], terms=terms, scale=400.0, dtype=torch.float64, name=name)
    assert_same(step.loss, other.loss, terms=terms, scale=400.0, dtype=torch.float64)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "rows", "terms"),
    [
        ("tiny", 1, 1024),
        ("tiny", 3, 1024),
        ("tiny", 8, 1024),
        ("tiny", 99, 1024),
        ("tiny, delete", 3, 1024),
        ("micro", 3, 8 * 1024),
    ],
)
def test_the_unchunked_gradient_without_dropout_and_batch_statistics(name: str, rows: int, terms: int) -> None:
    """`terms`: a parameter's gradient is a sum over rows and tokens, which chunks take in another order."""
    config = config_of(name)
    whole = Step(Encode(model_of(config, training=False).double()), config)
    chunked = Step(Chunks(model_of(config, training=False).double(), rows), config)
    assert_same_losses(chunked, whole, terms)
    assert torch.equal(chunked.masks.get_state(), whole.masks.get_state())
    assert_same_gradients(chunked.grads, whole.grads, terms=terms)


@pytest.mark.usefixtures("float64")
def test_mixtures_are_encoded_in_chunks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"batch_size": 8, "data.seconds": 1, "model.width": 32, "model.dim": 16, "model.max_tokens": 12}
    config = load_config("mixprolap+tiny", overrides=changes)
    data = SyntheticLoader(config).batch(0)
    assert data.mixtures is not None
    data = replace(data, mixtures=replace(data.mixtures, audio=data.mixtures.audio.double()))
    whole = Step(Encode(model_of(config, training=False).double()), config, data)
    model, calls = model_of(config, training=False).double(), {"audio": 0, "text": 0}
    for modality in calls:
        counted(model, modality, calls, monkeypatch)
    chunked = Step(Chunks(model, 3), config, data)
    assert_same_losses(chunked, whole, 1024)
    assert_same_gradients(chunked.grads, whole.grads, terms=1024)
    passes = {"audio": 3 + 4, "text": 3 + 2}  # 8 rows; 3 levels of 4 mixtures, whose captions are one
    assert calls == {name: 2 * count for name, count in passes.items()}


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_autograd_through_the_same_chunks_with_dropout_and_batch_statistics(
    name: str, amp: bool, request: pytest.FixtureRequest
) -> None:
    """Random numbers and running statistics afterwards as well: moved on once and not twice.

    The same chunks give the same bits; their gradients, a few per parameter, are added in another order.
    """
    config, dtype = config_of(name), torch.float32 if amp else torch.float64
    if not amp:
        request.getfixturevalue("float64")
    plain = Step(Plain(model_of(config).to(dtype), 3), config, amp=amp)
    chunked = Step(Chunks(model_of(config).to(dtype), 3), config, amp=amp)
    assert torch.equal(chunked.loss, plain.loss)
    assert chunked.logs == plain.logs
    assert torch.equal(chunked.random, plain.random)
    assert chunked.buffers.keys() == plain.buffers.keys()
    for key, value in chunked.buffers.items():
        assert torch.equal(value, plain.buffers[key]), key
    assert_same_gradients(chunked.grads, plain.grads, terms=32)


def test_batch_norms_in_training_move_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above compares does change, and masked copies see the statistics that the plain rows left."""
    config = config_of("micro")
    before = model_of(config).state_dict()
    step = Step(Chunks(model_of(config), 3), config)
    moved = [name for name, value in step.buffers.items() if name in before and not torch.equal(value, before[name])]
    norm = "audio.base.audio_encoder.batch_norm."
    assert moved == [norm + name for name in ("running_mean", "running_var", "num_batches_tracked")]
    assert step.buffers[norm + "num_batches_tracked"] == 3  # chunks of 8 rows; masked copies use the running ones
    monkeypatch.setattr(gradcache, "_running_statistics", lambda towers: [])
    assert Step(Chunks(model_of(config), 3), config).buffers[norm + "num_batches_tracked"] == 6


def test_without_the_same_random_numbers_it_is_another_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("tiny")
    plain = Step(Plain(model_of(config), 3), config)
    monkeypatch.setattr(gradcache.ForwardState, "restore", lambda self: None)
    assert plain.difference(Step(Chunks(model_of(config), 3), config)) > 0.1


def test_autocast_around_the_backward_pass_loses_no_gradient() -> None:
    """Weights that the first pass cast without a graph must not be found by the second."""
    config, steps = config_of("tiny"), []
    for inside in (False, True):
        model = model_of(config)
        encode = Chunks(model, 3)
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = training_losses(model, batch(config), config, torch.Generator().manual_seed(7), encode)
            if inside:
                encode.backward(loss)
        if not inside:
            encode.backward(loss)
        steps.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in steps[0].items():
        assert grad is not None, name
        other = steps[1][name]
        assert other is not None, name
        # a gradient passes a handful of products, whose operands are rounded to bfloat16
        assert (grad - other).norm() < likely(4) * torch.finfo(torch.bfloat16).eps * grad.norm(), name


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("frozen", ["audio", "text"])
def test_a_frozen_modality_is_encoded_once(frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("tiny")
    grads, calls = [], {"audio": 0, "text": 0}
    for chunk in (0, 3):
        model = model_of(config, training=False).double()
        for name, parameter in model.named_parameters():
            parameter.requires_grad = not name.startswith(frozen)
        for modality in calls if chunk else ():
            counted(model, modality, calls, monkeypatch)
        grads.append(Step(gradcache.encoding(model, chunk), config))
    assert_same_gradients(grads[1].grads, grads[0].grads, terms=1024)
    passes = {"audio": 3 + 3, "text": 3 + 4}  # chunks of 8 rows, of 2 · 4 masked sounds, of 3 · 4 masked captions
    assert calls == {name: count * (1 if name == frozen else 2) for name, count in passes.items()}


def counted(model: ProLAP, modality: str, calls: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    forward = getattr(model, f"encode_{modality}")

    def count(*arguments: Any) -> Gaussian:
        calls[modality] += 1
        assert len(arguments[0]) <= 3
        found: Gaussian = forward(*arguments)
        return found

    monkeypatch.setattr(model, f"encode_{modality}", count)


@pytest.mark.usefixtures("float64")
def test_what_the_loss_does_not_reach_has_no_gradient() -> None:
    """A deterministic baseline trains no log-variance: None, as without chunks, so that no optimiser moves it."""
    config = config_of("tiny")
    config = replace(config, model=replace(config.model, score="dot"), loss=loss_config())
    whole = Step(Encode(model_of(config, training=False).double()), config)
    chunked = Step(Chunks(model_of(config, training=False).double(), 3), config)
    assert_same_gradients(chunked.grads, whole.grads, terms=1024)  # which looks at None, too
    unreached = {name for name, grad in chunked.grads.items() if grad is None}
    assert unreached == {name for name in chunked.grads if ".logvar." in name or name == "audio.mask"}


def test_nothing_is_kept_where_there_is_no_gradient() -> None:
    config = config_of("tiny")
    encode = Chunks(model_of(config), 3)
    with torch.no_grad():
        found = encode.text(batch(config).tokens)
    assert not found.mean.requires_grad
    assert not encode._calls
    with pytest.raises(ValueError, match="rows: got -1, want at least 1"):
        Chunks(model_of(config), -1)


def test_zero_is_no_chunks() -> None:
    model = model_of(config_of("tiny"))
    assert type(gradcache.encoding(model, 0)) is Encode
    assert type(gradcache.encoding(model, 3)) is Chunks


def test_memory_does_not_grow_with_the_batch_but_for_its_embeddings(tmp_path: Path) -> None:
    config = replace(config_of("tiny"), loss=loss_config(pairs=PairsConfig(), hierarchy=InclusionConfig(weight=1.0)))
    peaks = {}
    for chunk in (0, 16):
        for rows in (64, 256):
            model, data = model_of(config), batch(config, rows)
            peaks[chunk, rows] = peak_bytes(lambda: Step(gradcache.encoding(model, chunk), config, data), tmp_path)  # noqa: B023
    whole, chunked = (peaks[chunk, 256] - peaks[chunk, 64] for chunk in (0, 16))
    assert chunked < 0.1 * whole


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_the_trainer_updates_alike_with_and_without_chunks(data: Path, tmp_path: Path, amp: str) -> None:
    """Micro-batches, clipping and loss scaling included; the first updates of float16 are skipped."""
    grads, outcomes, scales = [], [], []
    for chunk in (0, 3):
        trainer = trainer_of(tiny_config(data, tmp_path, model__dropout=0.0, optim__chunk=chunk, optim__amp=amp))
        trainer.scaler._init_scale = 2.0**20
        stream = trainer.loader.batches(0)
        found = [trainer.update(stream)]
        while not math.isfinite(found[-1].grad_norm):
            found.append(trainer.update(stream))
        outcomes.append(found)
        grads.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]))
        scales.append(trainer.scaler.get_scale())
    # float32: sums of a thousand terms (rows and tokens); 16 bits: each chunk's products are rounded once more
    precision = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    close = (likely(1024) if amp == "off" else 4) * torch.finfo(precision).eps
    assert (grads[0] - grads[1]).norm() < close * grads[0].norm()
    assert (len(outcomes[0]) > 1) == (amp == "fp16")
    for one, other in zip(*outcomes, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=close)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=close, nan_ok=True)
    assert scales[0] == scales[1] == (1.0 if amp != "fp16" else 2.0 ** (21 - len(outcomes[0])))
