"""How data sets lie on disks. A new layout is a file that registers it, here (and imported below) or in a user's own module."""

from __future__ import annotations

from prolap.data.files.layouts import aac, audiocaps, clotho, folder, manifest, scenes, wds
from prolap.data.files.layouts.base import LAYOUTS, Layout, Part, register

__all__ = ["LAYOUTS", "Layout", "Part", "register"]
