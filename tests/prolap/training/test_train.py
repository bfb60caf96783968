"""The training loop: what it learns, logs, refuses and when it stops."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import prolap.training.train as training
from prolap.config.options import ConfigError
from prolap.data import open_data
from prolap.data.loader import Loader
from prolap.models.model import build_model
from prolap.models.tokenizers import WordVocabulary
from prolap.training import logs
from prolap.training.config import load_config
from prolap.training.logs import dev_metrics
from prolap.training.optim import lr_factor
from prolap.training.safety import TrainingStopped, not_finite, unusable_uncertainty
from prolap.training.step import training_losses
from prolap.training.terms import TERMS, PairTerm, loss_config, trains_uncertainty
from prolap.training.train import Trainer, train
from prolap.utils.environment import pick_device, versions
from prolap.utils.seeding import torch_generator
from prolap.weights import checkpoint as checkpoints
from prolap.weights.checkpoint import load_model
from tests.prolap.tiny import tiny_config
from tests.tolerances import assert_same_gradients


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer_of(config: Any) -> Trainer:
    clips = open_data(config, "train", lambda *_: None)
    vocabulary = WordVocabulary.build(c.text for i in range(len(clips)) for c in clips.captions(i))
    return Trainer(config, build_model(config, vocabulary), Loader(clips, vocabulary, config), None, {})


def test_a_run_leaves_its_folder_complete(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    random = torch.get_rng_state()
    config = tiny_config(data, run, log_every=3)
    result = train(config, progress=False)
    assert torch.equal(torch.get_rng_state(), random)  # the caller's random numbers are left alone
    assert (result.run, result.step, result.steps, result.stopped, result.signal) == (run, 8, 8, "finished", None)
    assert load_config(file=run / "config.yaml") == config
    assert json.loads((run / "versions.json").read_text())["torch"] == versions()["torch"]
    assert json.loads((run / "data-train.json").read_text())["used"] == 12
    rows, dev = logs.read(run / "train.jsonl"), logs.read(run / "dev.jsonl")
    assert [row["step"] for row in rows] == [1, 3, 6, 8]
    assert [row["step"] for row in dev] == [3, 6, 8]
    assert {"loss", "lr", "grad_norm", "scale", "bias", "clips_per_second", "data_wait_share"} <= rows[0].keys()
    assert {"loss/pairs", "uncertainty/audio", "uncertainty/text_spread", "bounds/text"} <= rows[0].keys()
    assert rows[1]["lr"] == pytest.approx(1e-2 * lr_factor(2, 8, 2))
    assert [row["step"] for row in dev if row["best"]][-1] == result.best_step
    assert max(row["r1_mean"] for row in dev) == result.best_value
    model = load_model(run)
    again = dev_metrics(model, open_data(config, "dev", lambda *_: None))
    assert again["r1_mean"] == result.best_value
    assert again["map10_mean"] == pytest.approx((again["map10_t2a"] + again["map10_a2t"]) / 2)


def test_the_gradient_is_the_mean_over_micro_batches(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, optim__accumulate=3, optim__clip=0, model__dropout=0.0)
    trainer = trainer_of(config)
    trainer.update(trainer.loader.batches(0))
    other = trainer_of(config)
    other.model.train()
    losses = []
    for number in range(3):
        generator = torch_generator(config.seed, "mask", number)
        losses.append(training_losses(other.model, other.loader.batch(number), config, generator)[0])
    torch.stack(losses).mean().backward()
    both = {}
    for (name, one), two in zip(trainer.model.named_parameters(), other.model.parameters(), strict=True):
        both[name] = one.grad, two.grad
    assert_same_gradients(*({name: pair[k] for name, pair in both.items()} for k in (0, 1)), terms=1024)


def test_clipping_bounds_the_gradient_norm(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_config(data, tmp_path, optim__clip=0.01))
    outcome = trainer.update(trainer.loader.batches(0))
    assert outcome.grad_norm > 0.1  # what is logged is the norm before
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in trainer.model.parameters() if p.grad is not None))
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_overfitting_one_batch_finds_every_pair(data: Path, tmp_path: Path) -> None:
    changes = {"data__level_weights": (0, 0, 0, 0)}  # only captions that no other clip has
    changes |= {
        "eval_every": 50,
        "log_every": 20,
        "data__dev": None,
        "model__dropout": 0.0,
        "optim__scale_lr": 1e-2,
        "optim__lr": 2e-2,
    }
    config = tiny_config(
        data, tmp_path / "run", preset="siglip+tiny", overfit=6, steps=50, optim__accumulate=1, **changes
    )
    result = train(config, progress=False)
    rows = logs.read(tmp_path / "run" / "train.jsonl")
    assert rows[-1]["loss"] < 0.2 * rows[0]["loss"]
    assert result.best_value == 1.0


def test_a_dry_run_is_one_step_one_evaluation_one_checkpoint(data: Path, tmp_path: Path) -> None:
    result = train(tiny_config(data, tmp_path / "run", dry_run=True), progress=False)
    assert (result.step, result.steps, result.best_step) == (1, 1, 1)
    assert len(logs.read(tmp_path / "run" / "dev.jsonl")) == 1
    assert {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()} == {"latest", "best", "step-00000001"}


def test_epochs_are_counted_in_optimiser_steps(data: Path, tmp_path: Path) -> None:
    changes = {"epochs": 4, "optim.warmup_epochs": 2}  # 12 clips: 3 micro-batches of 4 an epoch, 2 of them a step
    options = tiny_config(data, tmp_path)
    trainer = trainer_of(options.__class__(**{**vars(options), "epochs": 4.0}))
    assert trainer.steps == 6
    trainer = trainer_of(load_config(overrides={**_flat(options), **changes}))
    assert (trainer.steps, trainer.warmup_steps) == (6, 3)


def _flat(config: Any) -> dict[str, Any]:
    from prolap.config.options import leaves

    return leaves(config)


def test_early_stopping(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.5, 0.4, 0.6, 0.6, 0.1, 0.9])
    monkeypatch.setattr(training, "dev_metrics", lambda *_: {"r1_mean": next(values)})
    result = train(tiny_config(data, tmp_path / "run", eval_every=1, patience=2, steps=6), progress=False)
    assert (result.stopped, result.step, result.best_step, result.best_value) == ("early", 5, 3, 0.6)
    best = checkpoints.pointed(tmp_path / "run", "best")
    assert best is not None
    assert checkpoints.read(best).step == 3


@pytest.mark.filterwarnings("ignore:optim.amp is bf16")  # where the CPU has no instructions for it
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_learns_about_the_same(data: Path, tmp_path: Path, amp: str) -> None:
    losses = {}
    for mode in ("off", amp):
        trainer = trainer_of(tiny_config(data, tmp_path, optim__amp=mode, model__dropout=0.0, model__bias_init=-10))
        if mode == "fp16":  # its own start, 2**16, skips the first steps
            trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        stream = trainer.loader.batches(0)
        losses[mode] = []
        for _ in range(4):
            losses[mode].append(trainer.update(stream).loss)
            trainer.step += 1
    assert losses[amp] != losses["off"]
    assert losses[amp] == pytest.approx(losses["off"], rel=0.1)


def poisoned(at: int, value: float) -> Any:
    """training_losses whose call number `at`, and all later ones, is multiplied by `value`."""
    calls = 0

    def losses(*arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal calls
        calls += 1
        loss, stats = training_losses(*arguments)
        if calls < at:
            return loss, stats
        return loss * value, stats | {"loss/pairs": stats["loss/pairs"] * value}

    return losses


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "training_losses", poisoned(11, math.nan))
    with pytest.raises(TrainingStopped, match=r"step 6: the loss is nan, loss/pairs is nan.*step-00000004") as caught:
        train(tiny_config(data, tmp_path / "run", eval_every=8), progress=False)
    assert caught.value.checkpoint is not None
    found = checkpoints.read(caught.value.checkpoint)
    assert all(torch.isfinite(value).all() for value in found.model.values())


def test_a_first_step_that_is_not_finite_has_no_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "training_losses", poisoned(1, math.inf))
    with pytest.raises(TrainingStopped, match=r"step 1: the loss is inf.*there is no checkpoint yet"):
        train(tiny_config(data, tmp_path / "run"), progress=False)


def test_a_gradient_that_is_not_finite_stops(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(tiny_config(data, tmp_path))
    trainer.model.log_scale.register_hook(lambda grad: grad * math.nan)
    before = trainer.model.log_scale.item()
    with pytest.raises(TrainingStopped, match="step 1: the gradient norm is nan"):
        trainer.update(trainer.loader.batches(0))
    assert trainer.model.log_scale.item() == before


def test_the_loss_scaler_may_skip_some_steps_but_not_many(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_config(data, tmp_path, optim__amp="fp16", safety__max_skipped=2))
    trainer.model.log_scale.register_hook(lambda grad: grad * math.inf)
    stream, before = trainer.loader.batches(0), trainer.model.log_scale.item()
    for skipped in (1, 2):
        trainer.update(stream)
        assert trainer.skipped == skipped
    assert trainer.model.log_scale.item() == before
    with pytest.raises(TrainingStopped, match="for 3 steps in a row"):
        trainer.update(stream)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("bounds/text", 0.99, "step 1: 99% of the text .* stand at a bound"),
        ("uncertainty/audio_spread", 1e-9, "step 3: .* collapsed"),  # the first after the warm-up
    ],
)
def test_useless_log_variances_stop(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float, reason: str
) -> None:
    def losses(*arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, stats = training_losses(*arguments)
        return loss, stats | {name: torch.tensor(value)}

    monkeypatch.setattr(training, "training_losses", losses)
    with pytest.raises(TrainingStopped, match=reason):
        train(tiny_config(data, tmp_path / "a", safety__min_spread=1e-5), progress=False)
    off = {"safety__min_spread": 0.0, "safety__max_saturated": 1.0, "steps": 2}
    assert train(tiny_config(data, tmp_path / "b", **off), progress=False).step == 2
    baseline = tiny_config(data, tmp_path / "c", preset="siglip+tiny", steps=2, safety__min_spread=1e-5)
    assert train(baseline, progress=False).step == 2


def test_a_batch_of_one_row_has_no_spread() -> None:
    values = {"uncertainty/audio_spread": 0.0}
    config = load_config(overrides={"batch_size": 1})
    assert config.trains_uncertainty
    assert unusable_uncertainty(values, config) is None
    assert "collapsed" in str(unusable_uncertainty(values, load_config()))
    assert not_finite({"a": 1.0, "b": math.inf}) == "b is inf"
    assert not_finite({"a": 1.0}) is None


def test_a_folder_in_use_is_not_overwritten(data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"run: .* is not empty; .*prolap train --resume"):
        train(tiny_config(data, tmp_path), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failed_start_leaves_no_folder(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        train(tiny_config(data, tmp_path / "run", data__train=str(tmp_path / "none.csv")), progress=False)
    with pytest.raises(ValueError, match="batch_size"):
        train(tiny_config(data, tmp_path / "run", batch_size=64), progress=False)
    assert not (tmp_path / "run").exists()


def test_tensorboard_has_the_same_numbers(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tiny_config(data, tmp_path / "run", tensorboard=True, steps=3), progress=False)
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rows = logs.read(tmp_path / "run" / "train.jsonl")
    assert [e.value for e in events.Scalars("train/loss")] == pytest.approx([row["loss"] for row in rows])
    assert [e.step for e in events.Scalars("dev/r1_mean")] == [3]


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device: got 'abacus'"):
        pick_device("abacus")


def test_every_term_that_reads_variances_is_watched() -> None:
    alone = loss_config()
    assert not trains_uncertainty(alone, "dot")
    for field in fields(alone):
        term = getattr(alone, field.name)
        if hasattr(term, "weight") and field.name != "pairs":
            changed = replace(alone, **{field.name: replace(term, weight=0.1)})
            assert trains_uncertainty(changed, "csd")
            assert trains_uncertainty(changed, "dot") == (not isinstance(TERMS[field.name], PairTerm)), field.name
