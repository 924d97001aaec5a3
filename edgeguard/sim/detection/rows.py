"""The table's rows: what is attacked, how strongly, for how long it is watched, and the goal it is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log, pi
from typing import Literal

from edgeguard.sim.attacks.base import Attack
from edgeguard.sim.attacks.camera import CameraBanding, CameraDark, CameraDazzle
from edgeguard.sim.attacks.faults import CameraBlind, CameraFreeze
from edgeguard.sim.attacks.lidar import GhostFrustum, GhostPoints, LidarBlockage, LidarHfr
from edgeguard.sim.attacks.link import LoopReplay, StaleData
from edgeguard.sim.attacks.motion import ImuBias, ImuStuck, WheelStuck
from edgeguard.sim.attacks.rig import ExtrinsicsShift, SourceSwap, Turn, View
from edgeguard.sim.detection.objects import ObjectRemoval, find_things, free_bearing
from edgeguard.sim.detection.scene import AlongTrackDrift, OtherPlace, Scene
from edgeguard.types import GnssFix, Image, ImuSample, PointCloud, WheelOdometry

Judged = Literal["rate", "percentile", "auroc"]

END_S = 3600.0  # an attack goes on for longer than anybody watches
MOVING_M_S = 0.8
GHOST_PLATE_M = (1.8, 1.6)  # a car from behind
LEAST_GHOST, MOST_GHOST = 60, 800
NEAR_GHOST_M, FAR_GHOST_M = 5.0, 25.0
LEAST_SHIFT_M = 3.0
_AXIS = ("x", "y", "z")


@dataclass(frozen=True, slots=True)
class Goal:
    """What a row is held against.

    rate: at least `share` of the trials found within `frames` altered frames, or within `seconds`. percentile: the
    `share` quantile of the delay is at most `seconds`. auroc: the area is at least `share` over windows of `seconds`.
    alarms_per_hour: the rate of false alarms at which it must be so; None where the goal states none.
    """

    judged: Judged
    share: float
    seconds: float | None = None
    frames: int | None = None
    alarms_per_hour: float | None = None
    needs: tuple[type, ...] = ()

    @property
    def text(self) -> str:
        """For people."""
        if self.judged == "auroc":
            return f"AUROC >= {self.share:g} within {self.seconds:g} s"
        if self.judged == "percentile":
            return f"p{100 * self.share:g} <= {self.seconds:g} s"
        within = f"{self.frames} frames" if self.frames is not None else f"{self.seconds:g} s"
        share = "all" if self.share == 1.0 else f">= {100 * self.share:g} %"
        at = f" at <= {self.alarms_per_hour:g} alarm/h" if self.alarms_per_hour is not None else ""
        return f"{share} within {within}{at}"


@dataclass(frozen=True, slots=True)
class Planned:
    """One attack at one moment. damage: metres and degrees after so many seconds in which nobody noticed."""

    attack: Attack
    damage: Callable[[float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    kind: of the attacked sensor. horizon_s: how long a trial is watched for detection; where `frames` is set, so many
    periods of the attacked sensor instead. least_speed_m_s: below it the attack changes nothing that could be seen.
    varied: a second trial at the same moment differs from the first. effort: share of the budget.
    """

    name: str
    title: str
    kind: type
    plan: Callable[[Scene], Planned | str]
    goal: Goal | None
    horizon_s: float = 1.2
    frames: int | None = None
    least_speed_m_s: float = 0.0
    varied: bool = False
    effort: float = 1.0

    def watched_s(self, period_s: float) -> float:
        """Return how long a trial is watched."""
        return (self.frames + 0.5) * period_s if self.frames is not None else self.horizon_s


def _driven(scene: Scene) -> Callable[[float], tuple[float, float]]:
    """Damage of what hides or invents things: the way driven on it."""
    speed = scene.speed_m_s or 0.0
    return lambda seconds: (speed * seconds, 0.0)


def _late(kind: type) -> Callable[[Scene], Planned | str]:
    def plan(scene: Scene) -> Planned:
        sensor = scene.sensor(kind)
        period_s = scene.period_s(sensor)
        lost_m = (scene.speed_m_s or 0.0) * period_s
        # The oldest frame within one and a half periods is the one before, whatever the stamps' jitter.
        attack = StaleData(start_s=0.0, end_s=END_S, sensor=sensor, delay_s=min(30.0, 1.5 * period_s))
        return Planned(attack, lambda _: (lost_m, 0.0))

    return plan


