"""Captions of a scene on four levels of abstraction, with lengths that say nothing about the level.

For every scene one range of lengths holds for all levels: a general caption is filled up with neutral words ("a
recording in which you can hear some kind of music"), a specific one is cut to telegraphic form ("slow low cello,
then applause"). Otherwise a model that merely counts words would look as if it understood generality.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from prolap.data.dataset import Caption
from prolap.data.scenes.plan import Event, Scene
from prolap.data.scenes.sources import BY_KEY, domain
from prolap.data.scenes.words import ADJECTIVES, DOMAIN_WORDS, FAMILY_WORDS, FILLERS

VERSION = 1
PARAPHRASES = 3
STRATA = ((-1, 2), (3, 6), (7, 11))  # words beside the scene's shortest specific caption, one paraphrase each
SHORTEST = 0.12  # chance that a short caption is as short as its level allows
NUMBERS = {2: "two", 3: "three"}


class Choice:
    """Random picks; without a generator always the first option, which gives the canonical text."""

    def __init__(self, rng: np.random.Generator | None = None) -> None:
        self.rng = rng

    def __call__(self, options: Sequence[str], usual: float | None = None) -> str:
        """One of the options; `usual` is the weight of the first, the rest share what is left."""
        if self.rng is None:
            return options[0]
        if usual is not None and self.rng.random() < usual:
            return options[0]
        return options[int(self.rng.random() * len(options))]

    def order(self, events: Sequence[Event]) -> list[Event]:
        """The events in any order."""
        if self.rng is None or len(events) < 2:
            return list(events)
        return [events[k] for k in self.rng.permutation(len(events))]


def _a(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _words(text: str) -> int:
    return text.count(" ") + 1


def _short(event: Event, choice: Choice) -> str:
    """Level 3 without articles: "soft slow low cello"."""
    source = BY_KEY[event.source]
    qualities = [choice(ADJECTIVES[word], 0.6) for word in (event.loudness, event.rhythm, event.register) if word]
    noun = source.key if source.style == "melodic" else source.one if event.rhythm == "single" else source.many
    return " ".join([*qualities, noun])


def _long(event: Event, choice: Choice) -> str:
    """Level 3 as a noun phrase: "a soft slow low cello melody"."""
    source = BY_KEY[event.source]
    qualities = " ".join(
        choice(ADJECTIVES[word], 0.6) for word in (event.loudness, event.rhythm, event.register) if word
    )
    single = event.rhythm == "single"
    if source.style == "texture":
        return choice(
            (f"{qualities} {source.one}", f"{qualities} {source.one}", f"{qualities} sounds of {source.other}")
        )
    if source.style == "hits":
        return _a(f"{qualities} {source.one}") if single else f"{qualities} {source.many}"
    noun = "note" if single else "melody"
    return _a(choice((f"{qualities} {source.one if single else source.many}", f"{qualities} {noun} on {source.other}")))


def _joined(scene: Scene, parts: list[str], terse: bool, choice: Choice) -> str:
    """Phrases of the events, in order, joined by their relation."""
    first, rest = parts[0], parts[1:]
    if not rest:
        return first
    if scene.relation == "while":
        if terse:
            return f"{first} with {_list(rest)}"
        both = _list(parts)
        others = _list(rest)
        return choice(
            (f"{first} while {others} can be heard", f"{both} at once", f"{both} together", f"{first} with {others}")
        )
    if scene.relation == "joined":
        if terse:
            return choice((f"{first} joined by {_list(rest)}", f"{first}, later plus {_list(rest)}"))
        late = _list(rest)
        return choice((f"{first}, later joined by {late}", f"{first} with {late} joining in halfway"))
    if terse:
        return ", then ".join(parts)
    *start, last = parts
    finally_ = "finally" if len(start) > 1 else "then"
    return choice(
        (
            f"{', then '.join(start)} followed by {last}",
            f"{', then '.join(start)} and then {last}",
            f"first {', then '.join(start)} and {finally_} {last}",
        )
    )


def _ordered(scene: Scene, choice: Choice) -> list[Event]:
    """The events in an order in which their relation may be told."""
    if scene.relation == "while":
        return choice.order(scene.events)
    if scene.relation == "joined":
        return [scene.events[0], *choice.order(scene.events[1:])]
    return list(scene.events)


def _families(scene: Scene, choice: Choice, terse: bool) -> list[str]:
    counts = Counter(BY_KEY[event.source].family for event in choice.order(scene.events))
    families = list(counts) if choice.rng is not None else sorted(counts)
    out = []
    for family in families:
        words = FAMILY_WORDS[family]
        if counts[family] > 1:
            out.append(f"{NUMBERS[counts[family]]} {words.plural}")
        else:
            out.append(words.short if terse else choice(words.nouns))
    return out


def phrase(scene: Scene, level: int, terse: bool, choice: Choice) -> str:
    """The scene as a noun phrase on one level: telegraphic or full."""
    if level == 0:
        names = dict.fromkeys(domain(event.source) for event in choice.order(scene.events))
        names = names if choice.rng is not None else dict.fromkeys(sorted(names))
        parts = [DOMAIN_WORDS[name][0] if terse else choice(DOMAIN_WORDS[name]) for name in names]
        return ", ".join(parts) if terse else _list(parts)
    if level == 1:
        parts = _families(scene, choice, terse)
        return ", ".join(parts) if terse else _list(parts)
    events = _ordered(scene, choice)
    if level == 2:
        parts = [event.source if terse else choice(BY_KEY[event.source][5:7], 0.3) for event in events]
    else:
        parts = [_short(event, choice) if terse else _long(event, choice) for event in events]
    return _joined(scene, parts, terse, choice)


def canonical(scene: Scene, level: int) -> str:
    """The canonical text of the scene's node on a level."""
    return phrase(scene, level, False, Choice())


def _fit(scene: Scene, level: int, target: int, rng: np.random.Generator) -> str:
    """A caption of about `target` words: the telegraphic phrase, or a full one in neutral words."""
    choice = Choice(rng)
    full = phrase(scene, level, False, choice)
    spare = target - _words(full)
    if spare < 0 or (spare == 0 and rng.random() < 0.3):
        short = phrase(scene, level, True, choice)
        if spare < 0 or _words(short) == target:
            return min(short, full, key=lambda text: abs(_words(text) - target))
    return choice(FILLERS[min(spare, max(FILLERS))]).format(full)


def caption_scene(scene: Scene, rng: np.random.Generator) -> list[Caption]:
    """PARAPHRASES captions on each level, general to specific, of short, middle and long lengths."""
    shortest = _words(phrase(scene, 3, True, Choice()))
    out = []
    for level in range(4):
        for low, high in STRATA:
            target = shortest + int(rng.integers(low, high + 1))
            if low < 0 and rng.random() < SHORTEST:
                text = phrase(scene, level, True, Choice(rng))
            else:
                text = _fit(scene, level, max(1, target), rng)
            out.append(Caption(text, level, scene.chain[level]))
    return out
