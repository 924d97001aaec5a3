"""Every error EdgeGuard raises on purpose.

::

    EdgeGuardError                     code, message, hint, exit_code
    ├─ ConfigError                     a setting or argument is wrong; fix it and call again
    ├─ EnvironmentMissingError         something the machine lacks: a package, a device, a right
    ├─ ModelError                      the protected model was not accepted
    │  ├─ BundleFormatError            the bytes are not a bundle of a version we read
    │  ├─ SignatureError               a signature is missing, wrong, or over other bytes
    │  ├─ TrustError                   the signer, policy or statement is not one this device accepts
    │  ├─ DecryptionError              one constant message for every decryption failure
    │  ├─ KeyUnavailableError          the device's or signer's private key cannot be used
    │  ├─ ModelStructureError          the ONNX inside holds what the gate refuses
    │  └─ UnprotectedModelError        a plain model was given where only a bundle is accepted
    ├─ UpdateError                     a repository of updates cannot be reached, or the store not written
    ├─ SensorError                     a sensor or a recording
    │  ├─ SensorOpenError
    │  ├─ SensorDisconnectedError
    │  ├─ PacketError
    │  └─ RecordingError
    ├─ InferenceError                  a session could not be made or run as asked
    ├─ CalibrationError                a calibration is not this rig's or not authentic, or cannot be made
    │  └─ NotCleanError                what should show clean data holds an anomaly
    ├─ AuditError                      the telemetry log is broken or cannot be written
    ├─ ScenarioError                   a simulated scenario cannot be run
    └─ ProvisioningError               host side: a fleet, key or device record is not usable

Rules: the message says what happened and to which thing; the hint says what to do next (often the command);
neither ever holds key material, plaintext or file contents. A code, once released, keeps its meaning.
"""

from __future__ import annotations

from typing import ClassVar

# Exit codes of both commands; docs/cli.md lists them.
EXIT_OK = 0
EXIT_FINDING = 1
EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3
EXIT_INTEGRITY = 4
EXIT_INTERNAL = 5


class EdgeGuardError(Exception):
    """Base of every deliberate error.

    Args:
        message: what happened, lower case, no final stop, no secrets.
        code: stable identifier such as ``EG-B004``; the class's own code when not given.
        hint: what the caller can do next; may be empty.
    """

    default_code: ClassVar[str] = "EG-000"
    exit_code: ClassVar[int] = EXIT_INTERNAL

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"


class ConfigError(EdgeGuardError):
    """A setting or an argument is wrong."""

    default_code = "EG-C000"
    exit_code = EXIT_USAGE


class EnvironmentMissingError(EdgeGuardError):
    """The machine lacks a package, a device or a right that the call needs."""

    default_code = "EG-E000"
    exit_code = EXIT_ENVIRONMENT


class ModelError(EdgeGuardError):
    """The protected model was not accepted."""

    default_code = "EG-M000"
    exit_code = EXIT_INTEGRITY


class BundleFormatError(ModelError):
    """The bytes are not a bundle of a format version this code reads."""

    default_code = "EG-B000"


class SignatureError(ModelError):
    """A signature is missing, wrong, or made over other bytes."""

    default_code = "EG-S000"


class TrustError(ModelError):
    """The signer, the signed policy or the statement is not one this device accepts."""

    default_code = "EG-T000"


class DecryptionError(ModelError):
    """Decryption failed; the message is the same whatever the cause, so that it is no oracle."""

    default_code = "EG-D000"


class KeyUnavailableError(ModelError):
    """The private key of the device or signer is missing, unreadable or not permitted."""

    default_code = "EG-K000"


class ModelStructureError(ModelError):
    """The ONNX graph holds something the structural gate refuses."""

    default_code = "EG-G000"


class UnprotectedModelError(ModelError):
    """A plain model was given where only a signed and encrypted bundle is accepted."""

    default_code = "EG-U000"


class UpdateError(EdgeGuardError):
    """A repository cannot be reached, or the device's store cannot be written; what it says is never to blame here."""

    default_code = "EG-R000"
    exit_code = EXIT_ENVIRONMENT


class SensorError(EdgeGuardError):
    """A sensor or a recording cannot be used."""

    default_code = "EG-N000"
    exit_code = EXIT_ENVIRONMENT


class SensorOpenError(SensorError):
    """The device or file could not be opened."""

    default_code = "EG-N001"


class SensorDisconnectedError(SensorError):
    """The device went away while in use; reopening may help."""

    default_code = "EG-N002"


class PacketError(SensorError):
    """Bytes from a sensor do not form a valid packet."""

    default_code = "EG-N003"


class RecordingError(SensorError):
    """A recording is not in a layout we read, or is damaged before its first frame."""

    default_code = "EG-N004"


class InferenceError(EdgeGuardError):
    """An inference session could not be made or run as asked."""

    default_code = "EG-I000"
    exit_code = EXIT_ENVIRONMENT


class CalibrationError(EdgeGuardError):
    """A calibration is malformed, not authentic or another rig's, or cannot be made from these data."""

    default_code = "EG-L000"
    exit_code = EXIT_INTEGRITY


class NotCleanError(CalibrationError):
    """A recording that should show clean data holds an anomaly."""

    default_code = "EG-L006"
    exit_code = EXIT_FINDING


class AuditError(EdgeGuardError):
    """The telemetry log is broken, or cannot be written."""

    default_code = "EG-A000"
    exit_code = EXIT_INTEGRITY


class ScenarioError(EdgeGuardError):
    """A simulated scenario cannot be run as written."""

    default_code = "EG-X000"
    exit_code = EXIT_USAGE


class ProvisioningError(EdgeGuardError):
    """Host side: a fleet folder, key or device record is not usable as asked."""

    default_code = "EG-P000"
    exit_code = EXIT_USAGE
