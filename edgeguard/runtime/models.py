"""The protected models that a configuration names, opened, and the gate in front of them where it asks for one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeguard.bundle.recheck import ModelWatch
from edgeguard.clock import SystemClock
from edgeguard.config import Config, InputsConfig, ModelConfig
from edgeguard.errors import CalibrationError, ConfigError
from edgeguard.infer.adapter import ImageModel
from edgeguard.infer.input_policy import InputPolicy
from edgeguard.infer.session import InferenceSession
from edgeguard.restore.diagnose import Limits
from edgeguard.trust.state import DeviceState
from edgeguard.trust.store import TrustStore
from edgeguard.types import CameraModel

if TYPE_CHECKING:
    from edgeguard.detect.calibration import InputsSection
    from edgeguard.keys.provider import KeyProvider

_CALIBRATE_HINT = "calibrate: edgeguard calibrate inputs FRAMES --key KEY, and name the file in [calibration] file"


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """What a pipeline asks, and what asks before each frame whether it may still run.

    model: the first model, or the gate in front of all. members: the models themselves, the first one's answers leave.
    limits: of the restorer `diagnosed`, where inputs were calibrated.
    """

    model: CameraModel
    members: tuple[ImageModel, ...]
    policy: InputPolicy
    watches: tuple[ModelWatch, ...]
    session: InferenceSession
    state: DeviceState | None
    limits: Limits | None = None

    def recheck(self) -> None:
        """Ask whether all of them may still run. Raises ModelError where one may not."""
        for watch in self.watches:
            watch.recheck()

    def commit(self) -> None:
        """Say that it works: its counter becomes the floor of this device."""
        if self.state is not None:
            self.state.commit(self.session.statement)


def open_models(
    stack: ExitStack, config: Config, *, open_key: Callable[[str], KeyProvider], gated: bool = True
) -> OpenedModel:
    """Open what `[model]` and `[inputs]` name; everything is closed with `stack`.

    Args:
        open_key: opens the device's key at a path or address; it may ask a person for a PIN.
        gated: False leaves the gate out, as for its own calibration.

    Raises:
        ConfigError: EG-C021: something the bundle needs is not named; EG-C142: the members cannot vote together;
            EG-C146: the signed input policy cannot be used. CalibrationError: EG-L026: a gate without a calibration of
            inputs; EG-L025: one of other models or chains. What opening a bundle raises.
    """
    settings, inputs = config.model, config.inputs
    needed = {"--trust": settings.trust, "--key": settings.key, "--model-id": settings.model_id}
    missing = [option for option, value in needed.items() if not value]
    if missing:
        raise ConfigError(
            f"--bundle also needs {', '.join(missing)}: there is no default trust", code="EG-C021",
            hint="edgeguard inspect BUNDLE shows its model id; edgeguard-provision keygen makes the key",
        )  # fmt: skip
    clock = SystemClock()
    trust = TrustStore.load(Path(settings.trust), clock.wall_ns())
    key = open_key(settings.key)
    state = _state(stack, settings, key, trust)
    members, watches, sessions = [], [], []
    for bundle, model_id in [(settings.bundle, settings.model_id), *((m.bundle, m.model_id) for m in inputs.ensemble)]:
        session = stack.enter_context(
            InferenceSession(
                Path(bundle), trust=trust, key=key, expect_model=model_id, board=settings.board,
                providers=list(settings.providers), threads=settings.threads, state=state,
            )
        )  # fmt: skip
        sessions.append(session)
        members.append(ImageModel.of(session))
        watches.append(ModelWatch(settings.trust, trust, session.statement, kid=key.kid, clock=clock, state=state))
    policy = InputPolicy.of(sessions[0].input_policy)
    model: CameraModel = members[0]
    limits = None
    if gated and inputs.gate != "off":
        calibrated = read_inputs(config, key, trust)
        model = build_gate(members, policy, inputs, calibrated)
        limits = _limits(calibrated)
    return OpenedModel(model, tuple(members), policy, tuple(watches), sessions[0], state, limits)


def build_gate(
    members: list[ImageModel], policy: InputPolicy, inputs: InputsConfig, calibration: InputsSection
) -> CameraModel:
    """Return the gate of these members.

    Raises:
        ConfigError: EG-C142. CalibrationError: EG-L025, EG-L020.
    """
    from edgeguard.detect.conformal import StreamAlarm
    from edgeguard.detect.fingerprints import QueryDetector
    from edgeguard.infer.gated import GatedModel

    between = inputs.frames_between_alarms
    return GatedModel(
        members,
        calibration,
        policy,
        action="refuse" if inputs.gate == "refuse" else "restore",
        stream=StreamAlarm(between / inputs.every, every=inputs.every) if between else None,
        queries=QueryDetector() if inputs.query_detector else None,
        drift_every=inputs.every,
    )


def read_inputs(config: Config, key: KeyProvider, trust: TrustStore) -> InputsSection:
    """Read and authenticate the section `inputs` of the file that `[calibration]` names.

    Raises:
        CalibrationError: EG-L026: no file is named, or it says nothing about inputs. As `read_calibration`.
    """
    from edgeguard.checks.calibration_file import read_calibration
    from edgeguard.detect.calibration import InputsSection

    settings = config.calibration
    if not settings.file:
        raise CalibrationError("the gate has no calibration", code="EG-L026", hint=_CALIBRATE_HINT)
    found = read_calibration(Path(settings.file), key=key, trust=trust).inputs
    if found is None:
        raise CalibrationError(f"{settings.file} says nothing about inputs", code="EG-L026", hint=_CALIBRATE_HINT)
    try:
        return msgspec.convert(found, InputsSection)
    except msgspec.ValidationError as error:
        reason = str(error)
    raise CalibrationError(
        f"the section inputs of {settings.file} cannot be used: {reason}", code="EG-L001", hint=_CALIBRATE_HINT
    )


def _limits(calibrated: InputsSection) -> Limits:
    try:
        return msgspec.convert(calibrated.limits, Limits)
    except msgspec.ValidationError as error:
        reason = str(error)
    raise CalibrationError(f"the calibrated limits cannot be used: {reason}", code="EG-L001", hint=_CALIBRATE_HINT)


def _state(stack: ExitStack, settings: ModelConfig, key: KeyProvider, trust: TrustStore) -> DeviceState | None:
    if not settings.state:
        return None
    from edgeguard.keys.tpm_counter import TpmCounter

    tcti = settings.tpm_counter
    counter = stack.enter_context(TpmCounter(key, tcti=tcti)) if tcti else None
    return DeviceState.open(settings.state, key=key, fleet_id=trust.fleet_id, counter=counter)
