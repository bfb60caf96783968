"""Modules of a user's own bring terms, encoders and layouts: to training, resuming, evaluation and the help."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from prolap.config.options import ConfigError
from prolap.training.config import load_config
from prolap.weights.checkpoint import load_model
from tests.prolap.tiny import as_words, tiny_options

ROOT = Path(__file__).parents[3]
TOY = '''
"""A term, an encoder and a layout of a user's own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prolap.data.files.layouts import register as register_layout
from prolap.data.files.layouts.manifest import Manifest
from prolap.models.encoders import register_audio
from prolap.models.encoders.tiny import TinyAudio
from prolap.training.terms import Term, TermConfig, register


@dataclass(frozen=True)
class CentreConfig(TermConfig):
    """Pulls the mean of all embeddings to zero."""

    power: float = 2.0
    """Exponent of the distance."""


@register
class Centre(Term):
    name = "centre"
    config = CentreConfig

    def loss(self, views, config, logit) -> Tensor:
        return views.audio.mean.mean(dim=0).abs().pow(config.power).sum()


@register_audio
class ToyAudio(TinyAudio):
    name = "toy"


@register_layout
class ToyLayout(Manifest):
    name = "toy"
    form = "toy:FOLDER"

    def rows(self, path, split):
        return super().rows(f"{path}/{split}.csv", split)

    def own_splits(self, path) -> bool:
        return True
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The current folder of the commands, with the module `toy_plugin` in it."""
    (tmp_path / "toy_plugin.py").write_text(TOY)
    return tmp_path


def prolap(folder: Path, *words: str, status: int = 0) -> str:
    """What `prolap WORDS` prints, called in this folder as the installed script is, which does not see the folder."""
    code = "import sys; sys.path.remove(''); from prolap.cli.main import main; sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "110", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def toy_words(data: Path, **changes: object) -> list[str]:
    options = tiny_options(data, Path("run"), steps=2, eval_every=2, loss__centre__weight=0.5, loss__centre__power=3)
    return as_words(options | {"model.audio": "toy", "data.train": f"toy:{data}", "data.test": "none"} | changes)


def test_train_resume_and_evaluate_with_a_module_of_the_current_folder(folder: Path, data: Path) -> None:
    plugins = ["--plugins", "toy_plugin"]
    prolap(folder, "train", "--quiet", *plugins, *toy_words(data))
    config = yaml.safe_load((folder / "run/config.yaml").read_text())
    assert config["plugins"] == ["toy_plugin"]
    assert config["loss"]["centre"] == {"weight": 0.5, "power": 3.0}
    assert "loss/centre" in (folder / "run/train.jsonl").read_text()
    # the run's own configuration is a file of options, so that its plug-ins are imported again
    weights = (folder / "run/checkpoints/step-00000002/model.safetensors").read_bytes()
    shutil.rmtree(folder / "run/checkpoints")
    assert "2 steps" in prolap(folder, "train", "--quiet", "--resume", "run")
    assert (folder / "run/checkpoints/step-00000002/model.safetensors").read_bytes() == weights
    # a checkpoint is data: what it was trained with is named, and imported when asked for
    asked = prolap(folder, "evaluate", "run", "--quiet", status=2)
    assert "model.audio: got 'toy', want one of" in asked
    assert "`--plugins toy_plugin` imports them" in asked
    prolap(folder, "evaluate", "run", "--quiet", "--plugins", "json,toy_plugin")
    assert json.loads((folder / "run/report/metrics.json").read_text())["config"]["model"]["audio"] == "toy"


def test_options_of_plugins_stand_in_the_help(folder: Path) -> None:
    (folder / "my.yaml").write_text("plugins: toy_plugin\nloss: {centre: {power: 5}}\n")
    out = prolap(folder, "train", "--help", "--config", "my.yaml")
    assert "--loss.centre.power FLOAT" in out
    assert "Exponent of the distance. (default: 5.0)" in out


def test_a_plugin_that_cannot_be_imported_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(
        ConfigError, match=r"plugins: got 'no_such' on the command line, which .*No module named 'no_such'\)\.$"
    ):
        load_config(overrides=["--plugins", "no_such"])
    (folder / "clash.py").write_text(TOY.replace('"centre"', '"pairs"'))
    (folder / "my.yaml").write_text("plugins: [clash]\n")
    with pytest.raises(ConfigError, match=r"plugins: got 'clash' in .*my.yaml, which cannot be imported .*'pairs'"):
        load_config(file=folder / "my.yaml")


def test_plugins_of_all_layers_and_of_installed_packages_are_imported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    for name in ("of_file", "of_words", "of_word", "installed"):
        (folder / f"plugin_{name}.py").write_text("")
    info = folder / "plugin_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: plugin-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[prolap.plugins]\nmine = plugin_installed\n")
    (folder / "my.yaml").write_text("plugins: plugin_of_file\n")
    words = ["--plugins", "plugin_of_words", "--seed=3", "--plugins=plugin_of_word,plugin_of_file"]
    config = load_config(file=folder / "my.yaml", overrides=words)
    expected = ("plugin_installed", "plugin_of_file", "plugin_of_words", "plugin_of_word")
    assert config.plugins == expected
    assert set(expected) <= set(sys.modules)


SPAWNED = """
import sys
import torch.multiprocessing
from prolap.cli.main import main
if __name__ == "__main__":
    torch.multiprocessing.set_start_method("spawn")
    sys.exit(main())
"""


def test_workers_that_are_started_afresh_see_two_plugins_and_a_model_of_their_terms_needs_none(
    folder: Path, data: Path
) -> None:
    (folder / "spawned.py").write_text(SPAWNED)
    (folder / "other_plugin.py").write_text(TOY.replace("centre", "other").replace('"toy', '"other'))
    words = ["--plugins", "toy_plugin", "--plugins=other_plugin", *toy_words(data, **{"model.audio": "tiny"})]
    words += ["--loss.other.weight=1", "--workers=1", "--dry-run", "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "spawned.py", "train", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "loss/other" in (folder / "run/train.jsonl").read_text()
    assert "data: got 'toy:" in prolap(folder, "evaluate", "run", "--quiet", "--workers=0", status=2)
    assert load_model(folder / "run").config.plugins == ("toy_plugin", "other_plugin")
