"""The whole rig on pseudo-terminals, and scenarios that describe what happens to it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from edgeguard.clock import NS_PER_S, ManualClock
from edgeguard.errors import ScenarioError, SensorDisconnectedError, SensorOpenError
from edgeguard.sim.attacks.base import Attack
from edgeguard.sim.attacks.faults import Silence, Unplug
from edgeguard.sim.attacks.gnss import GnssDrift
from edgeguard.sim.attacks.lidar import GhostPoints
from edgeguard.sim.gnss import START_UTC_NS
from edgeguard.sim.rig import SimRig
from edgeguard.sim.scenario import builtin_scenarios, load_scenario
from edgeguard.sim.world import World
from edgeguard.types import Image, PointCloud, Sample, Source

START_NS = 3_000_000_000


def fingerprint(sample: Sample) -> str:
    """Return a digest of everything a sample holds."""
    if isinstance(sample, Image):
        return hashlib.sha256(sample.pixels.tobytes() + str(sample.stamp_ns).encode()).hexdigest()
    if isinstance(sample, PointCloud):
        return hashlib.sha256(
            sample.xyz.tobytes() + sample.intensity.tobytes() + str(sample.stamp_ns).encode()
        ).hexdigest()
    return repr(sample)


def drain(source: Source) -> int:
    """Read until nothing is left; return how many samples there were."""
    count = 0
    while source.read(0.0) is not None:
        count += 1
    return count


def drive(seconds: float, *, seed: int = 1, attacks: Sequence[Attack] = ()) -> dict[str, list[Sample]]:
    """Poll a rig every 5 ms of simulated time, as the pipeline does."""
    clock = ManualClock(START_NS)
    found: dict[str, list[Sample]] = {}
    with SimRig(World(seed, 10.0), clock, seed, attacks) as rig:
        for source in rig.sources.values():
            source.open()
        while clock.now_ns() <= START_NS + round(seconds * NS_PER_S):
            for name, source in rig.sources.items():
                while (sample := source.read(0.0)) is not None:
                    found.setdefault(name, []).append(sample)
            clock.wait_until_ns(clock.now_ns() + 5_000_000)
        for source in rig.sources.values():
            source.close()
    return found


def test_equal_seeds_give_equal_samples_of_all_sensors_through_real_terminals() -> None:
    """One second of everything, bytes on pseudo-terminals included, repeats exactly; another seed differs."""
    first, again, other = drive(1.0), drive(1.0), drive(1.0, seed=2)
    assert set(first) == {"camera", "lidar", "gnss", "imu", "wheels"}
    for name in first:
        assert [fingerprint(s) for s in first[name]] == [fingerprint(s) for s in again[name]]
        assert [fingerprint(s) for s in first[name]] != [fingerprint(s) for s in other[name]]


def test_every_sensor_keeps_its_rate_and_frames_meet_on_ticks() -> None:
    """Counts over a second are the nominal ones; camera and lidar stamps are the same multiples of 100 ms."""
    found = drive(1.0)
    assert len(found["camera"]) == len(found["lidar"]) == 11
    assert [s.stamp_ns for s in found["camera"]] == [START_NS + k * 100_000_000 for k in range(11)]
    assert [s.stamp_ns for s in found["lidar"]] == [s.stamp_ns for s in found["camera"]]
    assert len(found["imu"]) in {99, 100}
    assert len(found["wheels"]) in {49, 50}
    assert len(found["gnss"]) in {8, 9}


def test_serial_samples_carry_arrival_and_device_time() -> None:
    """Arrival is the injected clock's; the device stamp is when the measurement was taken, earlier by the latency."""
    found = drive(1.0)
    for name, latency_ns in (("imu", 2_000_000), ("wheels", 4_000_000)):
        for sample in found[name]:
            assert sample.device_stamp_ns is not None
            late = sample.stamp_ns - START_NS - sample.device_stamp_ns
            assert latency_ns <= late < latency_ns + 5_000_000
    stamps = [s.device_stamp_ns for s in found["gnss"]]
    assert all(b - a == 100_000_000 for a, b in pairwise(stamps))  # type: ignore[operator]


def test_attacks_alter_exactly_the_samples_that_the_truth_names() -> None:
    """Against the clean run, changed samples are those of the target within the labelled time, and all of those."""
    attacks = [GnssDrift(0.45, 0.85, 3.0, 10.0), GhostPoints(0.3, 0.6)]
    clean, dirty = drive(1.2), drive(1.2, attacks=attacks)
    clock = ManualClock(START_NS)
    truths = SimRig(World(1, 10.0), clock, 1, attacks).truths
    window = {t.sensor: (t.start_ns, t.end_ns) for t in truths}
    for name, samples in clean.items():
        for honest, other in zip(samples, dirty[name], strict=True):
            taken = honest.stamp_ns
            if name == "gnss":
                assert honest.device_stamp_ns is not None
                taken = START_NS + honest.device_stamp_ns - START_UTC_NS
            low, high = window.get(name, (0, 0))
            assert (fingerprint(honest) != fingerprint(other)) == (low <= taken < high), (name, taken)


