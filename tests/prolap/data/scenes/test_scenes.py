"""The embedded scenes: splits, determinism, and attributes that can be heard."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prolap.config import BaseConfig, DataConfig
from prolap.data import AudioTextData, open_data
from prolap.data.scenes import mix as scene_mix
from prolap.data.scenes import plan as scene_plan
from prolap.data.scenes.clips import SceneData
from prolap.data.scenes.plan import Event, Scene, Universe
from prolap.data.scenes.soundfont import Bank, load_bank
from prolap.data.scenes.sources import BY_KEY, SOURCES


@pytest.fixture(scope="module")
def config(scene_cache: str) -> DataConfig:
    return DataConfig(cache=scene_cache, clips=120, dev_clips=20, test_clips=60)


@pytest.fixture(scope="module")
def bank(config: DataConfig) -> Bank:
    return load_bank(config)


@pytest.fixture(scope="module")
def test_split(config: DataConfig) -> SceneData:
    return SceneData(config, "test", progress=lambda *_: None)


@pytest.fixture(scope="module")
def plans() -> dict[str, list[Scene]]:
    universe = Universe()
    sizes = {"train": 4000, "dev": 500, "test": 1000}
    return {split: scene_plan.plan(0, split, count, universe) for split, count in sizes.items()}  # type: ignore[arg-type]


def test_no_combination_of_dev_or_test_occurs_elsewhere(plans: dict[str, list[Scene]]) -> None:
    meanings = {split: {scene.meanings[3] for scene in scenes} for split, scenes in plans.items()}
    assert not meanings["train"] & meanings["test"]
    assert not meanings["train"] & meanings["dev"]
    assert not meanings["dev"] & meanings["test"]
    assert len(meanings["test"]) == 1000  # every meaning once


def test_unseen_source_sets_never_occur_in_train(plans: dict[str, list[Scene]]) -> None:
    trained = {scene.sources for scene in plans["train"]}
    test = [(scene.sources, scene_plan.unseen_sources(scene.sources)) for scene in plans["test"]]
    assert not any(sources in trained for sources, unseen in test if unseen)
    assert 0.25 < np.mean([unseen for _, unseen in test]) < 0.35
    # the others were met in training, nearly all of them already in a third of the full pool
    assert np.mean([sources in trained for sources, unseen in test if not unseen]) > 0.85


def test_plans_do_not_depend_on_the_length_of_the_pool() -> None:
    universe = Universe()
    for split in ("train", "test"):
        assert scene_plan.plan(3, split, 40, universe)[:25] == scene_plan.plan(3, split, 25, universe)
    assert scene_plan.plan(3, "train", 10, universe) != scene_plan.plan(4, "train", 10, universe)


def test_every_level_is_a_function_of_the_next(plans: dict[str, list[Scene]]) -> None:
    parents: dict[int, int] = {}
    for scene in sum(plans.values(), []):
        for general, specific in zip(scene.chain[:-1], scene.chain[1:], strict=True):
            assert parents.setdefault(specific, general) == general
    counts = [len({scene.chain[level] for scene in plans["test"]}) for level in range(4)]
    assert counts == sorted(counts)
    assert counts[0] >= 15
    assert all(0 <= each < 2**63 for scene in plans["test"] for each in scene.chain)


def test_nodes_are_the_same_in_every_process_and_split() -> None:
    scene = Scene("alone", (Event("cello", "slow", "low", ""),))
    assert scene.meanings == ("0|music", "1|bowed", "2|alone|cello", "3|alone|cello:slow:low:")
    assert scene.chain[0] == 9063997163467964041


def test_the_meaning_ignores_the_order_of_what_sounds_together() -> None:
    one, two = Event("cello", "slow", "low", ""), Event("applause", "brief", "", "")
    assert Scene("then", (one, two)).chain[2] != Scene("then", (two, one)).chain[2]
    assert Scene("then", (one, two)).chain[:2] == Scene("while", (two, one)).chain[:2]
    for scene in scene_plan.plan(0, "train", 400, Universe()):
        if scene.relation == "while":
            assert list(scene.events) == sorted(scene.events)
        if scene.relation == "joined":
            assert list(scene.events[1:]) == sorted(scene.events[1:])


def test_a_universe_without_silent_sources(plans: dict[str, list[Scene]]) -> None:
    silent = frozenset({"cello", "applause"})
    for scene in scene_plan.plan(0, "train", 300, Universe(silent)):
        assert not silent & set(scene.sources)
    assert {"cello", "applause"} <= {name for scene in plans["train"] for name in scene.sources}


def test_scenes_cover_sizes_relations_and_domains(plans: dict[str, list[Scene]]) -> None:
    sizes = Counter(len(scene.events) for scene in plans["train"])
    assert sizes[1] / 4000 == pytest.approx(0.2, abs=0.03)
    assert sizes[2] / 4000 == pytest.approx(0.5, abs=0.03)
    assert {scene.relation for scene in plans["train"]} == {"alone", "while", "then", "joined"}
    most = Counter(scene.meanings[0] for scene in plans["test"]).most_common(1)[0][1]
    assert most < 400  # one answer for all would be right for fewer than 40 %


def _loudness(wave: np.ndarray) -> float:
    return 20 * np.log10(max(np.sqrt((wave[k : k + 4000] ** 2).mean()) for k in range(0, len(wave) - 4000, 500)))


def _mix(bank: Bank, *events: Event, relation: str = "alone", index: int = 0) -> np.ndarray:
    scene = Scene(relation, events)  # type: ignore[arg-type]
    return scene_mix.mix(scene, bank, 3.2, 0, "test", index)


def _onsets(wave: np.ndarray) -> int:
    """Rises of the envelope by 4 dB within 40 ms."""
    level = np.log10(np.sqrt((wave[: len(wave) // 160 * 160].reshape(-1, 160) ** 2).mean(1)) + 1e-5)
    rise = level[4:] - level[:-4] > 0.2
    return int((rise[1:] & ~rise[:-1]).sum())


def test_loudness_can_be_heard(bank: Bank) -> None:
    for name in ("cello", "snare drum", "applause", "gun"):
        rhythm = "lasting" if BY_KEY[name].style == "texture" else "slow"
        register = "low" if BY_KEY[name].style == "melodic" else ""
        soft, plain, loud = (
            np.mean([_loudness(_mix(bank, Event(name, rhythm, register, how), index=i)) for i in range(4)])
            for how in ("soft", "", "loud")
        )
        assert plain - soft > 6
        assert loud - plain > 6


def test_rhythm_can_be_heard(bank: Bank) -> None:
    for name in ("snare drum", "woodblock", "xylophone"):
        register = "high" if name == "xylophone" else ""
        counts = [_onsets(_mix(bank, Event(name, rhythm, register, ""))) for rhythm in ("single", "slow", "fast")]
        assert counts[0] <= 1
        assert 3 <= counts[1] <= 8
        assert counts[2] >= 12
    for index in range(5):
        sounding = [
            np.mean(np.abs(_mix(bank, Event("applause", rhythm, "", ""), index=index)) > 1e-4)
            for rhythm in ("brief", "lasting")
        ]
        assert sounding[0] < 0.2
        assert sounding[1] > 0.85


def test_register_can_be_heard(bank: Bank) -> None:
    frequencies = np.fft.rfftfreq(51_200, 1 / 16_000)
    for name in ("cello", "flute", "grand piano", "trumpet"):
        centre = []
        for register in ("low", "high"):
            power = np.abs(np.fft.rfft(_mix(bank, Event(name, "slow", register, "")))) ** 2
            centre.append(np.exp((power * np.log(frequencies + 1)).sum() / power.sum()))
        assert centre[1] > 1.25 * centre[0]


def test_relations_can_be_heard(bank: Bank) -> None:
    flute, sea = Event("flute", "slow", "high", "loud"), Event("sea", "lasting", "", "")
    for index in range(4):
        alone = _mix(bank, flute, index=index)
        assert np.abs(alone[:4000]).max() > 0.01
        then = _mix(bank, sea, flute, relation="then", index=index)
        low = np.abs(np.fft.rfft(then[:25_600])) ** 2
        assert low[:800].sum() / low.sum() > 0.2 or _loudness(then[:25_600]) < _loudness(then[25_600:])
        joined = _mix(bank, Event("sea", "lasting", "", "soft"), flute, relation="joined", index=index)
        assert _loudness(joined[:20_000]) < _loudness(joined[30_000:]) - 10
        together = _mix(bank, Event("sea", "lasting", "", "soft"), flute, relation="while", index=index)
        assert abs(_loudness(together[:20_000]) - _loudness(together[30_000:])) < 6


def test_what_others_join_is_still_going_on(plans: dict[str, list[Scene]]) -> None:
    joined = [scene for scene in plans["train"] if scene.relation == "joined"]
    assert len(joined) > 500
    assert {scene.events[0].rhythm for scene in joined} == {"slow", "fast", "lasting"}
    assert {event.rhythm for scene in joined for event in scene.events[1:]} > {"single", "brief"}


def test_nothing_soft_sounds_under_something_loud(plans: dict[str, list[Scene]]) -> None:
    for scene in plans["train"]:
        if scene.relation in ("while", "joined"):
            assert not {"soft", "loud"} <= {event.loudness for event in scene.events}


def test_clips_are_within_full_scale_and_never_silent(test_split: SceneData) -> None:
    for i in range(len(test_split)):
        wave = test_split.waveform(i)
        assert wave.shape == (51_200,)
        assert 1e-3 < np.abs(wave).max() <= 0.98
        assert np.abs(wave[:8000]).max() > 2e-4  # something happens within the first half second


def test_cached_log_mels_are_those_of_the_sound(test_split: SceneData) -> None:
    for i in (0, 17, 59):
        want = test_split.log_mel(torch.from_numpy(test_split.waveform(i)))
        assert torch.allclose(test_split.features(i), want, atol=2e-3, rtol=1e-3)
    audio, frames = test_split.features_batch([5, 2])
    assert torch.equal(audio[0], test_split.features(5))
    assert frames.tolist() == [160, 160] == [test_split.frames(5)] * 2
    everything = test_split.features_batch(range(60))[0]
    assert abs(everything.mean()) < 0.3
    assert 0.7 < everything.std() < 1.3


def test_the_cache_is_one_file_read_again_and_repaired(
    config: DataConfig, test_split: SceneData, caplog: pytest.LogCaptureFixture
) -> None:
    path = test_split._path()
    before = path.stat().st_mtime_ns
    told: list[object] = []
    again = SceneData(config, "test", progress=lambda *step: told.append(step))
    assert not told
    assert path.stat().st_mtime_ns == before
    wanted = np.load(path)
    assert np.array_equal(again.mels.stack(range(60)), wanted)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(4096))
    with caplog.at_level(logging.WARNING):
        repaired = SceneData(config, "test", progress=lambda *step: told.append(step))
        assert np.array_equal(repaired.features_batch(range(60))[0], wanted.astype(np.float32))
    assert "rendered again" in caplog.text
    assert not told
    assert np.array_equal(np.load(path), wanted)
    path.write_bytes(b"")
    assert np.array_equal(SceneData(config, "test", lambda *step: told.append(step)).mels.stack(range(60)), wanted)
    assert told[-1] == ("rendering scenes/test", 60, 60)


def test_threads_do_not_change_the_log_mels(config: DataConfig, test_split: SceneData, tmp_path: Path) -> None:
    other = replace(config, cache=str(tmp_path))
    for bank in Path(config.cache or "").glob("notes-*.npz"):
        (tmp_path / bank.name).symlink_to(bank)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        again = SceneData(other, "test", progress=lambda *_: None)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(again.mels.stack(range(60)), test_split.mels.stack(range(60)))


def test_open_data_and_node_texts(config: DataConfig, test_split: SceneData) -> None:
    data = open_data(BaseConfig(data=config), "test", progress=lambda *_: None)
    assert isinstance(data, AudioTextData)
    assert (len(data), data.name) == (60, "scenes/test")
    assert data.chain(7) == test_split.chain(7)
    assert sum(data.unseen(i) for i in range(60)) > 6
    texts = {each: data.node_text(each) for i in range(60) for each in data.chain(i)}
    assert len(set(texts.values())) == len(texts)
    with pytest.raises(KeyError, match="12345"):
        data.node_text(12345)
    with pytest.raises(ValueError, match="split"):
        open_data(BaseConfig(data=config), "valid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"data\.test"):
        open_data(BaseConfig(data=replace(config, train="a.csv")), "test")
    with pytest.raises(ValueError, match="dev_clips"):
        SceneData(replace(config, dev_clips=0), "dev")


def test_all_sources_are_mixed_by_name(bank: Bank) -> None:
    for source in SOURCES:
        rhythms = ("brief", "lasting") if source.style == "texture" else ("single", "slow", "fast")
        for index, rhythm in enumerate(rhythms):  # equally loud, whichever way it is played
            wave = _mix(bank, Event(source.key, rhythm, "low" if source.style == "melodic" else "", ""), index=index)
            assert -39 < _loudness(wave) < -29, (source.key, rhythm)
