"""`Fusion`: check results in, belief and the fused product out, one tick at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgeguard.clock import NS_PER_S
from edgeguard.fusion.contact_check import ContactCheck
from edgeguard.fusion.decision import Attribution, Attributor
from edgeguard.fusion.deskew import deskew
from edgeguard.fusion.ego import EgoFilter
from edgeguard.fusion.object_checks import Beams, ObjectChecks, gather_beams
from edgeguard.fusion.objects import ObjectFusion, find_clusters
from edgeguard.fusion.track import TrackCheck
from edgeguard.fusion.trust import TrustLedger
from edgeguard.types import (
    CAMERA,
    GNSS,
    IMU,
    LIDAR,
    WHEELS,
    CheckResult,
    Detection,
    EgoState,
    FusedState,
    GnssFix,
    Image,
    PointCloud,
    RegisteredDepth,
    RigCalibration,
    SyncedSet,
    TrustState,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Protocol

    from edgeguard.checks.lidar_evidence import LidarFrame, ScanMotion

    class SweepEvidence(Protocol):
        """Who prepares and matches the sweep of a tick: `edgeguard.checks.lidar_evidence.LidarEvidence`."""

        def motion(self, synced: SyncedSet) -> ScanMotion | None: ...

        def frame(self, synced: SyncedSet) -> LidarFrame | None: ...


EGO_SENSORS = (GNSS, WHEELS, IMU, LIDAR)
# Solid angle of a spinning lidar: all around, 27 to 30 degrees high. Returns of one with 64 beams.
LIDAR_SR, RETURNS_PER_SR = 3.1, 30_000.0


def names_of_checks(sensors: Collection[str]) -> tuple[str, ...]:
    """Names of the checks that fusion itself runs on a rig with these sensors; they can be left out like all others."""
    names = list(TrackCheck.names_for(sensors))
    if CAMERA in sensors and LIDAR in sensors:
        names += [*ObjectChecks.names, ContactCheck.name]
    return tuple(names)


class Fusion:
    """Trust, ego state, long-window checks and the camera-lidar product of one rig.

    Args:
        sensors: names of the rig's sensors; results about others are ignored.
        calibration: camera-lidar geometry, or None where there is no such pair.
        evidence: who prepares and matches the lidar's sweeps, shared with the checks so that it is done once; None
            without a lidar.
        disabled: names of checks that are left out; see `names_of_checks`.
    """

    def __init__(
        self,
        sensors: Sequence[str],
        calibration: RigCalibration | None = None,
        evidence: SweepEvidence | None = None,
        disabled: Collection[str] = (),
    ) -> None:
        self._sensors = tuple(sensors)
        self.checks = tuple(name for name in names_of_checks(self._sensors) if name not in disabled)
        self._calibration = calibration
        self._evidence = evidence
        self._trust = TrustLedger(self._sensors)
        self._attributor = Attributor()
        self._ego = EgoFilter(has_gnss=GNSS in self._sensors)
        self._track = TrackCheck(self._sensors)
        self._long: tuple[CheckResult, ...] = ()
        self._objects = ObjectFusion(calibration)
        wanted = set(ObjectChecks.names) & set(self.checks)
        self._bodies = ObjectChecks(calibration) if wanted else None
        self._contact = ContactCheck(calibration) if ContactCheck.name in self.checks else None
        self._found: tuple[CheckResult, ...] = ()
        self._confirmed_ns: int | None = None
        self._moved = (0.0, 0.0, 0.0)
        self.attribution = Attribution()

    def update(self, synced: SyncedSet, results: Sequence[CheckResult]) -> FusedState:
        """Take one tick. `attribution` keeps the reasoning of the last one.

        The long-window checks look at the state after the tick, and those that need boxes wait for the model, so what
        they find counts from the next tick on.
        """
        rejected = frozenset(s for s in self._sensors if self._trust.state(s) is TrustState.REJECTED)
        evidence = (*results, *self._long, *self._found)
        self.attribution = self._attributor.update(synced.stamp_ns, evidence, rejected)
        trust = self._trust.update(synced.stamp_ns, self.attribution, self._withheld(synced))
        trusted = frozenset(s for s, t in trust.items() if t.state is TrustState.TRUSTED)
        motion = self._evidence.motion(synced) if self._evidence is not None else None
        ego = self._ego.update(synced, trusted & frozenset(EGO_SENSORS), motion)
        out = frozenset(s for s, t in trust.items() if t.state is TrustState.REJECTED)
        self._long = self._enabled(self._track.update(synced, self._ego, trusted, out))
        self._remember_motion(ego)
        cloud = self._cloud(synced, ego)
        return FusedState(
            trust=MappingProxyType(dict(trust)),
            registered=self._register(synced, cloud),
            ego=ego,
            cloud=cloud,
            results=self._long,
        )

    def confirm(self, synced: SyncedSet, fused: FusedState, detections: Sequence[Detection] | None) -> FusedState:
        """The state with its objects and with what the checks on boxes found: call after inference, once per tick.

        detections: the model's boxes on this tick's frame; None when it was not asked.
        """
        if synced.tick.discontinuity:
            self._objects.reset()
            self._confirmed_ns = None
            if self._bodies is not None:
                self._bodies.reset()
            if self._contact is not None:
                self._contact.reset()
        fused = self._check_bodies(synced, fused, detections)
        frame = None
        if self._evidence is not None and self._trust.state(LIDAR) is TrustState.TRUSTED:
            frame = self._evidence.frame(synced)
        if CAMERA in self._sensors and self._trust.state(CAMERA) is not TrustState.TRUSTED:
            detections = None
        if frame is None and detections is None:
            return fused
        dt_s = 0.0 if self._confirmed_ns is None else (synced.stamp_ns - self._confirmed_ns) / NS_PER_S
        self._confirmed_ns = synced.stamp_ns
        moved, self._moved = self._moved, (0.0, 0.0, 0.0)
        clusters = None if frame is None else find_clusters(frame.xyz, frame.height_m, self._calibration)
        density = RETURNS_PER_SR if frame is None else len(frame.xyz) / LIDAR_SR
        objects = self._objects.update(dt_s, detections, clusters, moved=moved, returns_per_sr=density)
        return replace(fused, objects=objects)

    def _check_bodies(self, synced: SyncedSet, fused: FusedState, detections: Sequence[Detection] | None) -> FusedState:
        """The state with what C5.body, X3.object and X4.contact say. A suspect sensor is still asked: it must be
        able to clear itself; a rejected lidar is not, and a rejected camera's frame the model never saw."""
        if self._bodies is None and self._contact is None:
            return fused
        rejected = self._trust.state(LIDAR) is TrustState.REJECTED
        frame = None if rejected or self._evidence is None else self._evidence.frame(synced)
        gathered: list[Beams] = []

        def gather(sweep: LidarFrame, calibration: RigCalibration) -> Beams:
            """The sweep's beams in the picture, worked out once a tick and only where somebody asks."""
            if not gathered:
                gathered.append(gather_beams(sweep, calibration))
            return gathered[0]

        found = () if self._bodies is None else self._bodies.update(synced, frame, detections, gather)
        if self._contact is not None:
            found = (*found, self._contact.update(synced, frame, detections, gather))
        self._found = self._enabled(found)
        return replace(fused, results=(*fused.results, *self._found))

    def _enabled(self, results: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
        return tuple(result for result in results if result.check in self.checks)

    def _remember_motion(self, ego: EgoState | None) -> None:
        """Add the tick's motion to what the objects have not been told yet."""
        dt_s = self._ego.stride.dt_s
        if ego is None or dt_s <= 0:
            return
        x, y, yaw = self._moved
        way, turn = ego.speed_m_s * dt_s, self._ego.turn_rate_rad_s * dt_s
        self._moved = (x + way * math.cos(yaw + turn / 2), y + way * math.sin(yaw + turn / 2), yaw + turn)

    def _cloud(self, synced: SyncedSet, ego: EgoState | None) -> PointCloud | None:
        """The sweep with the vehicle's motion taken out; as it came where the motion is not known."""
        cloud = synced.samples.get(LIDAR)
        if not isinstance(cloud, PointCloud) or (
            LIDAR in self._sensors and self._trust.state(LIDAR) is TrustState.REJECTED
        ):
            return None
        return cloud if ego is None else deskew(cloud, ego.speed_m_s, self._ego.turn_rate_rad_s)

    def _withheld(self, synced: SyncedSet) -> frozenset[str]:
        """A GNSS under suspicion earns no trust while its fixes contradict what the others reckon: a constant offset
        after a drift looks healthy to every window shorter than itself."""
        if GNSS not in self._sensors or self._trust.state(GNSS) is TrustState.TRUSTED:
            return frozenset()
        fixes = [s for s in synced.series.get(GNSS, ()) if isinstance(s, GnssFix)]
        return frozenset() if fixes and self._ego.consistent(fixes[-1]) else frozenset({GNSS})

    def _register(self, synced: SyncedSet, cloud: PointCloud | None) -> RegisteredDepth | None:
        """Lidar depth on the camera's grid, where both are there and neither is rejected."""
        if self._calibration is None or not isinstance(synced.samples.get(CAMERA), Image) or cloud is None:
            return None
        if CAMERA in self._sensors and self._trust.state(CAMERA) is TrustState.REJECTED:
            return None
        from edgeguard.fusion.registration import register_depth  # loads numba, which a rig without a lidar never needs

        return register_depth(cloud, self._calibration)
