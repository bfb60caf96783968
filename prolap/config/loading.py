"""From a preset, a file and the command line to a configuration, with errors that name the option and where it was set.

Files and command line go the same way: everything becomes text by dotted name, and one converter reads it by the type
of the field. YAML is read without guessing types, so that `amp: off` and `lr: 1e-5` mean what they say.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from prolap.config import BaseConfig
from prolap.config.options import SWITCH, ConfigError, check, convert, describe, hint_of, leaves, options

COMMAND_LINE = "on the command line"
_SUPERSEDES = {"steps": "epochs", "optim.warmup": "optim.warmup_epochs"}  # set later without the other, it wins
Config = TypeVar("Config", bound=BaseConfig)
Layer = dict[str, tuple[Any, str]]
"""Dotted name -> (text or list of texts, where it was set)."""


def load(
    default: Config,
    preset: str | None = None,
    file: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> Config:
    """`default` with the preset's settings, over them those of a YAML or TOML file, over them the overrides.

    overrides: words as on the command line (`--optim.lr 1e-4`, `--optim.lr=1e-4` or `optim.lr=1e-4`), or a mapping of
    dotted names to values. Without `preset`, the overrides or the file may name one. Raises ConfigError.
    """
    known, layers = options(default), []
    if file is not None:
        layers.append(_flatten(_read_file(Path(file)), f"in {file}", known))
    if isinstance(overrides, Mapping):
        layers.append(_flatten(overrides, "in the overrides", known))
    else:
        layers.append(parse_words(overrides, known))
    if preset is not None:
        layers.append({"preset": (preset, COMMAND_LINE)})
    named = [layer["preset"] for layer in layers if "preset" in layer]
    name, source = named[-1] if named else (default.preset, "by default")
    return _merge(default, [*_preset_layers(str(name), source, known), *layers])


def from_dict(values: Mapping[str, Any], source: str, default: Config) -> Config:
    """The inverse of `to_dict`, over `default`; `source` says in errors where the values come from."""
    return _merge(default, [_flatten(values, source, options(default))])


def to_dict(config: BaseConfig) -> dict[str, Any]:
    """Every option as plain, nested values that JSON and YAML can hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return dict(plain(asdict(config)))


def to_yaml(config: BaseConfig) -> str:
    """Every option as a YAML file that `load` reads back to an equal configuration."""
    import yaml

    return str(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))


def differences(one: BaseConfig, other: BaseConfig, ignore: Iterable[str] = ()) -> list[tuple[str, Any, Any]]:
    """(dotted name, value in one, value in other) of every option that differs."""
    first, second = leaves(one), leaves(other)
    return [(key, first[key], second[key]) for key in first if key not in ignore and first[key] != second[key]]


def preset_names() -> list[str]:
    """The presets that come with the package."""
    files = resources.files("prolap.config").joinpath("presets").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def parse_words(words: Sequence[str], known: Mapping[str, Any]) -> Layer:
    """Command-line words to a layer. A switch needs no value; `-` in a name is read as `_`."""
    layer: Layer = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") and not re.match(r"[\w.-]+=", word):
            raise ConfigError(f"{word!r} {COMMAND_LINE} is no option; want --name value or name=value.")
        name, equals, value = word.removeprefix("--").partition("=")
        key = name.replace("-", "_")
        hint = hint_of(key, COMMAND_LINE, known)
        layer[key] = (value if equals else _take(key, hint, rest), COMMAND_LINE)
    return layer


def _take(key: str, hint: Any, rest: list[str]) -> Any:
    """The value that follows `--key`: one word, several for a tuple, none for a switch."""
    if hint is bool:
        return rest.pop(0) if rest and rest[0].lower() in SWITCH else "true"
    if not rest or rest[0].startswith("--"):
        raise ConfigError(f"{key}: got no value {COMMAND_LINE}, want {describe(hint)}.")
    if get_origin(hint) is tuple and not re.search(r"[,\[]", rest[0]):
        return [rest.pop(0) for _ in get_args(hint) if rest and not rest[0].startswith("--")]
    return rest.pop(0)


def _preset_layers(names: str, source: str, known: Mapping[str, Any]) -> list[Layer]:
    """The layers of `one+another`, later ones over earlier ones, each after what it builds on."""
    layers = [layer for name in names.split("+") for layer in _one_preset(name, source, known)]
    return [layer | {"preset": (names, source)} for layer in layers]


def _one_preset(name: str, source: str, known: Mapping[str, Any]) -> list[Layer]:
    if name not in preset_names():
        close = difflib.get_close_matches(name, preset_names(), n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"preset: got {name!r} {source}, want one of {', '.join(preset_names())}{meant}")
    text = resources.files("prolap.config").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
    layer = _flatten(_parse_yaml(text, f"preset {name}"), f"in preset {name}", known)
    base = _preset_layers(str(layer["preset"][0]), f"in preset {name}", known) if "preset" in layer else []
    return [*base, layer]


def _read_file(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}.") from error
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"configuration: got {path}, want a file that ends in .yaml, .yml or .toml.")
    return _parse_yaml(text, str(path))


def _parse_yaml(text: str, name: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=yaml.BaseLoader) or {}  # only strings, lists and dicts
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}.") from error


def _flatten(values: Any, source: str, known: Mapping[str, Any], prefix: str = "") -> Layer:
    if not isinstance(values, Mapping):
        raise ConfigError(f"configuration: got a {type(values).__name__} {source}, want options by name.")
    layer: Layer = {}
    for name, value in values.items():
        key = prefix + str(name)
        if isinstance(value, Mapping):
            layer |= _flatten(value, source, known, f"{key}.")
        elif not (is_dataclass(known.get(key)) and value in ("", None)):  # an empty section is fine
            layer[key] = (value, source)
    return layer


def _merge(default: Config, layers: Sequence[Layer]) -> Config:
    known, merged = options(default), Layer()
    for layer in layers:
        for later, earlier in _SUPERSEDES.items():
            if later in layer and earlier not in layer:
                merged.pop(earlier, None)
        merged |= layer
    values = {key: convert(key, value, hint_of(key, source, known), source) for key, (value, source) in merged.items()}
    config: Config = _fill(default, values, "")
    check(config, {key: source for key, (_, source) in merged.items()})
    return config


def _fill(section: Any, values: Mapping[str, Any], prefix: str) -> Any:
    changed = {}
    for field in fields(section):
        old, key = getattr(section, field.name), prefix + field.name
        changed[field.name] = _fill(old, values, f"{key}.") if is_dataclass(old) else values.get(key, old)
    return replace(section, **changed)
