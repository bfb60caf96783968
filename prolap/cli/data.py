"""`prolap data check`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import argparse
import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prolap.config import BaseConfig
    from prolap.data.files.check import Findings, Tokenizer
    from prolap.data.files.layouts import Part

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
        "channels; sounds and captions longer than data.seconds, data.eval_seconds and model.max_tokens; words that the "
        "vocabulary of the training captions, or of --init, lacks; missing, broken, silent, clipped and repeated sounds; "
        "repeated captions; sounds that occur in several splits. Exit status 1 if sounds are broken.",
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
        help="split to check; may be repeated (default: all that the layout knows, or that --data.dev and --data.test name)",
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

    named = parse(arguments.spec)
    asked = list(dict.fromkeys(arguments.split or SPLITS))
    jobs = [(part, split) for split in asked for part in _parts(split, named, config, arguments)]
    if not all(part.layout.recorded for part, _ in jobs):
        raise ValueError(f"SPEC: got {arguments.spec}, want files: prolap renders scenes itself, they need no check.")
    if "train" in asked or any(part.own_splits for part in named) or getattr(config.data, asked[0]):
        training = named
    else:  # SPEC is no training data
        training = [part for part in parse(config.data.train) if part.layout.recorded]
    tokenizer = tokenizer_of(config, training)
    for part, split in jobs:
        try:
            rows = part.rows(split)
        except FileNotFoundError as error:
            if arguments.split or len(jobs) == 1:
                raise
            print(f"{part.name(split)}: left out ({error})")
            continue
        yield check_split(rows, part.name(split), config, tokenizer, silent if arguments.quiet else None)


def _parts(split: str, named: Sequence[Part], config: BaseConfig, arguments: argparse.Namespace) -> Sequence[Part]:
    """What to check as a split: for dev and test what `data.dev` and `data.test` name, else SPEC where it has such a split.

    Errors: ValueError if the split was asked for and neither is there.
    """
    from prolap.data.union import parse

    own = None if split == "train" else getattr(config.data, split)
    if own is not None:
        return parse(own)
    if split == "train" or arguments.split == [split]:  # a manifest may be any split
        return named
    parts = [part for part in named if part.own_splits]
    if not parts and arguments.split:
        raise ValueError(f"{arguments.spec} has no {split} split; name one by --data.{split}.")
    return parts


def tokenizer_of(config: BaseConfig, training: Sequence[Part]) -> Tokenizer | None:
    """The tokenizer of `init`, or of the configured text encoder, with a vocabulary of the training captions if it is made of
    them; it cuts nothing. None, with a warning, if it cannot be had.
    """
    from prolap.config.options import ConfigError
    from prolap.models.model import build_tokenizer
    from prolap.weights.initial import open_init

    try:
        start = open_init(config)
        tokenizer = (start and start.vocabulary) or build_tokenizer(config, _captions(training))
    except (ConfigError, ImportError) as error:
        warnings.warn(f"captions are not read by the text encoder: {error}", stacklevel=2)
        return None
    tokenizer.max_tokens = UNBOUNDED
    return None if tokenizer.unknown is not None and not training and start is None else tokenizer


def _captions(parts: Sequence[Part]) -> Iterator[str]:
    """The texts of all rows, whether or not their sounds can be used."""
    for part in parts:
        with contextlib.suppress(FileNotFoundError):  # said where its rows are checked
            for row in part.rows("train"):
                chain = row.chain if isinstance(row.chain, list | tuple) else ()
                yield from (text for text in (*row.captions, *chain) if isinstance(text, str))


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
    if split.unknown_words is not None:
        share = split.unknown_words / max(1, split.words)
        report.append(f"  unknown to the vocabulary: {split.unknown_words:,} of {split.words:,} words ({share:.1%})")
    problems: dict[str, list[str]] = {
        "without a file": split.missing,
        "unusable": [f"{name}: {reason}" for name, reason in split.unusable.items()],
        "broken": [f"{name}: {reason}" for name, reason in split.broken.items()],
        "silent": split.silent,
        "clipped": split.clipped,
        "the same as another": [str(sound) for sound in split.duplicates],
        "captions that a clip has twice": split.repeated,
        "captions that several clips have": [f"{text} ({clips:,} clips)" for text, clips in split.shared.items()],
    }
    return report + [f"  {problem}: {len(names):,}" + _names(names) for problem, names in problems.items() if names]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{value} ({count:,})" if len(counts) > 1 else value for value, count in counts.items()) or "none"


def _names(names: Any) -> str:
    names = list(names)
    return "".join(f"\n    {name}" for name in names[:NAMES]) + ("\n    ..." if len(names) > NAMES else "")
