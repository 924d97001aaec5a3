"""`Fusion`: check results in, belief and the fused product out, one tick at a time."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from edgeguard.fusion.decision import Attribution, Attributor
from edgeguard.fusion.ego import EgoFilter
from edgeguard.fusion.track import TrackCheck
from edgeguard.fusion.trust import TrustLedger
from edgeguard.types import (
    CAMERA,
    GNSS,
    IMU,
    LIDAR,
    WHEELS,
    CheckResult,
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
    from collections.abc import Sequence
    from typing import Protocol

    from edgeguard.checks.lidar_evidence import ScanMotion

    class MotionEvidence(Protocol):
        """Who knows the scan match of a tick: `edgeguard.checks.lidar_evidence.LidarEvidence`."""

        def motion(self, synced: SyncedSet) -> ScanMotion | None: ...


EGO_SENSORS = (GNSS, WHEELS, IMU, LIDAR)


class Fusion:
    """Trust, ego state, long-window checks and the camera-lidar product of one rig.

    Args:
        sensors: names of the rig's sensors; results about others are ignored.
        calibration: camera-lidar geometry, or None where there is no such pair.
        evidence: who matches the lidar's sweeps, shared with the checks so that it is done once; None without a lidar.
    """

    def __init__(
        self,
        sensors: Sequence[str],
        calibration: RigCalibration | None = None,
        evidence: MotionEvidence | None = None,
    ) -> None:
        self._sensors = tuple(sensors)
        self._calibration = calibration
        self._evidence = evidence
        self._trust = TrustLedger(self._sensors)
        self._attributor = Attributor()
        self._ego = EgoFilter(has_gnss=GNSS in self._sensors)
        self._track = TrackCheck(self._sensors)
        self._long: tuple[CheckResult, ...] = ()
        self.attribution = Attribution()

    def update(self, synced: SyncedSet, results: Sequence[CheckResult]) -> FusedState:
        """Take one tick. `attribution` keeps the reasoning of the last one.

        The long-window checks look at the state after the tick, so what they find counts from the next tick on.
        """
        rejected = frozenset(s for s in self._sensors if self._trust.state(s) is TrustState.REJECTED)
        evidence = (*results, *self._long)
        self.attribution = self._attributor.update(synced.stamp_ns, evidence, rejected)
        trust = self._trust.update(synced.stamp_ns, self.attribution, self._withheld(synced))
        trusted = frozenset(s for s, t in trust.items() if t.state is TrustState.TRUSTED)
        motion = self._evidence.motion(synced) if self._evidence is not None else None
        ego = self._ego.update(synced, trusted & frozenset(EGO_SENSORS), motion)
        self._long = self._track.update(synced, self._ego, trusted)
        return FusedState(
            trust=MappingProxyType(dict(trust)), registered=self._register(synced), ego=ego, results=self._long
        )

    def _withheld(self, synced: SyncedSet) -> frozenset[str]:
        """A GNSS under suspicion earns no trust while its fixes contradict what the others reckon: a constant offset
        after a drift looks healthy to every window shorter than itself."""
        if GNSS not in self._sensors or self._trust.state(GNSS) is TrustState.TRUSTED:
            return frozenset()
        fixes = [s for s in synced.series.get(GNSS, ()) if isinstance(s, GnssFix)]
        return frozenset() if fixes and self._ego.consistent(fixes[-1]) else frozenset({GNSS})

    def _register(self, synced: SyncedSet) -> RegisteredDepth | None:
        """Lidar depth on the camera's grid, where both are there and neither is rejected."""
        image, cloud = synced.samples.get(CAMERA), synced.samples.get(LIDAR)
        if self._calibration is None or not isinstance(image, Image) or not isinstance(cloud, PointCloud):
            return None
        if any(s in self._sensors and self._trust.state(s) is TrustState.REJECTED for s in (CAMERA, LIDAR)):
            return None
        from edgeguard.fusion.registration import register_depth  # loads numba, which a rig without a lidar never needs

        return register_depth(cloud, self._calibration)
