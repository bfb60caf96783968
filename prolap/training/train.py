"""The training loop: from a configuration to a run folder with logs and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prolap.config.loading import to_dict
from prolap.config.options import ConfigError, check
from prolap.data import AudioTextData, absolute, open_data
from prolap.data.batch import Batch
from prolap.data.loader import Loader
from prolap.models.model import ProLAP
from prolap.training import gradcache, memory, optim, runs
from prolap.training.config import Config
from prolap.training.logs import Logs, batch_metrics, dev_metrics
from prolap.training.runs import Ending, StepResult, TrainResult
from prolap.training.safety import Interrupt, TrainingStopped, not_finite, unusable_uncertainty, warn_of
from prolap.training.step import training_losses
from prolap.utils import environment, lock
from prolap.utils.progress import Display, Meter, silent
from prolap.utils.seeding import torch_generator
from prolap.weights import checkpoint as checkpoints
from prolap.weights import initial

_DTYPES = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(
    config: Config, *, resume: bool = False, extend: bool = False, wait: bool = False, progress: bool = True
) -> TrainResult:
    """Train in `config.run`, a new folder, or with `resume` resume the run in it.

    A resumed run ends with the same weights, bit for bit, as one that was never interrupted, on the same processor,
    versions and threads. Ctrl-C and SIGTERM save a checkpoint and return.

    extend: with `resume`, train on to more steps or epochs than the run was started with. wait: until another process
    that writes into the folder is done, instead of FolderInUse. Raises ConfigError, CheckpointError, TrainingStopped,
    WriteError for a full disk.
    """
    if extend and not resume:
        raise ConfigError("extend: got it without resume, want a run to resume.")
    config = absolute(config)
    if resume:
        runs.load_run_config(Path(config.run))  # raises if the folder holds no run
    with lock.locked(Path(config.run), wait):
        return _train(config, resume, extend, progress)


def _train(config: Config, resume: bool, extend: bool, progress: bool) -> TrainResult:
    started = time.perf_counter()
    mixes, trains_uncertainty = config.mixes, config.trains_uncertainty  # errors of `loss` come before data are read
    check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = environment.pick_device(config.device)
    warn_of(config, device)
    versions = environment.versions(device)
    checkpoint = runs.resume(config, versions, extend) if resume else None
    if not resume:
        runs.check_new(config)
    init = None if checkpoint else initial.open_init(config)
    report_progress = None if progress else silent
    data = open_data(config, "train", report_progress, batches=True)
    dev = None if config.overfit else open_data(config, "dev", report_progress)
    texts = (caption.text for i in range(len(data)) for caption in data.captions(i))
    model, report = initial.first_model(config, checkpoint, init, texts, trains_uncertainty)
    model = model.to(device)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))  # leave the caller's random numbers alone
        interrupt = stack.enter_context(Interrupt())
        trainer = Trainer(config, model, Loader(data, model.vocabulary, config, mixes), dev, versions)
        if checkpoint:
            trainer.restore(checkpoint)
        if extend:
            trainer.extend()
        if not resume:
            runs.start(config, versions)
        runs.write_reports(Path(config.run), {"train": data, "dev": dev})
        trainer.open_logs(progress, stack)
        if report:
            initial.write_report(trainer.run, report)
        trainer.display.say(initial.describe(model, report, resumed=checkpoint is not None))
        stopped = trainer.loop(interrupt)
    best = trainer.best or {"step": None, "value": None}
    return TrainResult(
        run=Path(config.run),
        step=trainer.step,
        steps=trainer.steps,
        stopped=stopped,
        best_step=best["step"],
        best_value=best["value"],
        seconds=time.perf_counter() - started,
        signal=int(interrupt.received) if stopped == "interrupted" and interrupt.received else None,
    )


class Trainer:
    """Model, optimiser and progress of training: all that a checkpoint holds."""

    def __init__(
        self, config: Config, model: ProLAP, loader: Loader, dev: AudioTextData | None, versions: dict[str, Any]
    ) -> None:
        self.config, self.model, self.loader, self.dev, self.versions = config, model, loader, dev, versions
        self.run = Path(config.run)
        self.device = next(model.parameters()).device
        self.frozen = optim.Frozen(model, config.model.freeze)
        self.optimizer = optim.build_optimizer(model, config.optim)
        self.scaler = torch.amp.grad_scaler.GradScaler(self.device.type, enabled=config.optim.amp == "fp16")
        epoch = loader.steps_per_epoch / config.optim.accumulate
        self.steps = config.steps if config.epochs is None else max(1, round(config.epochs * epoch))
        self.steps = 1 if config.dry_run else self.steps
        warmup = config.optim.warmup * self.steps
        if config.optim.warmup_epochs is not None:
            warmup = config.optim.warmup_epochs * epoch
        self.warmup_steps = round(warmup)
        self.step, self.skipped, self.stale = 0, 0, 0
        self.best: dict[str, Any] | None = None
        self.saved: Path | None = None
        self.meter = Meter()
        self.peaks = memory.CudaPeaks(self.device) if self.device.type == "cuda" else None

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Go back to where the checkpoint was written."""
        checkpoints.restore_model(self.model, checkpoint)
        optim.restore_optimizer(self.model, self.optimizer, checkpoint.optimizer)
        state, clips = checkpoint.state, len(self.loader.data)
        if state["clips"] != clips:
            raise ConfigError(
                f"data.train: it has {clips} clips now and had {state['clips']} when the run was started."
            )
        self.step, self.skipped, self.stale, self.best = (state[k] for k in ("step", "skipped", "stale", "best"))
        before = runs.stored_config(checkpoint)
        if (before.steps, before.epochs) != (self.config.steps, self.config.epochs):
            self.stale = 0  # extended since: patience counts anew
        try:
            if state["scaler"]:
                self.scaler.load_state_dict(state["scaler"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise checkpoints.CheckpointError(f"checkpoint {checkpoint.path} has no usable scaler: {error}.") from error
        self.saved = checkpoint.path

    def extend(self) -> None:
        """Write the new length into the run's configuration; ConfigError if no step is left to take."""
        if self.steps <= self.step:
            raise ConfigError(f"extend: got {self.steps} steps in all, want more than the {self.step} taken.")
        runs.extend(self.config, self.step, self.steps)

    def open_logs(self, progress: bool, stack: ExitStack) -> None:
        """Open the logs, without what they hold of later steps, and the display."""
        self.logs = Logs(self.run, self.step, self.config.tensorboard)
        stack.callback(self.logs.close)
        self.display = Display(progress, self.step, self.steps)
        stack.callback(self.display.close)

    def loop(self, interrupt: Interrupt) -> Ending:
        """Train until the last step, patience runs out or a signal asks to stop; says which."""
        config, ending = self.config, self._ending()
        stream = None if ending else self.loader.batches(self.step * config.optim.accumulate)
        while stream is not None and ending is None:
            with memory.measuring(self.peaks):
                result = self.update(stream)
            self.step += 1
            last = self.step == self.steps
            evaluate = last or self.step % config.eval_every == 0
            save = last or self.step % config.checkpoint_every == 0
            self._log(result, last, evaluate or save)
            better = self.evaluate() if evaluate else False
            ending = self._ending() or ("interrupted" if interrupt.received else None)
            if save or better or ending:
                self.save(better)
        if self.saved is None:  # no step was asked for: the starting weights become a run that can be evaluated
            self.save(self.evaluate())
        return ending or "finished"

    def update(self, stream: Iterator[Batch]) -> StepResult:
        """One optimiser step over `accumulate` micro-batches: the gradient is the mean of theirs."""
        config, settings = self.config, self.config.optim
        self.model.train()
        self.frozen.eval()
        self.optimizer.zero_grad(set_to_none=True)
        optim.set_lr(self.optimizer, optim.lr_factor(self.step, self.steps, self.warmup_steps))
        total = torch.zeros((), device=self.device)
        stats: dict[str, Tensor] = {}
        for micro in range(settings.accumulate):
            number = self.step * settings.accumulate + micro
            with memory.phase("data"):
                started = time.perf_counter()
                batch = next(stream)
                self.meter.add(len(batch), time.perf_counter() - started)
                batch = batch.to(self.device)
            torch.manual_seed(torch_generator(config.seed, "dropout", number).initial_seed())
            masks = torch_generator(config.seed, "mask", number)
            encode = gradcache.encoding(self.model, settings.chunk)
            with torch.autocast(self.device.type, _DTYPES[settings.amp], enabled=settings.amp != "off"):
                loss, logs = training_losses(self.model, batch, config, masks, encode)
            with memory.phase("backward"):
                encode.backward(self.scaler.scale(loss / settings.accumulate))
            total += loss.detach() / settings.accumulate
            for name, value in logs.items():
                stats[name] = stats[name] + value if name in stats else value
        with memory.phase("optimizer"):
            self.scaler.unscale_(self.optimizer)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip or math.inf)
            loss_value, norm_value = torch.stack([total, norm.to(total)]).tolist()
            result = StepResult(loss_value, norm_value, stats)
            self._check(result)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return result

    def evaluate(self) -> bool:
        """Dev metrics into the logs; whether they are a new best."""
        started = time.perf_counter()
        if self.dev is None:
            values = batch_metrics(self.model, self.loader.batch(0).to(self.device))
        else:
            values = dev_metrics(self.model, self.dev, self.config.workers, self.config.data.same_text)
        value = values[self.config.best_metric]
        better = self.best is None or value > self.best["value"]
        self.stale = 0 if better else self.stale + 1
        if better:
            self.best = {"step": self.step, "value": value}
        seconds = time.perf_counter() - started
        self.logs.write("dev", {"step": self.step, **values, "best": better, "seconds": seconds})
        mark = " (best)" if better else ""
        self.display.say(f"step {self.step}/{self.steps}: dev {self.config.best_metric} {value:.4f}{mark}")
        return better

    def save(self, best: bool) -> None:
        """Write a checkpoint of this step."""
        self.logs.sync()
        state = {
            "step": self.step,
            "clips": len(self.loader.data),
            "best": self.best,
            "stale": self.stale,
            "skipped": self.skipped,
            "scaler": self.scaler.state_dict(),
            "config": to_dict(self.config),
            "trains_uncertainty": self.config.trains_uncertainty,
            "versions": self.versions,
            "vocabulary": self.model.vocabulary.to_json(),
        }
        tensors = optim.optimizer_tensors(self.model, self.optimizer)
        self.saved = checkpoints.save(self.run, state, self.model.state_dict(), tensors, best=best)

    def _log(self, result: StepResult, last: bool, check: bool) -> None:
        """Check the statistics and write them down, where that is due."""
        log = last or self.step == 1 or self.step % self.config.log_every == 0
        if not log and not check:
            return self.display.update(self.step)
        row = self._row(result)
        warm = self.step > self.warmup_steps
        self._stop_if(unusable_uncertainty(row, self.config, warm), self.step)
        if not log:
            return self.display.update(self.step)
        row |= self.meter.read() | (self.peaks.read() if self.peaks else {})
        self.logs.write("train", row)
        return self.display.update(self.step, row)

    def _row(self, result: StepResult) -> dict[str, Any]:
        names = list(result.stats)
        values = torch.stack([result.stats[name].float() for name in names]) / self.config.optim.accumulate
        rates = optim.learning_rates(self.config.optim, optim.lr_factor(self.step - 1, self.steps, self.warmup_steps))
        norm = result.grad_norm if math.isfinite(result.grad_norm) else None  # a step that the scaler skipped
        row = {"step": self.step, "loss": result.loss, "grad_norm": norm, **rates}
        return row | dict(zip(names, values.tolist(), strict=True))

    def _check(self, result: StepResult) -> None:
        """Stop on a loss or gradient that is not finite; under fp16 the scaler may skip some steps first."""
        if not math.isfinite(result.loss):
            terms = {name: float(value) for name, value in result.stats.items() if name.startswith("loss/")}
            self._stop_if(not_finite({"the loss": result.loss, **terms}), self.step + 1)
        self.skipped = 0 if math.isfinite(result.grad_norm) else self.skipped + 1
        allowed = self.config.safety.max_skipped if self.scaler.is_enabled() else 0
        if self.skipped > allowed:
            often = f" for {self.skipped} steps in a row" if allowed else ""
            self._stop_if(f"the gradient norm is {result.grad_norm}{often}", self.step + 1)

    def _stop_if(self, reason: str | None, step: int) -> None:
        if reason:
            raise TrainingStopped(step, reason, self.saved)

    def _ending(self) -> Ending | None:
        if self.step >= self.steps:
            return "finished"
        return "early" if 0 < self.config.patience <= self.stale else None