def _ghost(scene: Scene) -> Planned | str:
    sensor = scene.sensor(PointCloud)
    cloud = scene.newest(sensor)
    if not isinstance(cloud, PointCloud):
        return "no sweep yet"
    rng = scene.rng
    points = round(exp(rng.uniform(log(LEAST_GHOST), log(MOST_GHOST))))
    width, top = GHOST_PLATE_M
    # Far away a plate is not crossed by as many beams; the distance is drawn until it is.
    for _ in range(20):
        range_m = float(rng.uniform(NEAR_GHOST_M, FAR_GHOST_M))
        bearing = free_bearing(cloud, range_m, width, top, LEAST_GHOST, scene.lidar_height_m, rng)
        if bearing is not None:
            break
    else:
        return "no free space that enough beams cross"
    closing = float(rng.choice((0.0, scene.speed_m_s or 0.0)))
    attack = GhostPoints(
        start_s=0.0, end_s=END_S, points=points, range_m=range_m, width_m=width, height_m=top, azimuth_deg=bearing,
        closing_m_s=closing, sensor_height_m=scene.lidar_height_m, sensor=sensor,
    )  # fmt: skip
    return Planned(attack, _driven(scene))


def _ghost_consistent(scene: Scene) -> Planned | str:
    sensor = scene.sensor(PointCloud)
    cloud = scene.newest(sensor)
    if not isinstance(cloud, PointCloud):
        return "no sweep yet"
    view = 0.9 * scene.half_view_deg()
    seen = [t for t in find_things(cloud, scene.lidar_height_m) if abs(t.azimuth_deg) < view]
    seen = [t for t in seen if len(t.index) >= LEAST_GHOST]
    if not seen:
        return "no object with enough returns in the camera's view"
    thing = seen[int(scene.rng.integers(len(seen)))]
    allowed = [r for r in scene.rng.uniform(NEAR_GHOST_M, FAR_GHOST_M, 40) if abs(r - thing.range_m) >= LEAST_SHIFT_M]
    if not allowed:
        return "no distance left for it"
    reach = float((thing.high_m - thing.low_m)[:2].max())
    wide = min(60.0, 2.0 * (180.0 / pi) * reach / thing.range_m)
    attack = GhostFrustum(
        start_s=0.0, end_s=END_S, shift_m=float(allowed[0] - thing.range_m), points=MOST_GHOST,
        azimuth_deg=thing.azimuth_deg, width_deg=wide, nearest_m=max(1.0, thing.range_m - reach),
        farthest_m=thing.range_m + reach, sensor_height_m=scene.lidar_height_m, sensor=sensor,
    )  # fmt: skip
    return Planned(attack, _driven(scene))


def _removal(scene: Scene) -> Planned | str:
    sensor = scene.sensor(PointCloud)
    cloud = scene.newest(sensor)
    things = find_things(cloud, scene.lidar_height_m) if isinstance(cloud, PointCloud) else []
    if not things:
        return "no object in reach"
    thing = things[int(scene.rng.integers(len(things)))]
    return Planned(ObjectRemoval(thing, sensor, END_S, lidar_height_m=scene.lidar_height_m), _driven(scene))


def _extrinsics(axis: Turn, angle_deg: float) -> Callable[[Scene], Planned | str]:
    def plan(scene: Scene) -> Planned:
        sensor = scene.sensor(PointCloud)
        attack = ExtrinsicsShift(start_s=0.0, end_s=END_S, angle_deg=scene.sign * angle_deg, axis=axis, sensor=sensor)
        return Planned(attack, lambda _: (0.0, angle_deg))

    return plan


def _drift(rate_m_s: float, *, coherent: bool) -> Callable[[Scene], Planned | str]:
    def plan(scene: Scene) -> Planned | str:
        sensor = scene.sensor(GnssFix)
        fix = scene.newest(sensor)
        if not isinstance(fix, GnssFix):
            return "no fix yet"
        if fix.course_deg is None:
            return "the receiver says no course"
        attack = AlongTrackDrift(scene.sign * rate_m_s, sensor, END_S, coherent=coherent, course_deg=fix.course_deg)
        return Planned(attack, lambda seconds: (rate_m_s * seconds, 0.0))

    return plan


