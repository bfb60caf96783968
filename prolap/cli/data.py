"""`prolap data check`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prolap.config import BaseConfig
    from prolap.data.files.check import Findings

SPLITS = ("train", "dev", "test")
NAMES = 10  # printed of each kind of problem; --json has them all
UNBOUNDED = 1 << 20  # tokens
SECONDS_PER_HOUR = 3600


def add(commands: Any) -> None:
    """Add `data` and its subcommand `check` to the parser of the command line."""
    data = commands.add_parser("data", help="check a data set before training on it", allow_abbrev=False)
    inner = data.add_subparsers(required=True, metavar="COMMAND")
    check = inner.add_parser(
        "check",
        help="decode a data set to its end and report on it",
        description="Decode every sound of a data set to its end and report: clips, captions, durations, sample rates, "
        "channels; sounds and captions longer than data.seconds, data.eval_seconds and model.max_tokens; missing, broken, "
        "silent, clipped and repeated sounds; sounds that occur in several splits. Exit status 1 if sounds are broken.",
        epilog="Takes the options of `prolap train` too, e.g. --preset prolap --data.seconds 10.",
        allow_abbrev=False,
    )
    check.add_argument(
        "spec",
        metavar="SPEC",
        help="the data, named as data.train is: a manifest (.csv, .jsonl), audiocaps:FOLDER, clotho:FOLDER, folder:FOLDER, "
        "wds:PATTERN, aac:NAME:FOLDER, or several of them joined by +",
    )
    check.add_argument(
        "--split",
        choices=SPLITS,
        action="append",
        help="split to check; may be repeated (default: all that the layout knows, else train)",
    )
    check.add_argument("--config", metavar="FILE", help="YAML or TOML file with options of `prolap train`")
    check.add_argument("--json", type=Path, metavar="FILE", help="also write everything, with all names, as JSON")
    check.add_argument("--quiet", action="store_true", help="show no progress")
    check.set_defaults(command=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """The exit status: 1 if sounds are broken, else 0."""
    from prolap.data.files.check import overlaps
    from prolap.training.config import load_config

    config = load_config(file=arguments.config, overrides=rest)
    findings = []
    for split in _checked(arguments, config):
        findings.append(split)
        print("\n".join(lines(split, config)))
    if not findings:
        raise FileNotFoundError(f"{arguments.spec}: no split was found.")
    shared = [overlap for overlap in overlaps(findings, config.data.cache) if overlap[2]]
    for first, second, sounds in shared:
        print(f"{first} and {second} share {len(sounds)} sounds:" + _names(map(str, sounds)))
    if arguments.json:
        from prolap.utils.files import write_text

        document = {
            "splits": [split.document(config) for split in findings],
            "overlap": [{"first": a, "second": b, "sounds": [c._asdict() for c in same]} for a, b, same in shared],
        }
        write_text(arguments.json, json.dumps(document, indent=2, ensure_ascii=False))
    return 1 if any(split.broken for split in findings) else 0


def _checked(arguments: argparse.Namespace, config: BaseConfig) -> Iterator[Findings]:
    """The findings of each split of each part of the data, one after the other."""
    from prolap.data.files.check import check_split
    from prolap.data.union import parse
    from prolap.utils.progress import silent

    parts = parse(arguments.spec)
    if not all(part.layout.recorded for part in parts):
        raise ValueError(f"SPEC: got {arguments.spec}, want files: prolap renders scenes itself, they need no check.")
    count_tokens = token_counter(config)
    for part in parts:
        splits = arguments.split or (SPLITS if part.own_splits else SPLITS[:1])
        for split in splits:
            try:
                rows = part.rows(split)
            except FileNotFoundError as error:
                if arguments.split or len(splits) == 1:
                    raise
                print(f"{part.name(split)}: left out ({error})")
                continue
            yield check_split(rows, part.name(split), config, count_tokens, silent if arguments.quiet else None)


def token_counter(config: BaseConfig) -> Callable[[Sequence[str]], Sequence[int] | None]:
    """Lengths of captions in tokens of the configured text encoder, end tokens included; None without its tokenizer."""
    from dataclasses import replace

    from prolap.config.options import ConfigError
    from prolap.models.model import build_tokenizer

    def count(texts: Sequence[str]) -> list[int] | None:
        unbounded = replace(config, model=replace(config.model, max_tokens=UNBOUNDED))
        try:
            tokenizer = build_tokenizer(unbounded, texts)
        except (ConfigError, ImportError) as error:
            warnings.warn(f"captions are not counted in tokens: {error}", stacklevel=2)
            return None
        return [tokenizer([text]).shape[1] for text in texts]  # one text alone is not padded

    return count


def lines(split: Findings, config: BaseConfig) -> list[str]:
    """The report of a split."""
    document = split.document(config)
    seconds, longer, captions = document["seconds"], document["longer_than"], document["captions"]
    report = [
        f"{split.name}: {split.clips:,} clips, {captions['total']:,} captions ({_counts(captions['per_clip'])} a clip)"
    ]
    if split.heard:
        report.append(
            f"  seconds: {seconds['min']:.2f} to {seconds['max']:.2f}, median {seconds['median']:.2f}, "
            f"{seconds['total'] / SECONDS_PER_HOUR:.2f} hours in all"
        )
        report.append(f"  Hz: {_counts(document['sample_rates'])}; channels: {_counts(document['channels'])}")
    for name in ("data.seconds", "data.eval_seconds"):
        report.append(f"  longer than {name} = {longer[name]['limit']:g}: {longer[name]['sounds']:,} sounds")
    if split.long_captions is not None:
        report.append(f"  longer than model.max_tokens = {config.model.max_tokens}: {split.long_captions:,} captions")
    problems: dict[str, list[str]] = {
        "without a file": split.missing,
        "unusable": [f"{name}: {reason}" for name, reason in split.unusable.items()],
        "broken": [f"{name}: {reason}" for name, reason in split.broken.items()],
        "silent": split.silent,
        "clipped": split.clipped,
        "the same as another": [str(sound) for sound in split.duplicates],
    }
    return report + [f"  {problem}: {len(names):,}" + _names(names) for problem, names in problems.items() if names]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{value} ({count:,})" if len(counts) > 1 else value for value, count in counts.items()) or "none"


def _names(names: Any) -> str:
    names = list(names)
    return "".join(f"\n    {name}" for name in names[:NAMES]) + ("\n    ..." if len(names) > NAMES else "")
