"""calibration.json: its fields, and what authenticates them. docs/formats/calibration.md.

A device's own file carries a MAC under its key; a fleet's carries release signatures.
"""

from __future__ import annotations

import hmac
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec

from edgeguard.checks.scores import Fit, SensorFits, SpeedBin
from edgeguard.errors import CalibrationError, EdgeGuardError
from edgeguard.harden.durable import sync_folder, write_synced
from edgeguard.keys.context import length_prefixed
from edgeguard.keys.provider import KeyProvider
from edgeguard.keys.regular_file import open_regular, read_up_to
from edgeguard.trust.strict_json import canonical, convert, parse

if TYPE_CHECKING:
    from edgeguard.trust.store import TrustStore

SCHEMA: Final = "edgeguard/calibration/v1"
SECRET_LABEL: Final = "calibration/v1"  # noqa: S105 - a label, not a secret; one label, one purpose
PAYLOAD_TYPE: Final = "application/vnd.edgeguard.calibration+json"
MAX_FILE_BYTES: Final = 1024 * 1024  # a thousand monitors with a few bins each
MAX_MONITORS: Final = 1024
MAX_BINS: Final = 16
_CONTEXT: Final = "edgeguard/v1/calibration"
_WHAT: Final = "calibration.json"
_MAKE_HINT: Final = "make a new one: edgeguard calibrate sensors RECORDING --key KEY --out FILE"

Kid = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{32})?\Z")]
FleetId = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Text = Annotated[str, msgspec.Meta(max_length=256)]
Speed = Annotated[float, msgspec.Meta(ge=0.0, le=1000.0)]
Finite = Annotated[float, msgspec.Meta(ge=-1e18, le=1e18)]
Positive = Annotated[float, msgspec.Meta(gt=0.0, le=1e18)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e8)]
Size = Annotated[float, msgspec.Meta(ge=1.0, le=1e6)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Rig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a calibration is bound to. sensors: name to kind of sample. geometry: digest, or empty."""

    sensors: Annotated[dict[Name, Name], msgspec.Meta(min_length=1, max_length=64)]
    geometry: FleetId = ""


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the fits come from. anomalies: ticks with one, during calibration. seconds: fitted on, of all recordings.
    margin: `mean`, over calibrations on so much data the rate is the stated one; `sure`, in 95 % of them at most."""

    recording: Text
    from_s: Seconds
    to_s: Seconds
    hours_between_alarms: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)]
    anomalies: Count
    seconds: Seconds = 0.0
    margin: Literal["mean", "sure"] = "mean"


class HeldOut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the fits did on the part they had not seen. per_hour_upper: 95 % Poisson bound of the alarm rate."""

    seconds: Seconds
    alarms: Count
    per_hour_upper: Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]


class Bin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One fit and the speeds at which it holds."""

    from_m_s: Speed
    to_m_s: Speed | None
    location: Finite
    sigma: Positive
    samples: Count
    clean_s: Seconds
    cusum_h: Size
    decorrelation_samples: Size
    basis: Literal["data", "prior"]

    def __post_init__(self) -> None:
        if self.to_m_s is not None and self.to_m_s <= self.from_m_s:
            raise ValueError("a bin must not end before it begins")


class Monitor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All bins of one monitor, and what it was defined as when they were fitted."""

    definition: Text
    bins: Annotated[tuple[Bin, ...], msgspec.Meta(min_length=1, max_length=MAX_BINS)]

    def __post_init__(self) -> None:
        for before, after in zip(self.bins, self.bins[1:], strict=False):
            if before.to_m_s is None or before.to_m_s > after.from_m_s:
                raise ValueError("bins must be sorted and not overlap")


class Threshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a statistic alarms, as a share of its shipped threshold.

    per_hour: alarms that are expected of it. peaks: how many say so; 0, too few, the shipped one stays.
    """

    scale: Annotated[float, msgspec.Meta(ge=0.1, le=10.0)]
    per_hour: Annotated[float, msgspec.Meta(ge=0.0, le=1e6)]
    peaks: Count


class SensorSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `calibrate sensors` writes."""

    rig: Rig
    made: Made
    held_out: HeldOut
    monitors: Annotated[dict[Name, Monitor], msgspec.Meta(max_length=MAX_MONITORS)]
    thresholds: Annotated[dict[Name, Threshold], msgspec.Meta(max_length=MAX_MONITORS)] = msgspec.field(
        default_factory=dict
    )

    def fits(self) -> SensorFits:
        """The fits as checks take them."""
        return SensorFits(
            {
                name: tuple(
                    SpeedBin(
                        b.from_m_s,
                        Fit(b.location, b.sigma, b.samples, b.clean_s, b.cusum_h, b.decorrelation_samples),
                        math.inf if b.to_m_s is None else b.to_m_s,
                    )
                    for b in monitor.bins
                )
                for name, monitor in self.monitors.items()
            },
            {name: monitor.definition for name, monitor in self.monitors.items()},
            {name: threshold.scale for name, threshold in self.thresholds.items()},
        )


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The authenticated content. Exactly one of `device` and `fleet` is set."""

    schema: Literal["edgeguard/calibration/v1"]
    device: Kid
    fleet: FleetId
    sensors: SensorSection | None
    inputs: dict[str, Any] | None

    def __post_init__(self) -> None:
        if bool(self.device) == bool(self.fleet):
            raise ValueError("either device or fleet must be set")


class FleetSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One release signature."""

    keyid: Hex64
    signature: Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    calibration: Calibration
    mac: Hex64


class _Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    calibration: Calibration
    signatures: Annotated[tuple[FleetSignature, ...], msgspec.Meta(min_length=1, max_length=16)]


def seal(calibration: Calibration, key: KeyProvider) -> bytes:
    """The content of a device's own file."""
    fields = msgspec.to_builtins(calibration)
    return canonical({"calibration": fields, "mac": _mac(calibration.device, canonical(fields), key).hex()})


def signed_message(calibration: Calibration) -> bytes:
    """What each release key of a fleet signs."""
    from edgeguard.bundle.dsse import pae

    return pae(PAYLOAD_TYPE, canonical(msgspec.to_builtins(calibration)))


def attach(calibration: Calibration, signatures: Sequence[FleetSignature]) -> bytes:
    """The content of a fleet's file."""
    return canonical(
        {"calibration": msgspec.to_builtins(calibration), "signatures": msgspec.to_builtins(list(signatures))}
    )


def open_calibration(raw: bytes, *, key: KeyProvider | None = None, trust: TrustStore | None = None) -> Calibration:
    """Parse and authenticate a file: a device's with `key`, a fleet's with `trust`.

    Raises:
        CalibrationError: EG-L001 malformed, EG-L002 not authentic, EG-L003 another version of the format.
    """
    tree = _parsed(raw)
    calibration: Calibration
    if isinstance(tree, dict) and "signatures" in tree:
        signed = _converted(tree, _Signed)
        genuine = trust is not None and _signed_by(trust, signed)
        calibration = signed.calibration
    else:
        sealed = _converted(tree, _Sealed)
        genuine = key is not None and _sealed_by(key, sealed, tree["calibration"])
        calibration = sealed.calibration
    if not genuine:
        raise CalibrationError(
            f"{_WHAT} is not authentic for this device",
            code="EG-L002",
            hint="it is edited, or another device's or fleet's; " + _MAKE_HINT,
        )
    return calibration


def parse_unverified(raw: bytes) -> tuple[Calibration, tuple[FleetSignature, ...]]:
    """What a file says, and the signatures it carries, nothing of it authenticated: for a person who is to sign it.

    Raises:
        CalibrationError: EG-L001, EG-L003.
    """
    tree = _parsed(raw)
    if isinstance(tree, dict) and "signatures" in tree:
        signed = _converted(tree, _Signed)
        return signed.calibration, signed.signatures
    return _converted(tree, _Sealed).calibration, ()


