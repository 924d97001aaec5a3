"""Who could change the machine code that the next start loads: the kernels' cache is executed, so it is trusted."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_SUFFIXES = (".nbi", ".nbc")  # numba's index, a pickle, and its machine code


def cache_findings(folders: Iterable[Path]) -> tuple[str, ...]:
    """Why somebody else than this user and root could put code into these folders; empty when nobody could.

    Looked at: each folder and all above it, and each cached file. A folder with the sticky bit, such as /tmp, is no
    finding by itself: nobody else can rename what we own in it.
    """
    found: list[str] = []
    seen: set[Path] = set()
    for folder in sorted(folders):
        for place in (folder, *folder.resolve().parents):
            if place not in seen:
                seen.add(place)
                found += _finding(place, sticky_is_fine=place != folder)
        for entry in sorted(folder.glob("*")) if folder.is_dir() else ():
            if entry.suffix in _SUFFIXES:
                found += _finding(entry, sticky_is_fine=False)
    return tuple(found)


def _finding(place: Path, *, sticky_is_fine: bool) -> list[str]:
    try:
        facts = place.lstat()
    except OSError as error:
        return [f"{place}: {error.strerror}"]
    if facts.st_uid not in (0, os.geteuid()):
        return [f"{place} belongs to user {facts.st_uid}"]
    if facts.st_mode & _OTHERS_WRITE and not stat.S_ISLNK(facts.st_mode):
        if sticky_is_fine and facts.st_mode & stat.S_ISVTX:
            return []
        return [f"{place} can be written by its group or everybody (mode {stat.S_IMODE(facts.st_mode):o})"]
    return []