def _gyro(rate_deg_s: float) -> Callable[[Scene], Planned | str]:
    def plan(scene: Scene) -> Planned:
        axis = _AXIS[int(scene.rng.integers(3))]
        attack = ImuBias(
            start_s=0.0, end_s=END_S, bias=scene.sign * rate_deg_s * pi / 180.0, axis=axis,  # type: ignore[arg-type]
            sensor=scene.sensor(ImuSample),
        )  # fmt: skip
        return Planned(attack, lambda seconds: (0.0, rate_deg_s * seconds))

    return plan


def _frozen(kind: type) -> Callable[[Scene], Planned | str]:
    def plan(scene: Scene) -> Planned:
        sensor = scene.sensor(kind)
        attack: Attack
        if kind is Image:
            attack = CameraFreeze(start_s=0.0, end_s=END_S, sensor=sensor)
        elif kind is ImuSample:
            attack = ImuStuck(start_s=0.0, end_s=END_S, sensor=sensor)
        elif kind is WheelOdometry:
            attack = WheelStuck(start_s=0.0, end_s=END_S, sensor=sensor)
        else:
            # A loop shorter than a period is the last sample again and again.
            attack = LoopReplay(start_s=0.0, end_s=END_S, sensor=sensor, loop_s=0.5 * scene.period_s(sensor))
        return Planned(attack, _driven(scene))

    return plan


def _loop(kind: type) -> Callable[[Scene], Planned | str]:
    def plan(scene: Scene) -> Planned:
        attack = LoopReplay(start_s=0.0, end_s=END_S, sensor=scene.sensor(kind), loop_s=1.0)
        return Planned(attack, _driven(scene))

    return plan


def _other_place(kind: type) -> Callable[[Scene], Planned | str]:
    def plan(scene: Scene) -> Planned | str:
        sensor = scene.sensor(kind)
        frames = scene.elsewhere.get(sensor, ())
        if len(frames) < 2:
            return "no frames of another time"
        return Planned(OtherPlace(frames, sensor, END_S), _driven(scene))

    return plan


def _swapped(kind: type, view: View) -> Callable[[Scene], Planned | str]:
    def plan(scene: Scene) -> Planned:
        attack = SourceSwap(start_s=0.0, end_s=END_S, sensor=scene.sensor(kind), view=view)
        return Planned(attack, _driven(scene))

    return plan


def _fixed(kind: type, make: Callable[[Scene, str], Attack]) -> Callable[[Scene], Planned | str]:
    return lambda scene: Planned(make(scene, scene.sensor(kind)), _driven(scene))


def _blocked(scene: Scene, sensor: str) -> Attack:
    return LidarBlockage(
        start_s=0.0, end_s=END_S, width_deg=90.0, azimuth_deg=float(scene.rng.uniform(-180, 180)), sensor=sensor
    )


def _drowned(scene: Scene, sensor: str) -> Attack:
    return LidarHfr(
        start_s=0.0, end_s=END_S, width_deg=40.0, azimuth_deg=float(scene.rng.uniform(-180, 180)), sensor=sensor
    )


_SECOND = Goal("rate", 1.0, seconds=1.0)
_KINDS: Sequence[tuple[str, type]] = (
    ("camera", Image), ("lidar", PointCloud), ("imu", ImuSample), ("gnss", GnssFix), ("wheels", WheelOdometry)
)  # fmt: skip
_DRIFTS = (0.1, 0.2, 0.5, 1.0, 5.0)
_DRIFT_GOALS = {0.1: Goal("percentile", 0.9, seconds=2.0), 5.0: Goal("percentile", 0.9, seconds=0.2)}


