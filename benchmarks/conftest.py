"""The sizes at which `pytest benchmarks --benchmark-only` measures."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shape", type=int, nargs=3, default=(256, 256, 128), metavar=("N", "M", "D"), help="256 256 128")
    parser.addoption("--tile-shape", type=int, nargs=3, default=(96, 96, 64), metavar=("N", "M", "D"), help="96 96 64")
