"""Captions of the scenes: true to their node, and of a length that does not give the level away."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from prolap.data.dataset import Caption
from prolap.data.scenes import captions as scene_captions
from prolap.data.scenes.captions import canonical, caption_scene
from prolap.data.scenes.plan import Event, Scene, Universe, plan
from prolap.data.scenes.sources import BY_KEY, DOMAINS, FAMILIES
from prolap.data.scenes.words import ADJECTIVES, DOMAIN_WORDS, FAMILY_WORDS, FILLERS
from prolap.utils.seeding import numpy_generator


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return plan(0, "train", 2000, Universe())


@pytest.fixture(scope="module")
def captions(scenes: list[Scene]) -> list[list[Caption]]:
    return [caption_scene(scene, numpy_generator(0, "captions", i)) for i, scene in enumerate(scenes)]


def _auc(low: np.ndarray, high: np.ndarray) -> float:
    """P(a member of high exceeds one of low), ties half."""
    order = np.sort(low)
    return float((np.searchsorted(order, high, "left") + np.searchsorted(order, high, "right")).mean() / 2 / len(low))


def test_length_does_not_tell_the_level(captions: list[list[Caption]]) -> None:
    lengths = [
        np.array([len(c.text.split()) for row in captions for c in row if c.level == level]) for level in range(4)
    ]
    for low in range(4):
        for high in range(4):
            assert abs(_auc(lengths[low], lengths[high]) - 0.5) < 0.03
            shares = [np.bincount(lengths[k], minlength=40) / len(lengths[k]) for k in (low, high)]
            assert np.minimum(*shares).sum() > 0.8  # the two distributions overlap
    for each in lengths:  # terse and wordy on every level
        assert (each <= 6).mean() > 0.05
        assert (each >= 16).mean() > 0.2


def test_length_does_not_tell_the_level_of_one_scene(captions: list[list[Caption]]) -> None:
    means = np.array(
        [[np.mean([len(c.text.split()) for c in row if c.level == k]) for k in range(4)] for row in captions]
    )
    assert abs((means[:, 3] > means[:, 0]).mean() - (means[:, 3] < means[:, 0]).mean()) < 0.15


def test_a_text_has_one_meaning(scenes: list[Scene], captions: list[list[Caption]]) -> None:
    meanings: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for scene, row in zip(scenes, captions, strict=True):
        for level in range(4):
            meanings[canonical(scene, level)].add((level, scene.chain[level]))
        for caption in row:
            meanings[caption.text].add((caption.level, caption.node))
    assert not {text: found for text, found in meanings.items() if len(found) > 1}


def test_each_level_has_paraphrases_of_the_clip_s_own_node(scenes: list[Scene], captions: list[list[Caption]]) -> None:
    different = []
    for scene, row in zip(scenes, captions, strict=True):
        for level in range(4):
            texts = [caption.text for caption in row if caption.level == level]
            assert len(texts) == scene_captions.PARAPHRASES
            assert {caption.node for caption in row if caption.level == level} == {scene.chain[level]}
            different.append(len(set(texts)))
    assert np.mean(different) > 2.8


def _says(text: str, options: tuple[str, ...]) -> bool:
    return any(option in text for option in options)


def test_captions_say_what_their_level_holds_and_no_more(scenes: list[Scene], captions: list[list[Caption]]) -> None:
    for scene, row in zip(scenes, captions, strict=True):
        for caption in row:
            words = f" {caption.text.replace(',', '')} "
            for event in scene.events:
                source = BY_KEY[event.source]
                names = (source.key, *(each.split(" ", 1)[-1] for each in source[5:9]), source.noun, source.other)
                if caption.level >= 2:
                    assert _says(words, names), (caption, event)
                attributes = [ADJECTIVES[word] for word in event[1:] if word]
                if caption.level == 3:
                    assert all(_says(words, tuple(f" {word} " for word in pair)) for pair in attributes), caption
            if caption.level == 0:
                assert all(_says(words, DOMAIN_WORDS[FAMILIES[BY_KEY[e.source].family]]) for e in scene.events)
            if caption.level < 3:
                given = {word for pair in ADJECTIVES.values() for word in pair} - {"single"}  # "a single microphone"
                assert not given & set(words.split()), caption


def test_order_of_telling_follows_the_order_of_sounding() -> None:
    events = (Event("cello", "slow", "low", ""), Event("applause", "brief", "", ""))
    for seed in range(30):
        for relation in ("then", "joined"):
            scene = Scene(relation, events)  # type: ignore[arg-type]
            for caption in caption_scene(scene, np.random.default_rng(seed)):
                if caption.level == 3 and "joining in halfway" not in caption.text:
                    cello = min(k for k in (caption.text.find("cello"), caption.text.find("violoncello")) if k >= 0)
                    clap = max(caption.text.find("applause"), caption.text.find("people clapping"))
                    assert cello < clap


def test_canonical_texts_by_hand() -> None:
    cello, clap, gun = (
        Event("cello", "slow", "low", ""),
        Event("applause", "brief", "", "loud"),
        Event("gun", "single", "", "soft"),
    )
    scene = Scene("joined", (cello, clap))
    assert [canonical(scene, level) for level in range(4)] == [
        "music and people",
        "a bowed string instrument and a crowd",
        "a cello, later joined by applause",
        "a slow low cello melody, later joined by loud brief applause",
    ]
    assert canonical(Scene("then", (gun, cello, clap)), 3) == (
        "a soft single gunshot, then a slow low cello melody followed by loud brief applause"
    )
    assert canonical(Scene("while", (clap, cello)), 3) == (
        "loud brief applause while a slow low cello melody can be heard"
    )


def test_articles_and_spaces(captions: list[list[Caption]]) -> None:
    for row in captions:
        for caption in row:
            words = caption.text.replace(",", "").split()
            assert caption.text == " ".join(caption.text.split())
            for word, following in zip(words[:-1], words[1:], strict=True):
                if word in ("a", "an"):
                    assert (word == "an") == (following[0] in "aeiou"), caption.text


def test_the_word_tables_are_whole() -> None:
    assert set(DOMAIN_WORDS) == set(DOMAINS)
    assert set(FAMILY_WORDS) == set(FAMILIES)
    assert set(range(20)) <= set(FILLERS)
    assert all(template.count("{}") == 1 for templates in FILLERS.values() for template in templates)
    assert all(len(t.split()) == length + 1 for length, templates in FILLERS.items() for t in templates)


def test_the_vocabulary_is_small(captions: list[list[Caption]]) -> None:
    words = {word for row in captions for caption in row for word in caption.text.replace(",", "").split()}
    assert 200 < len(words) < 500