def all_rows() -> tuple[Row, ...]:
    """Return every row, in the table's order."""
    late = Goal("auroc", 0.99, seconds=1.0)
    turned = Goal("auroc", 0.99, seconds=1.0)
    ghosts = Goal("rate", 0.99, frames=3, alarms_per_hour=1.0)
    rows = [
        Row("late.lidar", "lidar one frame late", PointCloud, _late(PointCloud), late, least_speed_m_s=MOVING_M_S),
        Row("late.camera", "camera one frame late", Image, _late(Image), late, least_speed_m_s=MOVING_M_S),
        Row("ghost.free", "lidar ghost in free space, 60-800 points, 5-25 m", PointCloud, _ghost, ghosts,
            frames=3, varied=True, effort=3.0),
        Row("ghost.camera_consistent", "lidar ghost inside a real object's camera box", PointCloud,
            _ghost_consistent, ghosts, frames=3, varied=True, effort=3.0),
        Row("removal.object", "90 % of an object's points removed", PointCloud, _removal,
            Goal("rate", 0.95, frames=3), frames=3, varied=True, effort=3.0),
    ]  # fmt: skip
    axes: tuple[Turn, ...] = ("roll", "pitch", "yaw")
    rows += [
        Row(f"extrinsics.{axis}", f"extrinsics off by 0.5 deg of {axis}", PointCloud, _extrinsics(axis, 0.5), turned,
            varied=True)
        for axis in axes
    ]  # fmt: skip
    for coherent, word in ((True, "position and speed"), (False, "position alone")):
        rows += [
            Row(f"drift.{'coherent' if coherent else 'position'}.{rate:g}", f"GNSS drift {rate:g} m/s, {word}",
                GnssFix, _drift(rate, coherent=coherent), _DRIFT_GOALS.get(rate) if coherent else None,
                horizon_s=6.0, least_speed_m_s=1.0, varied=True,
                effort=1.0 if coherent and rate in _DRIFT_GOALS else 0.5)
            for rate in _DRIFTS
        ]  # fmt: skip
    rows += [
        Row("gyro.bias", "gyro bias 0.1 deg/s", ImuSample, _gyro(0.1),
            Goal("percentile", 0.9, seconds=0.5, needs=(Image,)), horizon_s=2.0, varied=True)
    ]  # fmt: skip
    # Wheels and a position at rest repeat themselves honestly.
    rows += [
        Row(f"frozen.{name}", f"{name} frozen under fresh stamps", kind, _frozen(kind), _SECOND,
            least_speed_m_s=1.0 if kind in (GnssFix, WheelOdometry) else 0.0)
        for name, kind in _KINDS
    ]  # fmt: skip
    rows += [
        Row(f"loop.{name}", f"{name} replays its last second", kind, _loop(kind), _SECOND,
            least_speed_m_s=1.0 if kind in (GnssFix, WheelOdometry) else 0.0)
        for name, kind in _KINDS
    ]  # fmt: skip
    views: tuple[View, ...] = ("mirrored", "rear")
    rows += [
        Row("swap.camera.elsewhere", "camera of another time and place", Image, _other_place(Image), _SECOND),
        Row("swap.lidar.elsewhere", "lidar of another time and place", PointCloud, _other_place(PointCloud), _SECOND),
        Row("swap.camera.mirrored", "camera of the other side", Image, _swapped(Image, "mirrored"), _SECOND),
        *(Row(f"swap.lidar.{view}", f"lidar, {view} view", PointCloud, _swapped(PointCloud, view), _SECOND)
          for view in views),
        Row("banding.camera", "camera banding, 50 % at 400 Hz", Image,
            _fixed(Image, lambda _, s: CameraBanding(start_s=0.0, end_s=END_S, sensor=s)), _SECOND),
        Row("blind.glare", "camera blinded: full-scale glare", Image,
            _fixed(Image, lambda _, s: CameraBlind(start_s=0.0, end_s=END_S, sensor=s)), _SECOND),
        Row("blind.dazzle", "camera blinded: a lamp in the lens", Image,
            _fixed(Image, lambda _, s: CameraDazzle(start_s=0.0, end_s=END_S, sensor=s)), _SECOND),
        Row("blind.dark", "camera covered", Image,
            _fixed(Image, lambda _, s: CameraDark(start_s=0.0, end_s=END_S, sensor=s)), _SECOND),
        Row("blind.lidar", "lidar blocked over 90 deg", PointCloud, _fixed(PointCloud, _blocked), _SECOND,
            varied=True),
        Row("blind.hfr", "lidar drowned over 40 deg by pulses", PointCloud, _fixed(PointCloud, _drowned), _SECOND,
            varied=True),
    ]  # fmt: skip
    return tuple(rows)


def choose_rows(patterns: Sequence[str]) -> tuple[Row, ...]:
    """Return the rows whose name is, or begins with, one of the patterns; all rows without any.

    Raises:
        ScenarioError: EG-X043 for a pattern that fits none; the hint has the nearest.
    """
    from edgeguard.errors import ScenarioError
    from edgeguard.sim.attacks.registry import nearest

    rows = all_rows()
    for pattern in patterns:
        if not any(_fits(row.name, pattern) for row in rows):
            names = [row.name for row in rows]
            raise ScenarioError(f"no attack row is called {pattern!r}", code="EG-X043", hint=nearest(pattern, names))
    return tuple(row for row in rows if not patterns or any(_fits(row.name, pattern) for pattern in patterns))


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(pattern.rstrip(".") + ".")
