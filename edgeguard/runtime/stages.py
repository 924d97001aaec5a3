"""Which checks and restorers a rig gets: the registries of the rooms, joined, minus what the config leaves out."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from edgeguard.checks.geometry import build_geometry_checks
from edgeguard.checks.inertial_checks import build_inertial_checks
from edgeguard.checks.lidar_evidence import LidarEvidence
from edgeguard.checks.motion import build_motion_checks
from edgeguard.checks.scores import SensorFits
from edgeguard.config import ChecksConfig
from edgeguard.errors import ConfigError
from edgeguard.fusion.fusion import names_of_checks
from edgeguard.types import LIDAR, Check, RigCalibration, Source


def build_evidence(sources: Mapping[str, Source], calibration: RigCalibration | None) -> LidarEvidence | None:
    """What lidar checks and fusion share, so that a sweep is prepared and matched once; None without a lidar."""
    if LIDAR not in sources:
        return None
    return LidarEvidence(calibration or RigCalibration(np.eye(3), np.eye(4), (1, 1)))


def build_checks(
    config: ChecksConfig,
    sources: Mapping[str, Source],
    calibration: RigCalibration | None,
    fits: SensorFits | None = None,
    evidence: LidarEvidence | None = None,
) -> Sequence[Check]:
    """Build every check that the rig's sensors can feed, but for those that fusion runs itself.

    Args:
        config: which ones are left out. sources: the rig's, by sensor name. calibration: its geometry, where known.
        fits: what clean data of this rig look like; checks that have a monitor fall back on their prior without it.
        evidence: of the lidar, shared with fusion; see `build_evidence`.

    Raises:
        ConfigError: EG-C010 when `disabled` names a check that does not exist on this rig, fusion's own among them.
    """
    infos = [source.info for source in sources.values()]
    fits = fits if fits is not None else SensorFits()  # one `build_...(…, fits)` per family of checks below takes it
    checks = [*build_motion_checks(infos, fits), *build_geometry_checks(calibration, list(sources), evidence, fits)]
    checks += build_inertial_checks(infos, calibration, fits)
    names = {check.name for check in checks} | set(names_of_checks(list(sources)))
    for name in config.disabled:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"this rig has: {', '.join(sorted(names))}"
            raise ConfigError(f"checks.disabled names no check of this rig: {name}", code="EG-C010", hint=hint)
    return [check for check in checks if check.name not in config.disabled]
