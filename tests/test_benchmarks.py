"""The benchmarks measure what they say: same loss from every contender, memory that a literal formulation cannot hide."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.cases import cases, inputs
from benchmarks.environment import stamp
from benchmarks.report import filled
from prolap_kernels import OBJECTIVES
from prolap_kernels.scores import LIFTS

ROOT = Path(__file__).parent.parent


def test_every_lift_and_objective_is_a_case() -> None:
    assert set(cases()) == {f"{score.name}-{objective}" for score in LIFTS for objective in OBJECTIVES}


@pytest.mark.parametrize("name", list(cases()))
def test_contenders_compute_the_same_loss_and_gradients(name: str) -> None:
    found = []
    for contender, loss in cases()[name].contenders.items():
        if contender == "products alone":
            continue
        x, y = inputs(9, 9, 7, "cpu", torch.float32)
        value = loss(x, y)
        value.backward()
        found.append([value.detach(), x.mean.grad, y.mean.grad])
    assert len(found) >= 2
    for other in found[1:]:
        for got, want in zip(other, found[0], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_the_products_alone_do_three_products() -> None:
    x, y = inputs(5, 4, 3, "cpu", torch.float32)
    cases()["csd-sigmoid"].contenders["products alone"](x, y).backward()
    logit = x.mean @ y.mean.T
    torch.testing.assert_close(x.mean.grad, logit @ y.mean)
    torch.testing.assert_close(y.mean.grad, logit.T @ x.mean)


def test_a_run_writes_time_memory_and_where_they_come_from(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    command = [sys.executable, "-m", "benchmarks.run", "--shape", "160", "160", "160", "--rounds", "1", "--repeat", "2"]
    subprocess.run([*command, "--json", str(out)], cwd=ROOT, check=True, capture_output=True)
    content = json.loads(out.read_text())
    assert content.keys() >= stamp("cpu").keys()
    rows = {row["contender"]: row for row in content["rows"]}
    assert all(row["seconds"] > 0 for row in rows.values())
    assert rows["literal"]["loss_difference"] < 1e-3
    assert rows["literal"]["peak_bytes"] > 160**3 * 4 > rows["prolap_kernels"]["peak_bytes"]  # N x M x D float32 once


def test_the_readme_shows_what_the_result_files_hold() -> None:
    readme = (ROOT / "README.md").read_text()
    assert filled(readme) == readme


def test_a_changed_figure_in_the_readme_is_noticed() -> None:
    readme = (ROOT / "README.md").read_text()
    start = readme.index("<!-- report: losses -->") + len("<!-- report: losses -->\n")
    assert filled(readme[:start] + "0.001 ms\n" + readme[start:]) == readme
