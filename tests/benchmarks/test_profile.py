"""The profile of one loss: what it counts and what it prints."""

from __future__ import annotations

import pytest
import torch

from benchmarks.cases import cases, make_batch, ours
from benchmarks.peers import EAGER, eager
from benchmarks.profile import STEPS, gather
from benchmarks.profile import main as profile_main


@pytest.mark.skipif(torch.cuda.is_available(), reason="interpreted kernels run without a GPU")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # in rows that only pad a tile
def test_the_profile_counts_the_flops_of_the_three_products() -> None:
    batch = make_batch(cases()["csd-sigmoid"], (32, 24, 16), "cpu", torch.float32)
    for loss in (eager, ours("triton")):
        works = gather(loss, batch, "cpu")
        assert sum(work.flops for work in works.values()) == STEPS * batch.flops()
        assert all(work.bytes > 0 for work in works.values() if work.flops)


def test_the_profile_prints_a_table_and_the_command_for_counters(capsys: pytest.CaptureFixture[str]) -> None:
    assert profile_main(["csd-sigmoid", "--shape", "64", "64", "32", "--peer", EAGER, "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "aten::mm" in text
    assert "ncu --clock-control none" in text
    assert profile_main(["csd-sigmoid", "--shape", "8", "8", "8", "--bare", "--device", "cpu"]) == 0
    with pytest.raises(SystemExit, match="2"):
        profile_main(["dot-softmax", "--peer", "memeff", "--device", "cpu"])
