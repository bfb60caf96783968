"""The words of the scene captions: nouns per domain and family, adjectives, and neutral filler of every length."""

from __future__ import annotations

from typing import NamedTuple

DOMAIN_WORDS: dict[str, tuple[str, ...]] = {
    "music": ("music", "some music", "musical sounds", "some kind of music", "something musical"),
    "percussion": ("percussion", "some percussion", "percussive sounds", "things being struck or shaken"),
    "people": ("people", "human sounds", "noises made by people", "some human presence"),
    "nature": ("nature", "natural sounds", "the sounds of nature", "something from the natural world"),
    "devices": ("devices", "some device", "technical sounds", "the noise of some device"),
}
"""Domain -> ways to say it; the first is canonical and terse."""


class FamilyWords(NamedTuple):
    short: str
    nouns: tuple[str, ...]
    plural: str


FAMILY_WORDS: dict[str, FamilyWords] = {
    "keyboard": FamilyWords("keyboard music", ("a keyboard instrument", "a stringed keyboard"), "keyboard instruments"),
    "organ": FamilyWords(
        "organ music", ("an organ-like instrument", "a relative of the organ"), "organ-like instruments"
    ),
    "mallet": FamilyWords("chimes", ("a chiming instrument", "tuned bars or bells"), "chiming instruments"),
    "plucked": FamilyWords(
        "plucked strings", ("a plucked string instrument", "strings being plucked"), "plucked string instruments"
    ),
    "bowed": FamilyWords(
        "bowed strings", ("a bowed string instrument", "strings played with bows"), "bowed string instruments"
    ),
    "brass": FamilyWords("brass", ("a brass instrument", "music from brass"), "brass instruments"),
    "woodwind": FamilyWords(
        "woodwind", ("a woodwind instrument", "something from the woodwinds"), "woodwind instruments"
    ),
    "choir": FamilyWords("singing", ("singing voices", "somebody singing"), "kinds of singing"),
    "synthesizer": FamilyWords("synthesizer", ("a synthesizer", "an electronic instrument"), "synthesizers"),
    "drum": FamilyWords("drum", ("a drum", "some kind of drum"), "drums"),
    "cymbal": FamilyWords("cymbal", ("a cymbal", "some kind of cymbal"), "cymbals"),
    "wood percussion": FamilyWords(
        "wooden percussion", ("a wooden percussion instrument", "wood being hit or scraped"), "wooden instruments"
    ),
    "metal percussion": FamilyWords(
        "metal percussion", ("a metal percussion instrument", "small pieces of metal being struck"), "metal instruments"
    ),
    "shaker": FamilyWords("shaker", ("a shaken instrument", "something that rattles"), "shaken instruments"),
    "crowd": FamilyWords("crowd", ("a crowd", "a crowd of people"), "crowds"),
    "person": FamilyWords("person", ("a person", "one human being"), "noises of a person"),
    "water": FamilyWords("water", ("water", "moving water"), "waters"),
    "animal": FamilyWords("animal", ("an animal", "some living creature"), "animals"),
    "signal": FamilyWords("signal", ("a signal", "some kind of alert"), "signals"),
    "aircraft": FamilyWords("aircraft", ("an aircraft", "some flying machine"), "aircraft"),
    "weapon": FamilyWords("weapon", ("a weapon", "some kind of weapon"), "weapons"),
}

ADJECTIVES: dict[str, tuple[str, str]] = {
    "single": ("single", "lone"),
    "slow": ("slow", "unhurried"),
    "fast": ("fast", "quick"),
    "brief": ("brief", "momentary"),
    "lasting": ("lasting", "continuous"),
    "low": ("low", "deep"),
    "high": ("high", "high-pitched"),
    "soft": ("soft", "quiet"),
    "loud": ("loud", "powerful"),
}
"""Attribute -> the usual word and another one."""

_BEFORE = (
    "",
    "just",
    "we hear",
    "listen to",
    "audio of",
    "you can hear",
    "a recording of",
    "the sound of",
    "this is audio of",
    "here we can hear",
    "an audio clip of",
    "a little recording of",
    "in this clip we hear",
    "the microphone has picked up",
    "this audio clip consists of",
    "in this recording you can hear",
    "somebody has made a recording of",
    "a recording in which you can hear",
    "a little clip in which we hear",
    "in this piece of audio we can hear",
    "this is an audio clip in which we hear",
    "if you listen closely to this you can hear",
    "this is a little recording in which you can hear",
    "somebody has made a little recording in which you can hear",
    "this is a little piece of audio in which you can hear",
)
_AFTER = (
    "",
    "and nothing else",
    "with no other sounds",
    "captured by a microphone",
    "and nothing more than that",
    "and no other sounds at all",
    "as captured by a single microphone",
    "and there is nothing else to be heard",
)


def _fillers() -> dict[int, tuple[str, ...]]:
    by_length: dict[int, list[str]] = {}
    for before in _BEFORE:
        for after in _AFTER:
            if "microphone" in before and "microphone" in after:
                continue
            template = f"{before} {{}} {after}".strip()
            by_length.setdefault(len(template.split()) - 1, []).append(template)
    return {length: tuple(templates) for length, templates in by_length.items()}


FILLERS: dict[int, tuple[str, ...]] = _fillers()
"""Number of added words -> templates with one {}: none says anything about the sound."""
