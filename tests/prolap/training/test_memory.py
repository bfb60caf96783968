"""Peak memory by phase: what is counted, where it is logged, and what `prolap memory` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prolap.cli.main import main
from prolap.training import logs, memory
from prolap.training.config import load_config
from prolap.training.memory import PHASES, CudaPeaks, TracedPeaks, measuring, phase
from prolap.training.synthetic import SyntheticLoader, peak_memory, synthetic_trainer
from prolap.training.train import Trainer, train
from tests.prolap.tiny import tiny_config

MB = 1 << 20
SMALL = {
    "preset": "prolap+tiny",
    "batch_size": 32,
    "device": "cpu",
    "model.width": 32,
    "model.dim": 16,
    "data.seconds": 2,
}


def megabytes(count: int) -> torch.Tensor:
    return torch.empty(count * MB, dtype=torch.uint8)


def test_phases_hold_their_own_peaks_and_what_was_there_before() -> None:
    before = megabytes(64)
    with TracedPeaks() as peaks, measuring(peaks):
        kept = [megabytes(2)]
        with phase("encode"):
            kept.clear()
            kept.append(megabytes(3))
            megabytes(4)
        megabytes(32)
        for size in (8, 16):
            with phase("losses"):
                megabytes(size)
    del before
    sizes = {name: round(size / MB) for name, size in peaks.bytes.items()}
    assert sizes == {"all": 3 + 32, "encode": 3 + 4, "losses": 3 + 16}


def test_a_phase_that_nobody_measures_is_nothing() -> None:
    with TracedPeaks() as peaks:
        with phase("encode"):
            megabytes(1)
        with measuring(peaks), phase("losses"):
            pass
        with phase("backward"):
            pass
    assert peaks.bytes.keys() == {"all", "losses"}


class Allocator:
    """torch's statistics of a GPU that is not there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alive = self.peak = 0
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.reset)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.peak)

    def reset(self, device: torch.device) -> None:
        self.peak = self.alive

    def use(self, size: int) -> None:
        self.peak = max(self.peak, self.alive + size)


def test_on_a_gpu_the_allocator_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator, peaks = Allocator(monkeypatch), CudaPeaks(torch.device("cuda"))
    with measuring(peaks):
        for size in (3, 5, 4):
            with phase("encode"):
                allocator.use(size * 10**9)
        with phase("losses"):
            allocator.use(10**9)
    assert peaks.read() == {"memory/encode": 5.0, "memory/losses": 1.0}
    assert peaks.read() == {}


def test_every_log_row_of_a_gpu_has_the_peaks_of_its_phases(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Allocator(monkeypatch).alive = 2 * 10**9
    open_logs = Trainer.open_logs

    def on_a_gpu(self: Trainer, *arguments: Any) -> None:
        self.peaks = CudaPeaks(torch.device("cuda"))
        open_logs(self, *arguments)

    monkeypatch.setattr(Trainer, "open_logs", on_a_gpu)
    train(tiny_config(data, tmp_path / "run", steps=2), progress=False)
    rows = logs.read(tmp_path / "run" / "train.jsonl")
    assert [[row[f"memory/{name}"] for name in PHASES] for row in rows] == [[2.0] * 5] * 2
    assert {f"memory/{name}" for name in PHASES} < set(logs.TIMING)


@pytest.mark.parametrize("text", ["tiny", "gpt2-micro", "roberta-micro"])
def test_synthetic_captions_are_as_long_as_they_can_be(text: str) -> None:
    config = load_config(overrides=SMALL | {"model.text": text, "model.max_tokens": 9, "batch_size": 3})
    trainer = synthetic_trainer(config)
    batch = SyntheticLoader(config).batch(0)
    assert batch.tokens.shape == (3, 9)
    maskable = trainer.model.text_grid(batch.tokens)
    assert maskable.sum(dim=1).tolist() == [7 if text == "roberta-micro" else 8] * 3
    assert batch.audio.shape[:2] == (3, 100)
    assert torch.equal(batch.audio, SyntheticLoader(config).batch(0).audio)


@pytest.fixture(scope="module")
def whole() -> dict[str, int]:
    return peak_memory(load_config(overrides=SMALL), 2)


def test_peak_memory_counts_what_a_step_takes(whole: dict[str, int]) -> None:
    assert whole.keys() == {*PHASES, "all", "weights", "gradients", "state"}
    assert whole["all"] == max(whole[name] for name in PHASES)
    assert whole["gradients"] <= whole["weights"]
    assert 2 * whole["gradients"] <= whole["state"] <= 2.1 * whole["gradients"]
    held = whole["weights"] + whole["gradients"] + whole["state"]
    assert all(whole[name] > 0.7 * held for name in PHASES)
    assert whole["encode"] < whole["losses"] + MB < whole["backward"] + 2 * MB


def test_chunks_take_less_and_so_do_mixtures_in_chunks(whole: dict[str, int]) -> None:
    chunked = peak_memory(load_config(overrides=SMALL | {"optim.chunk": 4}), 2)
    for name in ("encode", "losses", "backward"):
        assert chunked[name] < 0.9 * whole[name], name
    for name in ("weights", "gradients", "state"):
        assert chunked[name] == whole[name]
    mixed = SMALL | {"preset": "mixprolap+tiny"}
    peaks = [peak_memory(load_config(overrides=mixed | {"optim.chunk": chunk}), 1) for chunk in (0, 4)]
    assert peaks[1]["backward"] < 0.9 * peaks[0]["backward"]


def test_the_command_prints_a_line_for_each_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--{name}={value}" for name, value in SMALL.items()]
    assert main(["memory", "--steps", "1", "--json", str(tmp_path / "m.json"), "--optim.chunk=8", *words]) == 0
    out = capsys.readouterr().out
    assert out.startswith("prolap+tiny: 32 pairs, chunks of 8, without checkpointing, amp off\n")
    found = json.loads((tmp_path / "m.json").read_text())
    for name in (*PHASES, "all", "weights"):
        assert f"{found[name] / 1e9:.3f} GB" in next(line for line in out.splitlines() if line.startswith(name))
    assert main(["memory", "--steps", "0", *words]) == 2
    assert "steps: got 0, want at least 1" in capsys.readouterr().err


def test_the_order_of_events_does_not_matter() -> None:
    def change(ts: float, size: int) -> dict[str, object]:
        return {"name": "[memory]", "ts": ts, "args": {"Bytes": size}}

    def mark(ts: float, dur: float, name: str) -> dict[str, object]:
        return {"ph": "X", "name": f"prolap.training.memory.{name}", "ts": ts, "dur": dur}

    events = [mark(1, 2, "data"), mark(5, 2, "encode"), change(6, 7), change(2, 5), change(4, -3), change(9, 1)]
    for order in (events, events[::-1]):
        assert memory._by_phase(order) == {"all": 10, "data": 5, "encode": 9}
    assert memory._by_phase([]) == {"all": 0}
