"""Forked trials: isolation, failure, and many at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeguard.sim.detection.branch import Branches


def _collect(branches: Branches, works: list) -> dict[int, bytes | None]:  # type: ignore[type-arg]
    found: dict[int, bytes | None] = {}
    for tag, work in enumerate(works):
        found.update(branches.start(tag, work))
    found.update(branches.finish())
    return found


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_branch_answers_and_changes_nothing_here(jobs: int) -> None:
    """What a branch does to its copy of a list stays there; large answers arrive whole."""
    shared = [0]

    def work(number: int) -> bytes:
        shared.append(number)
        return bytes([number]) * 200_000 + str(len(shared)).encode()

    found = _collect(Branches(jobs), [lambda n=n: work(n) for n in range(7)])
    assert shared == [0]
    assert {tag: (said or b"")[-1:] for tag, said in found.items()} == dict.fromkeys(range(7), b"2")
    assert all(len(said or b"") == 200_001 for said in found.values())


def test_a_branch_that_fails_is_told_from_one_that_answers() -> None:
    """An exception, and a process that dies: neither comes back into the caller's code."""

    def broken() -> bytes:
        raise ValueError("on purpose")

    def gone() -> bytes:
        os.kill(os.getpid(), 9)
        return b""

    assert _collect(Branches(2), [broken, gone, lambda: b"fine"]) == {0: None, 1: None, 2: b"fine"}


def _children() -> set[str]:
    """Return the process numbers of this process's children, zombies too."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_stopping_leaves_no_process() -> None:
    """A branch that would run for ever is killed and reaped."""

    def endless() -> bytes:
        while True:
            os.sched_yield()

    before = _children()
    branches = Branches(2)
    assert list(branches.start(0, endless)) == []
    assert len(_children() - before) == 1
    branches.stop()
    assert _children() <= before  # a zombie would still be listed