@pytest.mark.parametrize("sensor", ["gnss", "imu", "wheels", "camera", "lidar"])
def test_an_unplugged_sensor_is_reported_as_gone(sensor: str) -> None:
    """Reading raises once what had arrived is read; the others go on; reopening fails with a clear error."""
    clock = ManualClock()
    with SimRig(World(1, 10.0), clock, 1, [Unplug(0.25, sensor)]) as rig:
        sources = dict(rig.sources)
        for source in sources.values():
            source.open()
        clock.wait_until_ns(200_000_000)
        drain(sources[sensor])
        clock.wait_until_ns(300_000_000)
        with pytest.raises(SensorDisconnectedError) as caught:
            drain(sources[sensor])
        assert caught.value.code == "EG-N002"
        others = [name for name in sources if name != sensor]
        assert any(sources[name].read(0.0) is not None for name in others)
        sources[sensor].close()
        with pytest.raises(SensorOpenError):
            sources[sensor].open()


def test_a_silent_sensor_comes_back() -> None:
    """Silence loses the samples inside it and no others."""
    found = drive(1.0, attacks=[Silence(0.2, 0.5, "imu")])
    taken = [s.device_stamp_ns for s in found["imu"]]
    assert not [t for t in taken if t is not None and 200_000_000 <= t < 500_000_000]
    assert len(found["imu"]) in {69, 70}


def test_the_drive_ends_and_sources_of_frames_are_exhausted() -> None:
    """After the last frame nothing more comes; the end is visible."""
    clock = ManualClock()
    with SimRig(World(1, 1.0), clock, 1) as rig:
        camera = rig.sources["camera"]
        camera.open()
        clock.wait_until_ns(900_000_000)
        assert not camera.exhausted
        assert not rig.finished
        clock.wait_until_ns(1_500_000_000)
        assert drain(camera) == 11
        assert camera.exhausted
        assert rig.finished


def test_leaving_the_context_frees_terminals_and_the_clock() -> None:
    """Afterwards the clock calls nobody and the ports are gone."""
    clock = ManualClock()
    with SimRig(World(1, 5.0), clock, 1) as rig:
        port = rig.sources["imu"].info.origin
        assert Path(port).exists()
    assert clock.on_advance == []
    assert not rig.sources
    clock.wait_until_ns(NS_PER_S)


def test_the_demo_scenario_is_clean_then_attacked_then_clean() -> None:
    """Thirty seconds, two attacks with quiet before, between and after."""
    assert "demo" in builtin_scenarios()
    scenario = load_scenario("demo")
    assert scenario.duration_s == 30.0
    drift, ghost = scenario.attacks
    assert isinstance(drift, GnssDrift)
    assert isinstance(ghost, GhostPoints)
    assert 5.0 < drift.start_s < drift.end_s < ghost.start_s - 3.0
    assert ghost.end_s < 27.0
    rig = scenario.rig(ManualClock(), 5)
    assert [t.sensor for t in rig.truths] == ["gnss", "lidar"]


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        ("name = ", "EG-X011", "no TOML"),
        ('name="x"\nsummary="y"\nduration_s=30.0\nspeed=3', "EG-X012", "speed"),
        ('name="x"\nsummary="y"\nduration_s=0.5', "EG-X012", "duration_s"),
        ('name="x"\nsummary="y"\nduration_s=9.0\n[[attacks]]\ntype="warp"', "EG-X012", "warp"),
        ('name="x"\nsummary="y"\nduration_s=9.0\n[[attacks]]\ntype="camera_freeze"\nstart_s=1.0\nend_s=2.0\nfoo=1',
         "EG-X012", "foo"),
        ('name="x"\nsummary="y"\nduration_s=9.0\n[[attacks]]\ntype="camera_freeze"\nstart_s=3.0\nend_s=2.0',
         "EG-X012", "order"),
        ('name="x"\nsummary="y"\nduration_s=9.0\n[[attacks]]\ntype="silence"\nstart_s=1.0\nend_s=2.0\nsensor="radar"',
         "EG-X012", "radar"),
        ('name="x"\nsummary="y"\nduration_s=9.0\n[[attacks]]\ntype="ghost_points"\nstart_s=1.0\nend_s=2.0\npoints=0',
         "EG-X012", "points"),
    ],
)  # fmt: skip
def test_a_scenario_with_a_mistake_is_refused_by_name(tmp_path: Path, text: str, code: str, part: str) -> None:
    """Unknown keys, kinds and impossible values name themselves in the error."""
    path = tmp_path / "wrong.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match=part) as caught:
        load_scenario(path)
    assert caught.value.code == code


def test_a_missing_scenario_says_which_ones_there_are() -> None:
    """The hint lists the built-in names."""
    with pytest.raises(ScenarioError) as caught:
        load_scenario("nowhere")
    assert caught.value.code == "EG-X010"
    assert "demo" in caught.value.hint
