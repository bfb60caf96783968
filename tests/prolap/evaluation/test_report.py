"""The report is a folder of its own, replaced as a whole; it names what it compares."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from prolap.cli.main import main
from prolap.utils import files
from tests.prolap.tiny import as_words, tiny_options


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def put(folder: Path, text: str) -> None:
    with files.atomic_folder(folder, "mark") as new:
        (new / "mark").write_text(text)


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    put(tmp_path / "out", "one")
    (tmp_path / "out" / "stale.png").write_text("")
    put(tmp_path / "out", "two")
    assert contents(tmp_path / "out") == {"mark": b"two"}
    with pytest.raises(RuntimeError), files.atomic_folder(tmp_path / "out", "mark") as new:
        (new / "mark").write_text("three")
        raise RuntimeError
    assert contents(tmp_path / "out") == {"mark": b"two"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_others_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(FileExistsError, match="not a folder with mark, and is not empty"):
        put(tmp_path, "one")
    assert contents(tmp_path) == {"thesis.tex": b"years"}


def test_a_killed_writer_leaves_the_old_folder_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    put(tmp_path / "out", "one")
    code = (
        "import os, signal, sys, pathlib\n"
        "from prolap.utils.files import atomic_folder\n"
        "with atomic_folder(pathlib.Path(sys.argv[1]), 'mark') as new:\n"
        "    (new / 'mark').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    assert contents(tmp_path / "out") == {"mark": b"one"}
    assert len(list(tmp_path.iterdir())) == 2
    put(tmp_path / "out", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_reports_stand_apart_and_name_what_they_compare(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"run": {"preset": "prolap+tiny"}, "baseline": {"preset": "siglip+tiny", "steps": 2, "model.dim": 4}}
    for name, options in changes.items():
        words = as_words({**tiny_options(data, tmp_path / name, steps=3), **options})
        assert main(["train", "--quiet", *words]) == 0
    run, baseline = str(tmp_path / "run"), str(tmp_path / "baseline")
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["evaluate", run, "--quiet", "--baseline", baseline]) == 0
    warned = capsys.readouterr().err
    assert "it was not trained like the model: model.dim 4 (the model's: 8); 2 steps (the model's: 3)." in warned
    first = contents(tmp_path / "run" / "report")
    found = json.loads(first["metrics.json"])
    assert found["baseline_differs"] == ["model.dim 4 (the model's: 8)", "2 steps (the model's: 3)"]
    assert found["sources"]["model"]["checkpoint"].startswith(f"{run}/checkpoints/step-")
    assert found["sources"]["baseline"]["step"] == 2
    assert len(found["sources"]["baseline"]["sha256"]) == 64
    rows = list(csv.DictReader(first["retrieval.csv"].decode().splitlines()))
    assert [(row["model"], row["direction"]) for row in rows] == [
        (model, way) for model in ("model", "baseline") for way in ("t2a", "a2t")
    ]
    assert float(rows[0]["r1"]) == found["retrieval"]["t2a"]["r1"]
    for other in ([], ["--out", str(tmp_path / "elsewhere")]):
        assert main(["evaluate", run, "--quiet", "--data", str(data / "train.csv"), *other]) == 0
    assert contents(tmp_path / "run" / "report") == first
    assert (tmp_path / "elsewhere" / "losses.png").exists()
    assert len(list((tmp_path / "run").glob("report-test-*/metrics.json"))) == 1
    assert main(["evaluate", run, "--quiet", "--baseline", run]) == 2
    assert "is probabilistic (model.score=csd); want a deterministic run" in capsys.readouterr().err
