"""`prolap data check`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prolap.config import BaseConfig
    from prolap.data.files.check import Findings

NAMES = 10  # of each kind of trouble are printed; --json has them all


def add(commands: Any) -> None:
    """Put `data` with its subcommands into the parser of the command line."""
    data = commands.add_parser("data", help="look at a data set before training on it", allow_abbrev=False)
    inner = data.add_subparsers(required=True, metavar="COMMAND")
    check = inner.add_parser(
        "check",
        help="decode a data set to its end and report on it",
        description="Decode every sound of a data set to its end and report: clips, captions, durations, sample rates, "
        "channels, what is longer than data.seconds, data.eval_seconds or model.max_tokens, missing, broken, silent, clipped "
        "and repeated sounds, and sounds that occur in several splits. Exit status 1 if sounds are broken.",
        epilog="SPEC is what data.train takes: a manifest, audiocaps:FOLDER, clotho:FOLDER, folder:FOLDER, wds:PATTERN, "
        "aac:NAME:FOLDER, or a sum of them. Options as of `prolap train`, e.g. --preset prolap --data.seconds 10.",
        allow_abbrev=False,
    )
    check.add_argument("spec", metavar="SPEC")
    check.add_argument(
        "--split",
        choices=("train", "dev", "test"),
        action="append",
        help="may be repeated (default: all that the data set knows, else train)",
    )
    check.add_argument("--config", help="YAML or TOML file with options of `prolap train`")
    check.add_argument("--json", type=Path, metavar="FILE", help="also write everything, with all names, as JSON")
    check.add_argument("--quiet", action="store_true", help="no progress")
    check.set_defaults(command=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """The exit status: 1 if sounds are broken, else 0."""
    from prolap.data.files.check import check_split, overlaps
    from prolap.data.union import parse
    from prolap.training.config import load_config
    from prolap.utils.progress import data_progress

    config = load_config(file=arguments.config, overrides=rest)
    parts = parse(arguments.spec)
    if not all(part.layout.recorded for part in parts):
        raise ValueError("scenes are made by prolap itself and need no check; name files")
    found = []
    count_tokens = token_counter(config)
    for part in parts:
        splits = arguments.split or (["train", "dev", "test"] if part.own_splits else ["train"])
        for split in splits:
            try:
                rows = part.rows(split)
            except FileNotFoundError as error:
                if arguments.split or len(splits) == 1:
                    raise
                print(f"{part.name(split)}: left out ({error})")
                continue
            tell = data_progress(not arguments.quiet)
            found.append(check_split(rows, part.name(split), config, count_tokens, tell))
            print("\n".join(lines(found[-1], config)))
    if not found:
        raise FileNotFoundError(f"nothing of {arguments.spec} was found")
    shared = [each for each in overlaps(found, config.data.cache) if each[2]]
    for first, second, same in shared:
        print(f"{first} and {second} share {len(same)} sounds:" + _names(map(str, same)))
    if arguments.json:
        from prolap.utils.files import write_text

        document = {
            "splits": [each.document(config) for each in found],
            "overlap": [{"first": a, "second": b, "sounds": [c._asdict() for c in same]} for a, b, same in shared],
        }
        write_text(arguments.json, json.dumps(document, indent=2, ensure_ascii=False))
    return 1 if any(each.broken for each in found) else 0


def token_counter(config: BaseConfig) -> Callable[[Sequence[str]], Sequence[int] | None]:
    """Lengths of captions in tokens of the configured text encoder, end tokens included; None without its tokenizer."""
    from dataclasses import replace

    from prolap.config.options import ConfigError
    from prolap.models.model import build_tokenizer

    def count(texts: Sequence[str]) -> list[int] | None:
        unbounded = replace(config, model=replace(config.model, max_tokens=1 << 20))
        try:
            tokenizer = build_tokenizer(unbounded, texts)
        except (ConfigError, ImportError) as error:
            warnings.warn(f"captions are not counted in tokens: {error}", stacklevel=2)
            return None
        return [tokenizer([text]).shape[1] for text in texts]  # one text alone is not padded

    return count


def lines(found: Findings, config: BaseConfig) -> list[str]:
    """The report of a split."""
    document = found.document(config)
    seconds, longer = document["seconds"], document["longer_than"]
    per_clip = document["captions"]["per_clip"]
    out = [
        f"{found.name}: {found.clips:,} clips, {document['captions']['total']:,} captions ({_shares(per_clip)} a clip)"
    ]
    if found.heard:
        out.append(
            f"  seconds: {seconds['min']:.2f} to {seconds['max']:.2f}, median {seconds['median']:.2f}, "
            f"{seconds['total'] / 3600:.2f} hours in all"
        )
        out.append(f"  Hz: {_shares(document['sample_rates'])}; channels: {_shares(document['channels'])}")
    for name in ("data.seconds", "data.eval_seconds"):
        out.append(f"  longer than {name} = {longer[name]['limit']:g}: {longer[name]['sounds']:,} sounds")
    if found.long_captions is not None:
        out.append(f"  longer than model.max_tokens = {config.model.max_tokens}: {found.long_captions:,} captions")
    troubles: dict[str, list[str]] = {
        "without a file": found.missing,
        "unusable": [f"{name}: {reason}" for name, reason in found.unusable.items()],
        "broken": [f"{name}: {reason}" for name, reason in found.broken.items()],
        "silent": found.silent,
        "clipped": found.clipped,
        "the same as another": [str(each) for each in found.duplicates],
    }
    return out + [f"  {what}: {len(names):,}" + _names(names) for what, names in troubles.items() if names]


def _shares(counts: dict[str, int]) -> str:
    return ", ".join(f"{value} ({count:,})" if len(counts) > 1 else value for value, count in counts.items()) or "none"


def _names(names: Any) -> str:
    names = list(names)
    return "".join(f"\n    {name}" for name in names[:NAMES]) + ("\n    ..." if len(names) > NAMES else "")
