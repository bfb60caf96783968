"""The command line, `prolap COMMAND`: one file per command, put together here."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from prolap.cli import data, evaluate, memory, quickstart, train
from prolap.utils import __version__

COMMANDS = (quickstart, train, evaluate, memory, data)
"""A command's file has `add(commands)`, which adds its parser, and `run(arguments, rest)`, which returns the exit status;
`rest` holds the words that the parser does not know: options of the configuration. Imports of torch wait until `run`."""
ERROR, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 after an error, 130 or 143 after Ctrl-C or SIGTERM."""
    # a thread that waits in a busy loop starves the others of a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported, which is later than here
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal may have no sign for a letter of a caption
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # for plug-ins; last, so that no file there replaces an installed module
    arguments, rest = _parser().parse_known_args(sys.argv[1:] if argv is None else list(argv))
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status: int = arguments.command(arguments, rest)
            return status
    except KeyboardInterrupt:
        print("prolap: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if not _is_explained(error) or os.environ.get("PROLAP_TRACEBACK"):
            raise
        print(f"prolap: {error}", file=sys.stderr)
        return ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prolap",
        description="Training and evaluation of probabilistic language-audio models.",
        epilog="`prolap COMMAND --help` explains a command. PROLAP_TRACEBACK=1 in the environment shows where an error "
        "came from.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"prolap {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def _is_explained(error: BaseException) -> bool:
    """Whether the message is a sentence of ours or the system's, and not the trace of a bug."""
    if isinstance(error, OSError):
        return True
    if not isinstance(error, ValueError | TypeError | RuntimeError | ImportError):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    package = str(frames[-1][0].f_globals.get("__name__", "")).split(".")[0] if frames else ""
    return package in ("prolap", "prolap_kernels")


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"prolap: warning: {message}", file=sys.stderr)
