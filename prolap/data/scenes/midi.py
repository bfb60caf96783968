"""The few bytes of a standard MIDI file that the note bank needs."""

from __future__ import annotations

import struct

PERCUSSION = 9  # the drum channel, counted from 0


def _length(ticks: int) -> bytes:
    parts = [ticks & 127]
    while ticks := ticks >> 7:
        parts.append(ticks & 127 | 128)
    return bytes(reversed(parts))


def write(events: list[tuple[int, bytes]]) -> bytes:
    """A one-track MIDI file of (milliseconds, message) events."""
    track, now = b"", 0
    for time, message in sorted(events, key=lambda event: event[0]):
        track += _length(time - now) + message
        now = time
    track += b"\x00\xff\x2f\x00"
    # 500 ticks a quarter at the default tempo of 120 a minute: one tick is one millisecond
    header = struct.pack(">4sIHHH", b"MThd", 6, 0, 1, 500)
    return header + struct.pack(">4sI", b"MTrk", len(track)) + track


def single_notes(program: int | None, notes: list[tuple[int, int]], slot: int, hold: int) -> bytes:
    """Notes (pitch, velocity) one by one, each alone in a slot of `slot` ms and held for `hold` ms.

    program: General MIDI program counted from 0; None plays the percussion channel. Reverb and chorus are off, and
    every slot ends with "all sound off", so nothing rings into the next one.
    """
    channel = PERCUSSION if program is None else 0
    events = [(0, bytes((0xB0 | channel, 91, 0))), (0, bytes((0xB0 | channel, 93, 0)))]
    if program is not None:
        events.append((0, bytes((0xC0, program))))
    for n, (pitch, velocity) in enumerate(notes):
        events.append((n * slot + 2, bytes((0x90 | channel, pitch, velocity))))
        events.append((n * slot + hold, bytes((0x80 | channel, pitch, 0))))
        events.append(((n + 1) * slot - 2, bytes((0xB0 | channel, 120, 0))))
    return write(events)
