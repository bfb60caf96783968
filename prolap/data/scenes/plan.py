"""Which scene a clip is: sources, their relation and attributes, drawn without rendering any sound.

A scene has one meaning on each of four levels, every level a function of the next one:
level 0 the domains, level 1 the families, level 2 the sources and their relation, level 3 also how each source sounds.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from prolap.data.dataset import Split
from prolap.data.scenes.sources import BY_KEY, DOMAINS, FAMILIES, SOURCES, domain
from prolap.utils.seeding import numpy_generator

VERSION = 2  # of the plans and their meanings; part of every cached file's name
Relation = Literal["alone", "while", "then", "joined"]
TOGETHER: tuple[Relation, ...] = ("while", "then", "joined")

SETS = {1: len(SOURCES), 2: 1100, 3: 800}  # source sets by their size
SIZE_WEIGHTS = {1: 0.2, 2: 0.5, 3: 0.3}
UNSEEN_SETS = 0.15  # share of the source sets that training never contains
UNSEEN_CLIPS = 0.3  # share of the dev and test clips that is made of them
TRAIN_SHARE, DEV_SHARE = 0.8, 0.87  # borders between train, dev and test on the hash of a meaning
ATTEMPTS = 10_000


class Event(NamedTuple):
    """One source and how it sounds: every attribute can be heard in the clip."""

    source: str
    rhythm: str
    """`single`, `slow`, `fast`; for textures `brief`, `lasting`."""
    register: str
    """`low` or `high` within the range of a melodic source, else empty."""
    loudness: str
    """`soft`, `loud`, or empty for in between."""


@dataclass(frozen=True)
class Scene:
    """Events in order of time; where they sound together, in the order of their names."""

    relation: Relation
    events: tuple[Event, ...]

    @functools.cached_property
    def sources(self) -> tuple[str, ...]:
        """The source set, in alphabetical order."""
        return tuple(sorted(event.source for event in self.events))

    @functools.cached_property
    def meanings(self) -> tuple[str, str, str, str]:
        """Canonical strings of the meaning, general to specific."""
        names = [event.source for event in self.events]
        return (
            "0|" + "+".join(sorted({domain(name) for name in names})),
            "1|" + "+".join(sorted(BY_KEY[name].family for name in names)),
            f"2|{self.relation}|" + "+".join(names),
            f"3|{self.relation}|" + "+".join(":".join(event) for event in self.events),
        )

    @functools.cached_property
    def chain(self) -> tuple[int, int, int, int]:
        """The semantic nodes, general to specific: the same in every split, process and version of Python."""
        zero, one, two, three = (node(meaning) for meaning in self.meanings)
        return zero, one, two, three


@functools.lru_cache(maxsize=1 << 17)
def node(meaning: str) -> int:
    """A 63-bit hash of a canonical meaning."""
    return int.from_bytes(hashlib.blake2b(meaning.encode(), digest_size=8).digest(), "little") >> 1


def share(text: str, purpose: str) -> float:
    """A hash of the text, uniform in [0, 1)."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=purpose.encode()[:16]).digest()
    return int.from_bytes(digest, "little") / 2**64


def unseen_sources(sources: tuple[str, ...]) -> bool:
    """Whether training is never given this set of sources (a sorted tuple)."""
    return share("+".join(sources), "sources") < UNSEEN_SETS


def split_of(scene: Scene) -> Split:
    """The only split in which this combination of sources, relation and attributes may occur."""
    position = share(scene.meanings[3], "split")
    if unseen_sources(scene.sources):
        return "dev" if position < (DEV_SHARE - TRAIN_SHARE) / (1 - TRAIN_SHARE) else "test"
    if position < TRAIN_SHARE:
        return "train"
    return "dev" if position < DEV_SHARE else "test"


