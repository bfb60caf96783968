"""From a preset, a file and the command line to a configuration, with errors that name the option and where it was set.

Each of them is a layer of texts by dotted name; later layers win, and one converter reads every text by the type of its
option. YAML is read without guessing types, so that `amp: off` and `lr: 1e-5` mean what they say.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass, replace
from importlib import import_module, metadata, resources
from pathlib import Path
from typing import Any, TypeVar

from prolap.config.options import ConfigError, convert, did_you_mean, leaves, options, read
from prolap.utils.files import DamagedFile, read_text

COMMAND_LINE = "on the command line"
DEEPEST = 8  # sections inside sections; options of ours stand three deep
PLUGINS = "prolap.plugins"  # the entry-point group of packages that bring plug-ins
_ALTERNATIVES = {"steps": "epochs", "optim.warmup": "optim.warmup_epochs"}  # the second counts until the first is set
_PRESETS = resources.files("prolap.config").joinpath("presets")
Config = TypeVar("Config")
MOST_CHARACTERS, LONGEST_LINE, MOST_VALUES = 1 << 18, 1 << 13, 10_000
"""Of a file of options: a parser takes the square of a line's nesting, and aliases of YAML repeat what they name."""
Layer = dict[str, tuple[Any, str]]
"""Dotted name -> (text or list of texts, where it was set)."""


def load(
    make: Callable[[], Config],
    preset: str | None = None,
    file: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> Config:
    """The settings of a preset, over them those of a YAML or TOML file, over them the overrides. Raises ConfigError.

    make: gives all options with their defaults. It is called after the plug-ins are imported, which may add options.
    overrides: words as on the command line (`--optim.lr 1e-4`, `--optim.lr=1e-4` or `optim.lr=1e-4`), or a mapping of
    dotted names to values. Without `preset`, the overrides or the file may name one.
    """
    layers = [] if file is None else [_flatten(_read_file(Path(file)), f"in {file}")]
    layers += [_flatten(overrides, "in the overrides")] if isinstance(overrides, Mapping) else parse_words(overrides)
    if preset is not None:
        layers.append({"preset": (preset, "in the call")})
    named = [layer["plugins"] for layer in layers if "plugins" in layer]
    plugins = import_plugins({name: source for names, source in named for name in convert(names, tuple[str, ...])})
    default = make()
    names, source = leaves(default)["preset"], "by default"
    for layer in layers:
        names, source = layer.get("preset", (names, source))
    chosen = {"preset": (names, source), "plugins": (plugins, "")}
    return _merge(default, [*_preset_layers(str(names), source), *layers, chosen])


def from_dict(values: Mapping[str, Any], source: str, default: Config) -> Config:
    """The inverse of `to_dict`, over `default`; `source` says in errors where the values come from. Imports no plug-in."""
    return _merge(default, [_flatten(values, source)])


def to_dict(config: Any) -> dict[str, Any]:
    """Every option as plain, nested values that JSON and YAML can hold."""
    return dict(json.loads(json.dumps(asdict(config))))


def to_yaml(config: Any) -> str:
    """Every option as a YAML file that `load` reads back to an equal configuration."""
    import yaml

    return str(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))


def differences(one: Any, other: Any, ignore: Iterable[str] = ()) -> list[tuple[str, Any, Any]]:
    """(dotted name, value in one, value in other) of every option that differs."""
    first, second = leaves(one), leaves(other)
    return [(key, first[key], second[key]) for key in first if key not in ignore and first[key] != second[key]]


def preset_names() -> list[str]:
    """The presets that come with the package."""
    return sorted(f.name.removesuffix(".yaml") for f in _PRESETS.iterdir() if f.name.endswith(".yaml"))


def import_plugins(named: Mapping[str, str]) -> list[str]:
    """Import the modules that installed packages declare as plug-ins, then the named ones; the names of all.

    named: module -> where it was named, for the error if it cannot be imported.
    """
    installed = {point.module: f"of entry point {point.name}" for point in metadata.entry_points(group=PLUGINS)}
    for name, source in (installed | dict(named)).items():
        try:
            import_module(name)
        except Exception as error:  # whatever a module of a user's own raises
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"plugins: got {name!r} {source}, which cannot be imported ({reason}).") from error
    return [*(installed | dict(named))]


@contextmanager
def asking_for_plugins(plugins: Iterable[str]) -> Iterator[None]:
    """Lets a ValueError inside name those plug-ins of a run that are not imported: what is stored imports no module."""
    try:
        yield
    except ValueError as error:
        missing = [name for name in plugins if name not in sys.modules]
        if not missing:
            raise
        options = " ".join(f"--plugins {name}" for name in missing)
        raise ConfigError(
            f"{str(error).removesuffix('.')}; the run had plug-ins that are not imported: `{options}` imports them."
        ) from error


