"""The ahead-of-time gate: all shipped kernels pass on all chips, and it fails where it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
if sys.platform != "linux":
    pytest.skip("Triton compiles on Linux alone", allow_module_level=True)

from benchmarks.compile_check import CHIPS, Facts, violations

ROOT = Path(__file__).parents[2]
REQUIRED = ["sm_80", "sm_90", "gfx942"]
"""One chip of each kind of matrix instruction; the command compiles for all, in every form."""
CLEAN = Facts("kernel", "form", "sm_90", True, 128, 1000, 0, 0, 8, 4, 500, 0.1)


def gate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the interpreter, which other tests use, cannot compile."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "benchmarks.compile_check", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)


def test_every_shipped_kernel_passes_on_every_kind_of_chip(tmp_path: Path) -> None:
    run = gate("--main", "--chips", *REQUIRED, "--json", str(tmp_path / "facts.json"))
    assert run.returncode == 0, run.stdout + run.stderr
    record = json.loads((tmp_path / "facts.json").read_text())
    assert record["violations"] == []
    compiled = {(f["chip"], f["kernel"], f["configuration"].split()[0]) for f in record["kernels"]}
    for chip in REQUIRED:
        for kernel in ("sigmoid_tile", "accumulate"):
            assert (chip, kernel, "bfloat16") in compiled
        assert {(chip, f"matched_{part}_kernel", "bfloat16") for part in ("rows", "gradients")} <= compiled
        assert {(chip, "elementwise_scores", "float32"), (chip, "elementwise_gradients", "float32")} <= compiled
    # gradients of rows that start anywhere, and of rows weighted one by one, are kernels of their own
    forms = [
        f["configuration"]
        for f in record["kernels"]
        if (f["chip"], f["kernel"]) == ("sm_90", "matched_gradients_kernel")
    ]
    assert sorted(form.split()[2:] for form in forms) == [[], ["PER_ROW=1"], ["width%16"]]
    # one exponential and one reciprocal per pair, in each of two epilogues; a logarithm per row and thread takes no other
    lifts = [
        f
        for f in record["kernels"]
        if f["kernel"] == "sigmoid_tile" and f["chip"] != "gfx942" and "GIVEN" not in f["configuration"]
    ]
    assert lifts
    for f in lifts:
        assert 4 <= f["special"] / f["pairs"] < 4.5, f["configuration"]
    assert set(record["versions"]) == {"torch", "triton"}


def test_the_gate_fails_on_forms_that_spill_or_do_not_fit() -> None:
    some = ("--chips", "sm_90", "--jobs", "1", "--only", "matched_gradients_kernel", "half_trace_kernel", "accumulate")
    run = gate(*some, "--config", "MATCHED_BACK=16,512,4", "ACCUMULATE=128,128,32,8,16")
    assert run.returncode == 1
    found = [line for line in run.stdout.splitlines() if line.startswith("violation:")]
    assert any("matched_gradients_kernel" in line and "spills" in line for line in found)
    assert any("accumulate" in line and "the chip has 232448" in line for line in found)
    assert not any("half_trace" in line for line in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instructions": 0}, "no machine code"),
        ({"stack": 8}, "stack of 8 bytes"),
        ({"spills": 3}, "3 spills"),
        ({"shared": CHIPS["sm_90"].shared + 1}, "the chip has 232448"),
        ({"matrix": 0}, "no matrix instruction"),
    ],
)
def test_each_rule_alone_is_enough(change: dict[str, int], message: str) -> None:
    assert violations(CLEAN) == []
    (line,) = violations(CLEAN._replace(**change))
    assert message in line
    assert line.startswith("kernel [form] on sm_90")


def test_kernels_without_products_need_no_matrix_instruction() -> None:
    assert violations(CLEAN._replace(needs_matrix=False, matrix=0)) == []


def test_a_kernel_that_nothing_launches_is_missed() -> None:
    code = "from benchmarks.launches import missing; print('|'.join(missing([])))"
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    for kernel in (
        "sigmoid_tile",
        "sigmoid_finish",
        "accumulate",
        "matched_rows_kernel",
        "matched_gradients_kernel",
    ):
        assert f"{kernel}: never compiled" in run.stdout
    assert "softplus_sigmoid" not in run.stdout