class Universe:
    """The source sets that scenes are made of; the same for every seed, so that splits stay comparable.

    Few enough that training meets each set of its share several times, so that `unseen` marks the sets it never met.
    """

    def __init__(self, silent: frozenset[str] = frozenset()) -> None:
        self.seen: dict[int, list[tuple[str, ...]]] = {}
        self.unseen: dict[int, list[tuple[str, ...]]] = {}
        rng = numpy_generator(0, "source sets")
        groups = {name: [s.key for s in SOURCES if FAMILIES[s.family] == name] for name in DOMAINS}
        weights = np.array(list(DOMAINS.values()))
        for size, count in SETS.items():
            sets: dict[tuple[str, ...], None] = {(s.key,): None for s in SOURCES} if size == 1 else {}
            while len(sets) < count:
                chosen = [list(groups)[k] for k in rng.choice(len(weights), size, p=weights / weights.sum())]
                keys = {groups[name][int(rng.integers(len(groups[name])))] for name in chosen}
                if len(keys) == size:
                    sets[tuple(sorted(keys))] = None
            heard = [keys for keys in sets if not silent & set(keys)]
            self.seen[size] = [keys for keys in heard if not unseen_sources(keys)]
            self.unseen[size] = [keys for keys in heard if unseen_sources(keys)]

    def draw(self, rng: np.random.Generator, unseen: bool) -> tuple[str, ...]:
        """A source set: its size by SIZE_WEIGHTS, single sources by the weight of their domain."""
        pool = self.unseen if unseen else self.seen
        sizes = [size for size in SIZE_WEIGHTS if pool[size]]
        weights = np.array([SIZE_WEIGHTS[size] for size in sizes])
        size = sizes[int(np.searchsorted(np.cumsum(weights / weights.sum()), rng.random()))]
        return pool[size][int(rng.integers(len(pool[size])))]


def _event(rng: np.random.Generator, source: str) -> Event:
    style = BY_KEY[source].style
    texture = style == "texture"
    rhythm = ("brief", "lasting")[rng.integers(2)] if texture else ("single", "slow", "fast")[rng.integers(3)]
    register = ("low", "high")[rng.integers(2)] if style == "melodic" else ""
    return Event(source, rhythm, register, ("soft", "", "", "loud")[rng.integers(4)])


def _balanced(events: Sequence[Event]) -> list[Event]:
    """Nothing soft drowns in something loud: then the loud one is played at medium loudness."""
    if {"soft", "loud"} <= {event.loudness for event in events}:
        return [event._replace(loudness="") if event.loudness == "loud" else event for event in events]
    return list(events)


def _going_on(rng: np.random.Generator, event: Event) -> Event:
    """The event in a rhythm that lasts until others join it."""
    if event.rhythm == "brief":
        return event._replace(rhythm="lasting")
    return event._replace(rhythm=("slow", "fast")[rng.integers(2)]) if event.rhythm == "single" else event


def draw(rng: np.random.Generator, universe: Universe, unseen: bool) -> Scene:
    """A scene at random."""
    sources = universe.draw(rng, unseen)
    events = [_event(rng, source) for source in sources]
    if len(events) == 1:
        return Scene("alone", tuple(events))
    relation: Relation = TOGETHER[rng.integers(3)]
    if relation != "then":
        events = _balanced(events)
    if relation == "while":
        return Scene(relation, tuple(sorted(events)))
    order = [events[k] for k in rng.permutation(len(events))]
    if relation == "joined":
        return Scene(relation, (_going_on(rng, order[0]), *sorted(order[1:])))
    return Scene(relation, tuple(order))


def plan(seed: int, split: Split, clips: int, universe: Universe) -> list[Scene]:
    """The scenes of a split. Clip i depends on (seed, split, i) alone in training; in dev and test also on the clips
    before it, for no meaning occurs there twice.

    Errors: RuntimeError if there are not enough distinct scenes.
    """
    scenes: list[Scene] = []
    taken: set[str] = set()
    for i in range(clips):
        rng = numpy_generator(seed, "plan", split, i)
        held_out = split != "train" and rng.random() < UNSEEN_CLIPS
        for _ in range(ATTEMPTS):
            scene = draw(rng, universe, held_out)
            if split_of(scene) == split and scene.meanings[3] not in taken:
                break
        else:
            raise RuntimeError(f"data.{split}_clips: no further distinct scene after {i} of {clips} clips")
        scenes.append(scene)
        if split != "train":
            taken.add(scene.meanings[3])
    return scenes
