"""Run as a process of its own by test_state_kills.py: forks children that die at every write point of a state.

argv: mode (points | loop), folder of a device (key.pem, trust/, next/, state/, counter).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

from edgeguard.errors import TrustError
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.state import DeviceState
from edgeguard.trust.state_files import FolderFiles
from edgeguard.trust.store import TrustStore


class FileCounter:
    """A counter whose memory is a file that the attacker of these tests cannot reach, as a TPM's would be."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> int:
        return int(self._path.read_text()) if self._path.exists() else 0

    def increment(self) -> int:
        new = self._path.with_suffix(".new")
        new.write_text(str(self.read() + 1))
        new.replace(self._path)
        return self.read()


class Dying:
    """Files and counter that kill the process before, in the middle of, or after the n-th step."""

    def __init__(self, folder: Path, counter: FileCounter, step: int, when: str) -> None:
        self._files = FolderFiles(folder)
        self._counter = counter
        self._left = step
        self._when = when

    def _point(self, run, partial=None):
        self._left -= 1
        due = self._left == 0
        if due and self._when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if due and self._when == "middle" and partial is not None:
            partial()
            os.kill(os.getpid(), signal.SIGKILL)
        result = run()
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def read(self, name: str, limit: int | None = None):
        return self._files.read(name, limit)

    def names(self) -> list[str]:
        return self._files.names()

    def locked(self) -> AbstractContextManager[None]:
        return self._files.locked()

    def write_new(self, name: str, content: bytes) -> None:
        self._point(
            lambda: self._files.write_new(name, content),
            lambda: self._files.write_new(name, content[: len(content) // 2]),
        )

    def replace(self, name: str, final: str) -> None:
        self._point(lambda: self._files.replace(name, final))

    def sync_names(self) -> None:
        self._point(self._files.sync_names)

    def remove(self, name: str) -> None:
        self._point(lambda: self._files.remove(name))


class DyingCounter:
    """The same for the counter, sharing the steps."""

    def __init__(self, dying: Dying, counter: FileCounter) -> None:
        self._dying = dying
        self._counter = counter

    def read(self) -> int:
        return self._counter.read()

    def increment(self) -> int:
        return self._dying._point(self._counter.increment)


def opened(folder: Path, key: FileKeyProvider, trust: TrustStore) -> DeviceState:
    counter = FileCounter(folder / "counter")
    return DeviceState.open(folder / "state", key=key, fleet_id=trust.fleet_id, counter=counter)


def in_child(work) -> int:
    """Fork, run, and return the signal that ended the child; 0 when it ended by itself."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1] & 0x7F


def at_every_point(folder: Path, key: FileKeyProvider, old: TrustStore, new: TrustStore) -> dict[str, object]:
    """Take over a newer list, dying at each step; return what was found after each death."""
    found: list[dict[str, object]] = []
    for when in ("before", "middle", "after"):
        for step in range(1, 100):
            for name in ("state", "counter"):
                shutil.rmtree(folder / name, ignore_errors=True)
            (folder / "counter").unlink(missing_ok=True)
            DeviceState.create(folder / "state", key=key, trust=old, counter=FileCounter(folder / "counter"))

            def work(step: int = step, when: str = when) -> None:
                counter = FileCounter(folder / "counter")
                files = Dying(folder / "state", counter, step, when)
                state = DeviceState.open(files, key=key, fleet_id=old.fleet_id, counter=DyingCounter(files, counter))
                state.observe(new, new.revocation)

            died = in_child(work)
            state = opened(folder, key, old)
            assert state.revocation is not None
            found.append(
                {
                    "when": when,
                    "step": step,
                    "died": died,
                    "generation": state.generation,
                    "counter": FileCounter(folder / "counter").read(),
                    "list": state.revocation.place[1],
                    "floor": state.floor("m")[1],
                }
            )
            state.observe(new, new.revocation)  # what was cut off can be done again
            assert opened(folder, key, old).revocation.place[1] == new.revocation.place[1]
            assert not [n for n in os.listdir(folder / "state") if n.endswith(".new")]
            if not died:
                break
    return {"found": found}


def under_fire(folder: Path, key: FileKeyProvider, trust: TrustStore, rounds: int) -> dict[str, object]:
    """Kill a writer at random moments; each time the state opens and holds at least what was acknowledged."""
    DeviceState.create(folder / "state", key=key, trust=trust, counter=FileCounter(folder / "counter"))
    rng = random.Random(7)
    killed = 0
    generations = []
    for _ in range(rounds):
        acknowledged, written = os.pipe()

        def work(written: int = written) -> None:
            state = opened(folder, key, trust)
            while True:
                state.set_note("n", str(state.generation))
                os.write(written, state.generation.to_bytes(8, "big"))

        pid = os.fork()
        if pid == 0:
            work()
        os.close(written)
        first = os.read(acknowledged, 8)
        time.sleep(rng.uniform(0.0, 0.02))
        os.kill(pid, signal.SIGKILL)
        killed += os.waitpid(pid, 0)[1] & 0x7F == signal.SIGKILL
        rest = first
        while piece := os.read(acknowledged, 65536):
            rest += piece
        os.close(acknowledged)
        state = opened(folder, key, trust)
        assert state.generation >= int.from_bytes(rest[-8:], "big"), "an acknowledged write is gone"
        assert state.generation == FileCounter(folder / "counter").read()
        generations.append(state.generation)
    assert generations == sorted(generations)
    return {"killed": killed, "generations": generations}


def main() -> None:
    mode, folder = sys.argv[1], Path(sys.argv[2])
    key = FileKeyProvider(folder / "key.pem")
    old = TrustStore.load(folder / "trust", 0)
    try:
        if mode == "points":
            result = at_every_point(folder, key, old, TrustStore.load(folder / "next", 0))
        else:
            result = under_fire(folder, key, old, int(sys.argv[3]))
    except TrustError as error:
        result = {"error": str(error)}
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
