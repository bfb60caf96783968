"""Checkpoints: exact, whole or not there, and only what a pointer names is kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prolap.config.loading import to_dict
from prolap.models.model import build_model
from prolap.models.tokenizers import WordVocabulary
from prolap.training.config import load_config
from prolap.training.optim import optimizer_tensors, restore_optimizer
from prolap.utils.files import write_text
from prolap.weights import checkpoint as checkpoints
from prolap.weights.checkpoint import CheckpointError, load_model, name_of, pointed, read, read_latest


def stepped(steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        (model(torch.full((2, 3), float(step))) ** 2).sum().backward()
        optimizer.step()
    return model, optimizer


def save(run: Path, step: int, *, best: bool = False) -> Path:
    model, optimizer = stepped(step)
    state: dict[str, Any] = {"step": step, "best": {"step": step, "value": 0.5} if best else None}
    tensors = optimizer_tensors(model, optimizer)
    return checkpoints.save(run, state, model.state_dict(), tensors, best=best)


def folders(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir()}


def test_model_and_optimizer_come_back_exactly_and_train_on_alike(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    found = read(path)
    assert found.step == 3
    model, optimizer = stepped(0)
    checkpoints.restore_model(model, found)
    restore_optimizer(model, optimizer, found.optimizer)
    other, reference = stepped(3)
    assert optimizer.state[model[0].weight]["step"] == 3  # type: ignore[index]
    for m, o in ((model, optimizer), (other, reference)):
        o.zero_grad()
        (m(torch.full((2, 3), 3.0)) ** 2).sum().backward()
        o.step()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_only_latest_and_best_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, best=True)
    assert folders(tmp_path) == {"latest", "best", name_of(1)}
    save(tmp_path, 2)
    save(tmp_path, 3)
    assert folders(tmp_path) == {"latest", "best", name_of(1), name_of(3)}
    save(tmp_path, 4, best=True)
    assert folders(tmp_path) == {"latest", "best", name_of(4)}
    assert pointed(tmp_path, "latest") == pointed(tmp_path, "best") == tmp_path / "checkpoints" / name_of(4)


def test_nothing_is_pointed_at_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever call on the disk fails, the checkpoint before stays the latest, or the new one is, complete."""
    save(tmp_path, 1)
    calls = 0

    class Failed(Exception):
        pass

    def failing(real: Any, at: int) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                raise Failed
            return real(*arguments)

        return call

    replace, fsync, seen = os.replace, os.fsync, set()
    for at in range(1, 40):
        calls = 0
        monkeypatch.setattr(os, "replace", failing(replace, at))
        monkeypatch.setattr(os, "fsync", failing(fsync, at))
        try:
            save(tmp_path, 1 + at)
            done = True
        except Failed:
            done = False
        monkeypatch.undo()
        found = read_latest(tmp_path)
        assert found is not None
        expected, _ = stepped(found.step)
        assert torch.equal(found.model["0.weight"], expected.state_dict()["0.weight"])
        seen.add(found.step == 1 + at)
        if done:
            break
    assert done
    assert seen == {True, False}


def test_leftovers_of_a_kill_are_deleted(tmp_path: Path) -> None:
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    (folder / ".writing-step-00000002").mkdir()
    (folder / ".writing-step-00000002" / "model.safetensors").write_bytes(b"half")
    (folder / ".latest.tmp").write_text("step-0000")
    (folder / name_of(2)).mkdir()
    (folder / name_of(0)).mkdir()
    checkpoints.prune(tmp_path)
    assert folders(tmp_path) == {"latest", name_of(1), name_of(2)}  # what nothing replaced stays


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_damage_is_seen_and_the_one_before_is_taken(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 1, best=True)
    latest = save(tmp_path, 2)
    file = latest / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.write_bytes(
            content.replace(b'"step": 2', b'"step": 9') if name == "state.json" else content[:-1] + b"\x7f"
        )
    with pytest.raises(CheckpointError, match="missing|damaged|cannot be read"):
        read(latest)
    with pytest.warns(RuntimeWarning, match="Going on from step-00000001"):
        found = read_latest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert pointed(tmp_path, "latest") == tmp_path / "checkpoints" / name_of(1)


def test_without_a_good_one_the_error_says_so(tmp_path: Path) -> None:
    assert read_latest(tmp_path) is None
    (save(tmp_path, 1) / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no good checkpoint in .*model.safetensors does not match"):
        read_latest(tmp_path)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    torch.save({"0.weight": torch.zeros(1)}, path / "model.safetensors")
    record = json.loads((path / "state.json").read_text())
    record["content"]["files"]["model.safetensors"] = checkpoints.sha256(path / "model.safetensors")
    record["sha256"] = checkpoints._digest(record["content"])
    (path / "state.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(path)


def test_an_unknown_parameter_and_another_shape_are_errors(tmp_path: Path) -> None:
    found = read(save(tmp_path, 1))
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(CheckpointError, match=r"'1\.(bias|weight)', which the model lacks"):
        restore_optimizer(model, torch.optim.Adam(model.parameters()), found.optimizer)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        checkpoints.restore_model(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)), found)


def test_load_model_of_a_run_and_of_a_checkpoint(tmp_path: Path) -> None:
    config = load_config(overrides=["model.width=16", "model.dim=8", "model.dropout=0.5"])
    vocabulary = WordVocabulary.build(["a slow tone", "a fast one"])
    model = build_model(config, vocabulary)
    state = {"config": to_dict(config), "vocabulary": vocabulary.to_json(), "best": None}
    for step in (1, 2):
        with torch.no_grad():
            model.bias.fill_(float(step))
        path = checkpoints.save(tmp_path, state | {"step": step}, model.state_dict(), {}, best=step == 1)
    loaded = load_model(tmp_path)
    found = [loaded, load_model(tmp_path, "last"), load_model(path)]
    assert [model.bias.item() for model in found] == [1, 2, 2]
    assert not loaded.training
    assert to_dict(loaded.config).items() <= to_dict(config).items()
    expected = model.embed_text(["a slow one"])
    assert torch.equal(loaded.embed_text(["a slow one"]).mean, expected.mean)


def test_load_model_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a run folder"):
        load_model(tmp_path)
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="no best checkpoint yet; `--which last`"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="which: got 'first'"):
        load_model(tmp_path, "first")  # type: ignore[arg-type]


def test_text_files_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a", "old")

    def fail(*_: Any) -> None:
        raise OSError("disk")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk"):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
