"""The calibration that a configuration names, read for the rig that a pipeline is built for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeguard.checks.scores import ScoreMonitor, SensorFits
from edgeguard.config import Config
from edgeguard.errors import CalibrationError, ConfigError
from edgeguard.types import Check, RigCalibration, SourceInfo

if TYPE_CHECKING:
    from edgeguard.checks.calibration_file import Rig
    from edgeguard.keys.provider import KeyProvider
    from edgeguard.trust.store import TrustStore

_MAKE_HINT = "calibrate this rig: edgeguard calibrate sensors RECORDING --key KEY --out FILE"


def rig_of(infos: Iterable[SourceInfo], geometry: RigCalibration | None) -> Rig:
    """What a calibration is bound to: which sensors give what, and how camera and lidar look at the world."""
    from edgeguard.checks.calibration_file import Rig

    return Rig({info.sensor: info.kind.__name__ for info in infos}, _digest(geometry) if geometry is not None else "")


def load_fits(
    config: Config, infos: Iterable[SourceInfo], geometry: RigCalibration | None, *, wall_ns: int
) -> SensorFits | None:
    """Read, authenticate and hold against the rig what `[calibration]` names; None where it names nothing.

    Args:
        wall_ns: now, nanoseconds since 1970 UTC; a fleet's calibration is judged by its trust folder at that time.

    Raises:
        ConfigError: EG-C070, neither a key nor a trust folder is configured.
        CalibrationError: EG-L001 to EG-L005. The errors of the key and of the trust folder.
    """
    settings = config.calibration
    if not settings.file:
        return None
    # Only now: the libraries of keys and signatures take longer to load than a first verdict may.
    from edgeguard.checks.calibration_file import read_calibration

    where, folder = settings.key or config.model.key, settings.trust or config.model.trust
    if not where and not folder:
        raise ConfigError(
            "a calibration needs the key that authenticates it",
            code="EG-C070",
            hint="set key in [calibration], or trust for a fleet's",
        )
    calibration = read_calibration(Path(settings.file), key=_key(where), trust=_trust(folder, wall_ns))
    if calibration.sensors is None:
        return None
    rig = rig_of(infos, geometry)
    if calibration.sensors.rig != rig:
        what = _difference(calibration.sensors.rig, rig)
        raise CalibrationError(f"{settings.file} was made on another rig: {what}", code="EG-L004", hint=_MAKE_HINT)
    return calibration.sensors.fits()


def monitors_of(checks: Iterable[Check]) -> tuple[ScoreMonitor, ...]:
    """Every monitor of these checks that a fit can serve; a check without any has no `monitors`."""
    offered = (monitor for check in checks for monitor in getattr(check, "monitors", ()))
    return tuple(monitor for monitor in offered if isinstance(monitor, ScoreMonitor))


class Statistic(Protocol):
    """What alarms above its threshold: a monitor of any kind. `scale` is its threshold as a share of the shipped."""

    name: str
    scale: float

    def take_peak(self) -> float:
        """The largest share of the shipped threshold since the last call."""
        ...


def statistics_of(checks: Iterable[Check]) -> tuple[Statistic, ...]:
    """Every statistic of these checks that the system's alarm rate is shared among; hard limits have none."""
    return tuple(
        statistic
        for check in checks
        for statistic in getattr(check, "statistics", getattr(check, "monitors", ()))
        if hasattr(statistic, "take_peak")
    )


def require_definitions(fits: SensorFits, checks: Iterable[Check]) -> None:
    """Refuse fits that were made for monitors that are defined otherwise now.

    Raises:
        CalibrationError: EG-L008.
    """
    for monitor in monitors_of(checks):
        fitted = fits.definitions.get(monitor.name)
        if fitted is not None and fitted != monitor.definition:
            raise CalibrationError(
                f"the calibration was made for another definition of {monitor.name}", code="EG-L008", hint=_MAKE_HINT
            )


def _key(where: str) -> KeyProvider | None:
    from edgeguard.keys.open_key import open_key

    return open_key(where) if where else None


def _trust(folder: str, wall_ns: int) -> TrustStore | None:
    if not folder:
        return None
    from edgeguard.trust.store import TrustStore

    return TrustStore.load(Path(folder), wall_ns)


def _difference(made: Rig, here: Rig) -> str:
    if made.sensors == here.sensors:
        return "camera and lidar are mounted or calibrated otherwise"
    missing, new = sorted(made.sensors.keys() - here.sensors.keys()), sorted(here.sensors.keys() - made.sensors.keys())
    parts = [f"{', '.join(names)} {what}" for names, what in ((missing, "missing here"), (new, "new here")) if names]
    return "; ".join(parts) or "a sensor of the same name gives another kind of data"


def _digest(geometry: RigCalibration) -> str:
    """SHA-256 over the geometry; six decimals each, so that writing it to text and back does not change it."""
    rotation = () if geometry.R_cam_imu is None else geometry.R_cam_imu.ravel()
    values = (geometry.camera_matrix.ravel(), geometry.T_cam_lidar.ravel(), geometry.image_size_px,
              (geometry.lidar_height_m,), geometry.distortion, rotation)  # fmt: skip
    # Adding zero makes -0.0 and 0.0 one spelling.
    numbers = [[f"{round(float(value), 6) + 0.0:.6f}" for value in each] for each in values]
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()
