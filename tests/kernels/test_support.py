"""The support table is what its probes find."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.support import BACKENDS, PAGE, PROBES, probe

TABLE = {
    cells[0]: dict(zip(BACKENDS, cells[1:], strict=True))
    for cells in ([c.strip() for c in line.strip("|\n").split("|")] for line in PAGE.read_text().splitlines() if "|" in line)
}  # fmt: skip


@pytest.mark.skipif(torch.__version__ < "2.11", reason="the table is that of torch 2.11")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PROBES)
def test_the_table_says_what_the_probe_finds(name: str, backend: str) -> None:
    assert TABLE[name][backend] == probe(name, backend)


def test_the_table_has_no_row_without_a_probe() -> None:
    assert list(TABLE)[2:] == list(PROBES)
