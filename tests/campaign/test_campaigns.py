"""A short form of each campaign, always of the same seeds; and each of them finds a defect that is planted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import prolap.data.cache as data_cache
import prolap.training.train as training
from prolap.training import optim
from prolap.weights import checkpoint as checkpoints
from prolap_kernels import losses
from tests.campaign import CAMPAIGNS, damage, hostile, mutants
from tests.campaign.__main__ import report
from tests.campaign.calls import SMALL_CALLS
from tests.campaign.common import Campaign, Tally, run
from tests.campaign.damage import DAMAGE
from tests.campaign.hostile import HOSTILE
from tests.campaign.kills import KILLS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs processes of Linux")]
SHORT: dict[str, tuple[Campaign, int]] = {
    "kills": (KILLS, 6),
    "damage": (DAMAGE, 15),
    "hostile": (HOSTILE, 15),
    "calls": (SMALL_CALLS, 400),
}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", SHORT)
def test_a_short_form(name: str) -> None:
    campaign, count = SHORT[name]
    tally = run(campaign, seed=1000, count=count)
    assert not tally.failures, "\n".join(f"{failure['what']}: {failure['again']}" for failure in tally.failures)
    assert tally.outcomes[campaign.unit] >= count


def failures(campaign: Campaign, count: int, seed: int = 0) -> str:
    return " ".join(failure["what"] for failure in run(campaign, seed=seed, count=count).failures)


def test_kills_find_a_resume_that_forgets_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "restore_optimizer", lambda *_: None)
    assert "kills other than uninterrupted: run/checkpoints" in failures(KILLS, 8)


def test_damage_finds_weights_without_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as whole."""
    import prolap.utils.files as files

    for module in (checkpoints, files, data_cache, training):
        if hasattr(module, "sha256"):
            monkeypatch.setattr(module, "sha256", lambda path: "0" * 64)

    def flip_of_the_best(at: Path, draw: object) -> tuple[str, str, str]:
        path = checkpoints.resolve(at / "run") / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 0x40
        path.write_bytes(content)
        return "run", str(path.relative_to(at / "run")), "flip"

    monkeypatch.setattr(damage, "damage_one", flip_of_the_best)
    assert "another result without a word" in failures(DAMAGE, 8)


def test_hostile_files_find_a_reader_that_executes(monkeypatch: pytest.MonkeyPatch) -> None:
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **o: load(*a, **(o | {"weights_only": False})))
    monkeypatch.setattr(hostile, "ATTACKS", {"checkpoints": (hostile.code_in_weights,)})
    assert "code was executed" in failures(HOSTILE, 20)


def test_calls_find_a_wrong_reduction(monkeypatch: pytest.MonkeyPatch) -> None:
    reduce: Callable[..., torch.Tensor] = losses._reduce
    monkeypatch.setattr(losses, "_reduce", lambda value, reduction, *rest: reduce(value, reduction, *rest) * (
        1.001 if reduction == "pairs" and rest[-1].backend == "chunked" else 1.0))  # fmt: skip
    assert "errs by" in failures(SMALL_CALLS, 600, seed=1)


def test_mutants_tell_what_tests_notice_from_what_they_do_not() -> None:
    file, tests = "prolap/data/masking.py", ["tests/prolap/data/test_masking.py"]
    source = (mutants.ROOT / file).read_text()
    changed = next(mutant for mutant in mutants._of(file) if "return" in mutant.before)
    assert mutants.is_found(changed, tests)
    assert not mutants.is_found(changed._replace(source=source + "\n# the same\n"), tests)


def test_a_failure_is_repeated_by_its_seed(tmp_path: Path) -> None:
    def case(context: object, seed: int):  # type: ignore[no-untyped-def]
        assert seed != 3, "the third"
        return Tally().outcomes + type(Tally().outcomes)({"cases": 1})

    tally = run(Campaign("some", "cases", 5, lambda folder: None, case), seed=0, count=5)
    assert [failure["again"] for failure in tally.failures] == ["python -m tests.campaign some --seed 3 --count 1"]
    assert report(CAMPAIGNS["kills"], tally, 0)["failed"] == 1