def parse_words(words: Sequence[str]) -> list[Layer]:
    """A layer for each option on the command line. A switch needs no value, a tuple takes several; `-` is read as `_`."""
    settings: list[tuple[str, list[str]]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("--") or (equals and re.fullmatch(r"[\w.-]+", name)):
            settings.append((name.removeprefix("--").replace("-", "_"), [value] if equals else []))
        elif settings:
            settings[-1][1].append(word)
        else:
            raise ConfigError(f"{word!r} {COMMAND_LINE} is no option; want --name value or name=value.")
    return [{name: (values[0] if len(values) == 1 else values, COMMAND_LINE)} for name, values in settings]


def _preset_layers(names: str, source: str) -> list[Layer]:
    """The layers of `one+another`, later ones over earlier ones, each after what it builds on."""
    layers = []
    for name in names.split("+"):
        if name not in preset_names():
            known = ", ".join(preset_names())
            raise ConfigError(f"preset: got {name!r} {source}, want one of {known}{did_you_mean(name, preset_names())}")
        text = _PRESETS.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        layer = _flatten(_parse(text, f"{name}.yaml"), f"in preset {name}")
        layers += [*(_preset_layers(*layer["preset"]) if "preset" in layer else []), layer]
    return layers


def _read_file(path: Path) -> Any:
    if path.suffix not in (".yaml", ".yml", ".toml"):
        raise ConfigError(f"configuration: got {path}, want a file that ends in .yaml, .yml or .toml.")
    try:
        return _parse(read_text(path), str(path))
    except (OSError, DamagedFile) as error:
        reason = str(error).removesuffix(".")
        raise ConfigError(f"cannot read the configuration {path.absolute()}: {reason}.") from error


def _parse(text: str, name: str) -> Any:
    import yaml

    toml = name.endswith(".toml")
    longest = max(map(len, text.splitlines()), default=0)
    if len(text) > MOST_CHARACTERS or longest > LONGEST_LINE:
        raise ConfigError(
            f"{name} is no file of options: it has {len(text):,} characters and a line of {longest:,}, want at most "
            f"{MOST_CHARACTERS:,} and {LONGEST_LINE:,}."
        )
    try:
        # YAML gives texts, lists and dicts
        content = tomllib.loads(text) if toml else yaml.load(text, Loader=yaml.BaseLoader) or {}
        size = _size(content, {})
    except RecursionError as error:
        raise ConfigError(f"{name} is no file of options: its values are nested too deeply.") from error
    except (tomllib.TOMLDecodeError, yaml.YAMLError, ValueError) as error:
        kind, reason = "TOML" if toml else "YAML", " ".join(str(error).split())
        raise ConfigError(f"{name} is not valid {kind}: {reason}.") from error
    if size > MOST_VALUES:
        raise ConfigError(f"{name} is no file of options: it holds {size:,} values, want at most {MOST_VALUES:,}.")
    return content


def _size(content: Any, sizes: dict[int, int]) -> int:
    """How many values the content holds, what aliases repeat counted each time; sizes: of what was seen, by id."""
    if id(content) not in sizes:
        inner = content.values() if isinstance(content, Mapping) else content if isinstance(content, list) else ()
        sizes[id(content)] = 1 + sum(_size(value, sizes) for value in inner)
    return sizes[id(content)]


def _flatten(values: Any, source: str, prefix: str = "") -> Layer:
    if not isinstance(values, Mapping):
        raise ConfigError(f"configuration: got a {type(values).__name__} {source}, want options by name.")
    layer: Layer = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key.count(".") > DEEPEST:
            raise ConfigError(f"configuration: got sections nested more than {DEEPEST} deep {source}.")
        layer |= _flatten(value, source, f"{key}.") if isinstance(value, Mapping) else {key: (value, source)}
    return layer


def _merge(default: Config, layers: Sequence[Layer]) -> Config:
    merged: Layer = {}
    for layer in layers:
        for first, second in _ALTERNATIVES.items():
            if first in layer and second not in layer:
                merged.pop(second, None)
        merged |= layer
    hints = {name: hint for name, hint, _ in options(default)}
    config: Config = _fill(default, {name: read(name, *text, hints) for name, text in merged.items()}, "")
    return config


def _fill(section: Any, values: Mapping[str, Any], prefix: str) -> Any:
    changed = {}
    for field in fields(section):
        old, name = getattr(section, field.name), prefix + field.name
        changed[field.name] = _fill(old, values, f"{name}.") if is_dataclass(old) else values.get(name, old)
    return replace(section, **changed)