def read_calibration(path: Path, *, key: KeyProvider | None = None, trust: TrustStore | None = None) -> Calibration:
    """Read and authenticate a file; errors of `open_calibration`, and EG-L005 where it cannot be read."""
    raw = _read(path)
    if raw is None:
        raise CalibrationError(f"cannot read {path}: no such file", code="EG-L005", hint=_MAKE_HINT)
    return open_calibration(raw, key=key, trust=trust)


def write_section(
    path: Path, key: KeyProvider, *, sensors: SensorSection | None = None, inputs: dict[str, Any] | None = None
) -> Calibration:
    """Write one or both sections of a device's own file; a section that is not given stays as it is in the file.

    The new file replaces the old one in one step, so that a power cut leaves one of both.

    Raises:
        CalibrationError: EG-L005 cannot be written; the errors of `open_calibration` for a file that is there.
    """
    raw = _read(path)
    old = open_calibration(raw, key=key) if raw is not None else None
    new = Calibration(
        SCHEMA,
        key.kid,
        "",
        sensors if sensors is not None else (old.sensors if old else None),
        inputs if inputs is not None else (old.inputs if old else None),
    )
    content = seal(new, key)
    open_calibration(content, key=key)  # what we would not read back is not written
    partial = path.with_name(path.name + ".new")
    try:
        partial.unlink(missing_ok=True)
        write_synced(partial, content, mode=0o644)
        os.replace(partial, path)
        sync_folder(path.parent)
    except (OSError, ValueError) as error:
        raise CalibrationError(
            f"cannot write {path}: {_why(error)}", code="EG-L005", hint="choose another path"
        ) from None
    return new


def _read(path: Path) -> bytes | None:
    try:
        with open_regular(path) as file:
            return read_up_to(file, MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CalibrationError(f"cannot read {path}: {_why(error)}", code="EG-L005", hint="check the path") from None


def _why(error: Exception) -> str:
    return (error.strerror or "input/output error") if isinstance(error, OSError) else "not a path"


def _parsed(raw: bytes) -> Any:
    reason = f"{_WHAT} is larger than {MAX_FILE_BYTES} bytes"
    if len(raw) <= MAX_FILE_BYTES:
        try:
            tree = parse(raw, what=_WHAT)
            _require_version(tree)
            return tree
        except CalibrationError:
            raise
        except EdgeGuardError as error:
            reason = error.message
    raise CalibrationError(reason, code="EG-L001", hint=_MAKE_HINT)


def _converted(tree: Any, kind: type[Any]) -> Any:
    try:
        return convert(tree, kind, what=_WHAT)
    except EdgeGuardError as error:
        reason = error.message
    raise CalibrationError(reason, code="EG-L001", hint=_MAKE_HINT)


def _require_version(tree: Any) -> None:
    inner = tree.get("calibration") if isinstance(tree, dict) else None
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if isinstance(schema, str) and schema.startswith("edgeguard/calibration/") and schema != SCHEMA:
        raise CalibrationError(f"{_WHAT} has a format version that is not read here", code="EG-L003", hint=_MAKE_HINT)


def _sealed_by(key: KeyProvider, sealed: _Sealed, fields: Any) -> bool:
    expected = _mac(sealed.calibration.device, canonical(fields), key)
    return hmac.compare_digest(expected, bytes.fromhex(sealed.mac)) and sealed.calibration.device == key.kid


def _signed_by(trust: TrustStore, signed: _Signed) -> bool:
    from edgeguard.bundle.dsse import from_base64
    from edgeguard.trust.store import RELEASE, KeySignature

    try:
        claimed = [KeySignature(s.keyid, from_base64(s.signature, what=_WHAT)) for s in signed.signatures]
        trust.verify(RELEASE, signed_message(signed.calibration), claimed)
    except EdgeGuardError:
        return False
    return signed.calibration.fleet == trust.fleet_id


def _mac(device: str, fields: bytes, key: KeyProvider) -> bytes:
    with key.derive_secret(SECRET_LABEL) as secret:
        return hmac.digest(secret.view, length_prefixed(_CONTEXT, device, fields), "sha256")
