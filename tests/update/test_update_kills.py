"""Power cuts: at every write point of an update, half way through it, and at random with a real SIGKILL."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from edgeguard.trust.state_files import FolderFiles
from edgeguard.update.store_files import FolderStore

DRIVER = Path(__file__).with_name("update_driver.py")


class PowerCutError(BaseException):
    """Nothing of the program may handle it."""


class Fuse:
    """Blows at the n-th write, before it or in the middle of it."""

    def __init__(self, step: int, when: str) -> None:
        self.left = step
        self.when = when
        self.points: list[str] = []

    def at(self, what: str, run, partial=None) -> None:
        self.points.append(what if partial is None else what + " half way")
        self.left -= 1
        if self.left == 0:
            if self.when == "middle" and partial is not None:
                partial()
            raise PowerCutError
        run()


class DyingState:
    """The device state's files, with a fuse."""

    def __init__(self, folder: Path, fuse: Fuse) -> None:
        self._files = FolderFiles(folder)
        self._fuse = fuse

    def read(self, name: str, limit: int) -> bytes | None:
        return self._files.read(name, limit)

    def names(self) -> list[str]:
        return self._files.names()

    def locked(self) -> AbstractContextManager[None]:
        return self._files.locked()

    def write_new(self, name: str, content: bytes) -> None:
        half = content[: len(content) // 2]
        self._fuse.at(f"state {name}", lambda: self._files.write_new(name, content),
                      lambda: self._files.write_new(name, half))  # fmt: skip

    def replace(self, name: str, final: str) -> None:
        self._fuse.at(f"state {final}", lambda: self._files.replace(name, final))

    def sync_names(self) -> None:
        self._fuse.at("state sync", self._files.sync_names)

    def remove(self, name: str) -> None:
        self._fuse.at(f"state remove {name}", lambda: self._files.remove(name))


class DyingStore(FolderStore):
    """The store's files, with the same fuse."""

    def __init__(self, folder: Path, fuse: Fuse) -> None:
        super().__init__(folder)
        self._fuse = fuse

    def make_folder(self, folder: str) -> None:
        self._fuse.at(f"folder {folder}", lambda: FolderStore.make_folder(self, folder))

    def write_whole(self, name: str, content: bytes) -> None:
        half = content[: len(content) // 2]
        aside = self.path(name + ".new")
        self._fuse.at(f"whole {name}", lambda: FolderStore.write_whole(self, name, content),
                      lambda: aside.write_bytes(half))  # fmt: skip

    def write_at(self, name: str, start: int, content: bytes) -> None:
        half = content[: len(content) // 2]
        self._fuse.at(f"part {name}", lambda: FolderStore.write_at(self, name, start, content),
                      lambda: FolderStore.write_at(self, name, start, half))  # fmt: skip

    def remove(self, name: str) -> None:
        def partial() -> None:
            files = sorted(p for p in self.path(name).rglob("*") if p.is_file())
            for path in files[: len(files) // 2]:
                path.unlink()

        self._fuse.at(f"remove {name}", lambda: FolderStore.remove(self, name), partial)

    def point(self, link: str, target: str) -> None:
        self._fuse.at(f"point {link}", lambda: FolderStore.point(self, link, target))


@pytest.fixture
def updating(site):
    """A device that runs release 1 and is offered release 2 with a new list, so that every kind of write happens."""
    old = site.upgrade()
    site.revoke(bundles=frozenset({"ab" * 32}))
    site.publish(site.pack("2", counter=(0, 2)))
    return site, old


def cut_at_writes(site, old, aside: Path, whens: tuple[str, ...], every: int) -> int:
    """Cut the power at writes of refresh, download, trial and mark-good; return how many cuts that were."""
    shutil.copytree(site.root / "store", aside / "store", symlinks=True)
    shutil.copytree(site.root / "state", aside / "state")

    def dying(fuse: Fuse):
        for name in ("store", "state"):
            shutil.rmtree(site.root / name)
            shutil.copytree(aside / name, site.root / name, symlinks=True)
        return type(site)(
            site.root, site.now_ns, DyingState(site.root / "state", fuse), DyingStore(site.root / "store", fuse)
        )

    whole = Fuse(10**9, "before")
    assert dying(whole).upgrade().counter == (0, 2)
    cuts = [
        (step, when)
        for step, point in enumerate(whole.points, start=1)
        for when in whens or (("middle",) if point.endswith("half way") else ("before",))
        if step % every == 0
    ]
    assert {p.partition(" ")[0] for p in whole.points} == {"state", "folder", "whole", "part", "remove", "point"}
    started = set()
    for step, when in cuts:
        with pytest.raises(PowerCutError):
            dying(Fuse(step, when)).upgrade()
        # Whatever happened: something verified starts, and its floor is not above what is there to start.
        running = type(site)(site.root, site.now_ns).start()
        started.add(running.value.counter)
        assert running.value.counter >= site.state.floor("road-objects")
        # And the updater goes on from there, also after the trial was started in between.
        again = type(site)(site.root, site.now_ns)
        again.install()
        after = again.start()
        again.slots.mark_good(after.value)
        assert after.value.counter == (0, 2), (when, whole.points[step - 1])
        assert again.slots.record.slot(again.slots.record.active).identity == after.value.identity.hex()
    assert started == {old.counter, (0, 2)}
    return len(cuts)


def test_a_power_cut_at_a_write_leaves_a_device_that_runs_a_verified_model_and_can_update(updating, tmp_path):
    """Half way through every second write, and before it where it has no middle; the slow test below takes all."""
    assert cut_at_writes(*updating, tmp_path, (), 2) > 20


@pytest.mark.slow
def test_a_power_cut_before_and_in_the_middle_of_every_write_leaves_a_device_that_runs(updating, tmp_path):
    """Both, everywhere."""
    assert cut_at_writes(*updating, tmp_path, ("before", "middle"), 1) > 80


def test_a_power_cut_in_every_trial_ends_at_the_old_model(updating):
    """Three tries, then the last good one: nobody is stuck in a loop of restarts."""
    site, old = updating
    site.install()
    for _ in range(3):
        assert site.start().on_trial  # and the power goes before anybody marks it
    started = site.start()
    assert (started.on_trial, started.value.identity) == (False, old.identity)
    assert site.slots.record.b.status == "bad"
    assert site.state.floor("road-objects") == (0, 1)


def test_a_power_cut_in_every_trial_holds_once_an_urgent_floor_has_passed_the_old_model(updating):
    """A signed floor does not wait for mark-good: the old model is refused, the new one has no tries, the device
    holds; and the updater still works."""
    from edgeguard.errors import TrustError

    site, _ = updating
    site.revoke(floors={"road-objects": (0, 2)})
    site.publish()
    site.install()
    for _ in range(3):
        assert site.start().on_trial
    with pytest.raises(TrustError) as error:
        site.start()
    assert error.value.code == "EG-T062"
    assert "EG-T015" in error.value.message
    assert site.upgrade().counter == (0, 2)
    assert not site.start().on_trial


def test_a_power_cut_between_commit_and_record_of_the_last_try_does_not_lose_the_committed_model(updating):
    """The floor has passed the old model by then: the record alone would leave nothing to start."""
    site, _ = updating
    site.install()
    started = [site.start() for _ in range(3)]
    site.state.commit(started[-1].value)  # and the power goes before the record says good
    after = site.start()
    assert (after.on_trial, after.value.counter) == (False, (0, 2))
    assert site.slots.record.active == "b"


def test_a_model_that_fails_its_trial_is_left_and_the_old_one_runs(updating):
    """mark-bad, or a bundle that does not open any more."""
    site, old = updating
    site.install()
    assert site.start().on_trial
    assert site.slots.mark_bad() == "b"
    assert site.start().value.identity == old.identity
    site.install()
    payload = next((site.root / "store/slots/road-objects/b/payload").iterdir())
    payload.write_bytes(payload.read_bytes()[:-1])
    started = site.start()
    assert started.value.identity == old.identity
    assert started.refusals[0][0] == "b"
    assert site.slots.record.b.status == "bad"


def test_rollback_goes_to_the_other_slot_unless_a_floor_has_passed_it(site):
    """Equal counters: back; a raised floor: refused."""
    from edgeguard.errors import TrustError

    first = site.upgrade()
    site.publish(site.pack("1.1"))
    site.upgrade()
    assert site.slots.rollback(site.verify) == "a"
    assert site.start().value.identity == first.identity
    site.publish(site.pack("2", counter=(0, 2)))
    site.upgrade()
    with pytest.raises(TrustError) as error:
        site.slots.rollback(site.verify)
    assert error.value.code == "EG-T015"
    assert site.start().value.counter == (0, 2)


def kill_loop(site, rounds: int) -> dict:
    """Kill an updater that goes back and forth between two releases, `rounds` times."""
    result = subprocess.run(
        [sys.executable, str(DRIVER), str(site.root), str(rounds)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_an_updater_killed_at_random_leaves_a_device_that_starts(updating):
    """SIGKILL from outside, ten times; each time a verified model starts."""
    site, _ = updating
    site.publish(site.pack("3", floats=3_000_000, counter=(0, 2)))
    found = kill_loop(site, 10)
    assert found["killed"] == 10, "the kills must hit the updater at work"
    assert set(found["started"]) <= {"1", "2", "3"}


@pytest.mark.slow
def test_an_updater_killed_two_hundred_times_leaves_a_device_that_starts(updating):
    """The same, longer."""
    site, _ = updating
    site.publish(site.pack("3", floats=3_000_000, counter=(0, 2)))
    assert kill_loop(site, 200)["killed"] >= 150
