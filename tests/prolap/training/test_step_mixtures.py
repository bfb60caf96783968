"""Mixtures in a training step: they are embedded as any sound and caption, and runs with them learn and resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prolap.data import open_data
from prolap.data.batch import Batch
from prolap.data.loader import Loader
from prolap.data.mixing import WORDS
from prolap.models.model import ProLAP, build_model, build_tokenizer
from prolap.models.tokenizers import WordVocabulary
from prolap.training import logs
from prolap.training.config import Config
from prolap.training.gradcache import encoding
from prolap.training.step import encode_views, more_even, training_losses
from prolap.training.terms.masked_pairs import MaskedPairsConfig
from prolap.training.train import train
from prolap.weights import checkpoint as checkpoints
from tests.prolap.tiny import tiny_config
from tests.tolerances import assert_same, assert_same_gradients

QUIET = {"progress": lambda *_: None}
TERMS = 2048
"""Roundings on the way through a tiny tower and back: sums over width 16, 64 mels x 10 frames, 15 rows and their tokens."""


def options(data: Path, run: Path, **changes: object) -> Config:
    return tiny_config(data, run, **{"preset": "mixprolap+tiny", "loss__hierarchy__weight": 0.1, **changes})


@pytest.fixture(scope="module")
def config(data: Path) -> Config:
    return options(data, Path("unused"), batch_size=6, optim__chunk=0, model__dropout=0.0)


@pytest.fixture(scope="module")
def batch(config: Config) -> Batch:
    found = open_data(config, "train", **QUIET)
    return Loader(found, vocabulary(), config, config.mixes).batch(0)


def vocabulary() -> WordVocabulary:
    return WordVocabulary(["tone", "is", "long", "short", "dying", "low", "high", "and", "while"])


def model_of(config: Config) -> ProLAP:
    return build_model(config, vocabulary())


def doubled(batch: Batch) -> Batch:
    assert batch.mixtures is not None
    return replace(
        batch, audio=batch.audio.double(), mixtures=replace(batch.mixtures, audio=batch.mixtures.audio.double())
    )


@pytest.mark.usefixtures("float64")
def test_mixtures_are_embedded_like_any_other_row(config: Config, batch: Batch) -> None:
    batch = doubled(batch)
    model, mixtures = model_of(config).double().eval(), batch.mixtures
    assert mixtures is not None
    views = encode_views(model, batch, config, torch.Generator())
    assert [len(copies) for copies in (views.masked_audio, views.masked_text)] == [3, 1]
    for level, copy in enumerate(views.masked_audio):
        single = model.encode_audio(mixtures.audio[level], mixtures.frames)
        assert copy.mean.dtype == torch.float64
        assert_same(copy.mean, single.mean, terms=TERMS)
        assert_same(copy.logvar, single.logvar, terms=TERMS)
    assert_same(views.masked_text[0].mean, model.encode_text(mixtures.tokens).mean, terms=TERMS)
    assert torch.equal(views.text_links[0], mixtures.joined)
    assert views.audio_links.shape == (3, 3)
    assert views.partner is mixtures.partner


def test_links_between_equal_mixtures_are_left_out() -> None:
    alpha = torch.tensor([[1.0, 0.9, 0.7], [0.8, 0.9, 0.6]])
    assert more_even(alpha).tolist() == [[False, True, True], [True, False, True]]


def test_gradients_reach_everything_but_the_mask_tokens_and_no_mask_is_drawn(config: Config, batch: Batch) -> None:
    loss = replace(config.loss, masked_pairs=MaskedPairsConfig(weight=0.1))
    model, generator = model_of(replace(config, loss=loss)), torch.Generator()
    before = generator.get_state()
    total, found = training_losses(model, batch, replace(config, loss=loss), generator)
    total.backward()
    assert torch.equal(generator.get_state(), before)
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle == {"audio.mask"}  # that of the tiny text encoder is a row of its embedding
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    wanted = {f"uncertainty/audio_mixed_{level}" for level in (1, 2, 3)} | {"uncertainty/text_mixed_1"}
    assert {name for name in found if "mixed" in name or "masked_" in name} == wanted | {"loss/masked_pairs"}


def test_only_mixtures_change_the_loss(config: Config, batch: Batch) -> None:
    model = model_of(config).eval()
    values = []
    for mixtures in (batch.mixtures, replace(batch.mixtures, audio=batch.mixtures.audio * 0.5)):
        _, found = training_losses(model, replace(batch, mixtures=mixtures), config, torch.Generator())
        values.append(found)
    assert values[0]["loss/hierarchy"] != values[1]["loss/hierarchy"]
    assert values[0]["loss/pairs"] == values[1]["loss/pairs"]


@pytest.mark.usefixtures("float64")
def test_in_chunks_the_gradients_are_the_same(config: Config, batch: Batch) -> None:
    grads = []
    for rows in (0, 4):  # 4 divides neither 6 rows nor 9 mixtures
        model = model_of(config).double()
        encode = encoding(model, rows)
        total, _ = training_losses(model, doubled(batch), config, torch.Generator(), encode)
        encode.backward(total)
        grads.append({name: p.grad for name, p in model.named_parameters()})
    assert_same_gradients(grads[1], grads[0], terms=TERMS)


def test_the_tiny_text_encoder_knows_the_joining_words(data: Path) -> None:
    mixing = build_tokenizer(options(data, Path("unused")), ["a tone"])
    masking = build_tokenizer(tiny_config(data, Path("unused")), ["a tone"])
    assert isinstance(mixing, WordVocabulary)
    assert isinstance(masking, WordVocabulary)
    assert all(mixing.ids(word) != mixing.ids("xylophone") for word in WORDS)
    assert masking.ids("while") == masking.ids("xylophone")  # both unknown


def test_a_batch_that_lacks_its_mixtures_is_refused(config: Config, batch: Batch) -> None:
    with pytest.raises(ValueError, match=r"batch: it has no mixtures, but mix.share asks"):
        encode_views(model_of(config), replace(batch, mixtures=None), config, torch.Generator())


def bits(run: Path) -> tuple[bytes, bytes, list[dict[str, object]]]:
    latest = checkpoints.pointed(run, "latest")
    assert latest is not None
    model, optimizer = (latest / f"{name}.safetensors" for name in ("model", "optimizer"))
    rows = [{k: v for k, v in row.items() if k not in logs.TIMING} for row in logs.read(run / "train.jsonl")]
    return model.read_bytes(), optimizer.read_bytes(), rows


@pytest.mark.parametrize("chunk", [0, 3])
def test_a_run_learns_and_resumes_with_the_same_bits(data: Path, tmp_path: Path, chunk: int) -> None:
    changes = {"batch_size": 6, "steps": 7, "epochs": None, "optim__chunk": chunk, "optim__warmup_epochs": None}
    whole = options(data, tmp_path / "whole", **changes)
    train(whole, progress=False)
    rows = bits(tmp_path / "whole")[2]
    assert rows[-1]["loss"] < rows[0]["loss"]
    stopped = replace(whole, run=str(tmp_path / "run"), workers=2)
    _stop_after(stopped, 3)
    train(stopped, resume=True, progress=False)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def _stop_after(config: Config, steps: int) -> None:
    """Interrupted as by Ctrl-C, after so many steps: in the middle of an epoch and of an accumulation."""
    import signal

    import prolap.training.train as training

    update, calls = training.Trainer.update, 0

    def interrupting(self: training.Trainer, stream: object) -> object:
        nonlocal calls
        calls += 1
        if calls == steps:
            signal.raise_signal(signal.SIGINT)
        return update(self, stream)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Trainer, "update", interrupting)
        assert train(config, progress=False).stopped == "interrupted"
