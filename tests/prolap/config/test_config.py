"""Preset, file and command line become one Config; errors name the option and where it was set."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from prolap.config.loading import differences, from_dict, to_dict, to_yaml
from prolap.config.options import ConfigError, convert, leaves, options
from prolap.training.config import Config, load_config


def test_layers_override_each_other_in_order(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("preset: siglip\nseed: 3\nbatch_size: 32\noptim:\n  lr: 1e-4\n  amp: off\n")
    config = load_config(file=file, overrides=["--batch-size", "16", "optim.betas=0.8,0.9"])
    assert config.preset == "siglip"
    assert config.model.score == "dot"  # from the preset
    assert (config.seed, config.optim.lr, config.optim.amp) == (3, 1e-4, "off")  # from the file
    assert (config.batch_size, config.optim.betas) == (16, (0.8, 0.9))  # from the command line
    assert load_config(preset="clap", file=file).loss.pairs.objective == "softmax"


def test_toml_and_yaml_mean_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("dry_run: true\nthreads: null\nmodel: {logvar_bounds: [-8, 2.5]}\nloss:\n")
    (tmp_path / "a.toml").write_text("dry_run = true\nthreads = 'none'\n[model]\nlogvar_bounds = [-8, 2.5]\n")
    one, other = load_config(file=tmp_path / "a.yaml"), load_config(file=tmp_path / "a.toml")
    assert one == other
    assert one.dry_run
    assert one.model.logvar_bounds == (-8.0, 2.5)


def test_words_of_the_command_line() -> None:
    config = load_config(overrides=["--dry-run", "--optim.betas", "0.5", "0.6", "--model.bias-init", "-3", "--seed=7"])
    assert (config.dry_run, config.optim.betas, config.model.bias_init, config.seed) == (True, (0.5, 0.6), -3.0, 7)
    assert load_config(overrides=["--dry_run", "false"]).dry_run is False
    assert load_config(overrides={"optim": {"lr": 0.5}, "data.dev": None}).optim.lr == 0.5


def test_steps_and_epochs_the_last_one_set_counts(tmp_path: Path) -> None:
    assert load_config(preset="prolap").epochs == 50
    config = load_config(preset="prolap", overrides=["steps=10", "optim.warmup=0.1"])
    assert (config.steps, config.epochs, config.optim.warmup_epochs) == (10, None, None)
    (tmp_path / "a.yaml").write_text("steps: 10\n")
    assert load_config(file=tmp_path / "a.yaml", overrides=["epochs=2"]).epochs == 2
    assert load_config(overrides=["--epochs", "2", "--steps", "5"]).epochs is None
    assert load_config(overrides=["--steps", "5", "--epochs", "2"]).epochs == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optim.lrr", "1"], "unknown option 'optim.lrr' on the command line; did you mean optim.lr?"),
        (["lr=1"], "unknown option 'lr' on the command line; did you mean optim.lr?"),
        (["--batchsize=3"], "did you mean batch_size?"),
        (["--preset", "prolp"], "preset: got 'prolp' on the command line, want one of .*did you mean prolap?"),
        (["--optim.amp", "bf15"], "optim.amp: got 'bf15' on the command line, want one of off, bf16, fp16"),
        (["--seed", "x"], "seed: got 'x' on the command line, want a whole number"),
        (["--seed"], "seed: got no value on the command line, want a whole number"),
        (["--threads", "few"], "threads: got 'few' .*, want a whole number"),
        (["--optim.lr", "nan"], "optim.lr: got 'nan' .*, want a number"),
        (["--optim.betas", "1"], "optim.betas: got .*, want 2 numbers"),
        (["--dry-run=maybe"], "dry_run: got 'maybe' .*, want true or false"),
        (["--optim", "3"], "optim: got a single value .*, want a section"),
        (["steps"], "'steps' on the command line is no option"),
        (["--steps", "-1"], "steps: got '-1' on the command line, want a whole number of 0 or more"),
        (["--mask.ratio", "1"], "mask.ratio: got '1' .*, want a number of 0 or more and below 1"),
        (["--mask.share", "1.5"], "mask.share: got '1.5' .*, want a number from 0 to 1"),
        (["--optim.lr", "0"], "optim.lr: got '0' .*, want a number above 0"),
        (["--best-metric", "loss"], "best_metric: got 'loss' .*, want one of r1_t2a, r1_a2t, r1_mean"),
    ],
)
def test_errors_of_the_command_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(overrides=words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "optim:\n  rl: 3\n", r"unknown option 'optim.rl' in .*a.yaml; did you mean optim.lr\?"),
        ("a.yaml", "steps: many\n", "steps: got 'many' in .*a.yaml, want a whole number"),
        ("a.yaml", "steps: [1, 2]\n", r"steps: got \['1', '2'\] in .*a.yaml, want a whole number"),
        ("a.yaml", "- 1\n", "got a list in .*a.yaml, want options by name"),
        ("a.yaml", "a: b: c\n", "a.yaml is not valid YAML"),
        ("a.yaml", "run: !!python/object/apply:os.system [ls]\n", "run: got .* want text"),
        ("a.toml", "steps = \n", "a.toml is not valid TOML"),
        ("a.json", "{}", "want a file that ends in .yaml, .yml or .toml"),
    ],
)
def test_errors_of_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(file=tmp_path / name)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration .*nowhere.yaml"):
        load_config(file=tmp_path / "nowhere.yaml")


def test_every_option_survives_yaml_and_json(tmp_path: Path) -> None:
    config = load_config(overrides=["seed=5", "threads=3", "optim.lr=1e-5", "data.dev=d.csv", "optim.amp=bf16"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_config(file=tmp_path / "config.yaml") == config
    assert from_dict(json.loads(json.dumps(to_dict(config))), "in a test", Config()) == config
    assert to_dict(config)["optim"]["betas"] == [0.9, 0.999]


def test_differences_are_named_by_option() -> None:
    one, other = load_config(), load_config(overrides=["seed=1", "optim.lr=1", "run=x"])
    assert differences(one, other, ignore=["run"]) == [("seed", 0, 1), ("optim.lr", 1e-5, 1.0)]


def test_every_section_and_option_has_a_docstring() -> None:
    sections = [Config()]
    for section in sections:
        inner = {name for name, value in vars(section).items() if dataclasses.is_dataclass(value)}
        sections += [getattr(section, name) for name in inner]
        for cls in type(section).__mro__[:-1]:
            assert cls.__doc__, cls
            body = ast.parse(inspect.getsource(cls)).body[0].body if cls.__module__.startswith("prolap") else []  # type: ignore[attr-defined]
            for field, after in zip(body, [*body, None][1:], strict=True):
                if isinstance(field, ast.AnnAssign) and ast.unparse(field.target) not in inner:
                    assert isinstance(after, ast.Expr), f"{cls.__name__}.{ast.unparse(field.target)} has no docstring"
    assert len(sections) > 12


def test_every_default_is_of_its_type_and_in_its_range() -> None:
    for name, hint, value in options(Config()):
        assert convert(value, hint) == value, name


def test_configurations_cannot_be_changed() -> None:
    assert len(leaves(Config())) > 60
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().optim.lr = 1.0  # type: ignore[misc]


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, prolap, prolap.cli.main, prolap.config.loading;"
        "heavy = {'torch', 'torchaudio', 'transformers', 'urllib.request', 'soundfile', 'matplotlib'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


LAUGHS = "a0: &a0 [x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 6)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize("name, text, message", [
    ("o.yaml", LAUGHS + "run: *a8\n", "holds .* values, want at most 10,000"),
    ("o.yaml", "[" * 5000, "nested too deeply"),
    ("o.toml", "a = " + "[" * 5000, "nested too deeply"),
    ("o.toml", "a" + ".a" * 50_000 + " = 1", "a line of 100,005"),
    ("o.yaml", "#\n" * (1 << 17) + "run: x\n", "it has 262,151 characters"),
])  # fmt: skip
def test_a_file_that_grows_or_nests_without_end_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=f"is no file of options: .*{message}"):
        load_config(file=tmp_path / name)
