"""Enrolment: a device proves that it holds its key, a person compares fingerprints, the enrol role signs a record.

The request is a file, so the device needs no network. The proof is a MAC under a static Diffie-Hellman agreement
between the device's key and the fleet's enrolment key (RFC 6955 section 6): without the private key nobody can make
it, with a key swapped on the way it does not verify. docs/formats/fleet.md sections 2 and 3.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgeguard.bundle.manifest import Hex32, Hex64, Identifier
from edgeguard.bundle.signature import encode_signed, pae, parse_signed
from edgeguard.errors import EdgeGuardError, ProvisioningError
from edgeguard.keys.context import fingerprint_of, kid_of
from edgeguard.keys.provider import EnrollingKey
from edgeguard.trust.dates import Date, ns_to_date
from edgeguard.trust.store import ENROL, TrustStore
from edgeguard.trust.strict_json import canonical, convert, parse
from firmware_tools.files import write_atomic
from firmware_tools.fleet import Fleet, raw_x25519

DEVICE_TYPE = "application/vnd.edgeguard.device+json"
MAX_REQUEST_BYTES = 16 * 1024  # ten times what a request takes
MAX_DEVICES = 100_000

PublicKeyHex = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{2}){1,4096}\Z")]


class EnrolRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device says about itself."""

    schema: Literal["edgeguard/enrol-request/v1"]
    fleet_id: Hex64
    device_name: Identifier
    board: Identifier
    key_class: Literal["file", "device-bound", "hardware"]
    suite: Literal["hpke-base/x25519/hkdf-sha256/aes-256-gcm"]
    public_key: PublicKeyHex


class SignedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request file."""

    proof: Hex64
    request: EnrolRequest


class DeviceRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the enrol role signs; `grant` believes this and nothing else."""

    schema: Literal["edgeguard/device/v1"]
    fleet_id: Hex64
    device_name: Identifier
    board: Identifier
    key_class: Literal["file", "device-bound", "hardware"]
    suite: Literal["hpke-base/x25519/hkdf-sha256/aes-256-gcm"]
    public_key: PublicKeyHex
    kid: Hex32
    enrolled: Date
    request: Hex64

    @property
    def public_der(self) -> bytes:
        return bytes.fromhex(self.public_key)


@dataclass(frozen=True, slots=True)
class PendingDevice:
    """What the person who confirms gets to see."""

    device_name: str
    board: str
    key_class: str
    fingerprint: str


def make_request(key: EnrollingKey, trust: TrustStore, *, device_name: str, board: str) -> bytes:
    """Return the request file of a device; run where the device's key is.

    Raises:
        ProvisioningError: EG-P003, a name that cannot be used.
    """
    fields = {
        "schema": "edgeguard/enrol-request/v1",
        "fleet_id": trust.fleet_id,
        "device_name": device_name,
        "board": board,
        "key_class": key.key_class,
        "suite": key.suite,
        "public_key": key.public_key().hex(),
    }
    reason = ""
    try:
        convert(fields, EnrolRequest, what="the request")
    except EdgeGuardError as error:
        reason = error.message
    if reason:
        raise ProvisioningError(reason, code="EG-P003", hint="names are letters, digits, dots and dashes")
    proof = key.prove_possession(bytes.fromhex(trust.policy.enrol_key), canonical(fields))
    return canonical({"proof": proof.hex(), "request": fields})


def fingerprint(public_der: bytes) -> str:
    """Return what is compared by eye or telephone."""
    return fingerprint_of(public_der)


def enroll(
    fleet: Fleet, request_path: Path | str, *, confirm: Callable[[PendingDevice], bool], wall_ns: int
) -> DeviceRecord:
    """Check a request and sign the record of the device.

    Args:
        confirm: shown name and fingerprint, says whether they are those of the device in hand.

    Raises:
        ProvisioningError: EG-P010 malformed or not proven, EG-P011 not confirmed, EG-P012 name or key known already.
    """
    trust = fleet.trust(wall_ns)
    raw = _read_request(Path(request_path))
    request = _proven_request(fleet, raw)
    public_der = bytes.fromhex(request.public_key)
    kid = kid_of(public_der)
    for known in device_records(fleet, trust):
        if known.kid == kid or known.device_name == request.device_name:
            raise ProvisioningError(
                f"{known.device_name} is enrolled already, or its key is",
                code="EG-P012",
                hint="see: edgeguard-provision status FLEET",
            )
    pending = PendingDevice(request.device_name, request.board, request.key_class, fingerprint_of(public_der))
    if not confirm(pending):
        raise ProvisioningError(
            "the fingerprint was not confirmed", code="EG-P011", hint="compare it with what keygen printed"
        )
    record = DeviceRecord(
        schema="edgeguard/device/v1",
        fleet_id=fleet.fleet_id,
        device_name=request.device_name,
        board=request.board,
        key_class=request.key_class,
        suite=request.suite,
        public_key=request.public_key,
        kid=kid,
        enrolled=ns_to_date(wall_ns),
        request=hashlib.sha256(raw).hexdigest(),
    )
    payload = canonical(msgspec.to_builtins(record))
    signer = fleet.signers(ENROL, 1)[0]
    signature = signer.sign(pae(DEVICE_TYPE, payload))
    write_atomic(
        fleet.devices_folder / f"{kid}.json",
        encode_signed(payload, DEVICE_TYPE, signer.public_key().keyid, signature),
    )
    return record


def read_record(path: Path, trust: TrustStore) -> DeviceRecord:
    """Return a device record that the enrol role has signed.

    Raises:
        ProvisioningError: EG-P014.
    """
    reason = "is not a record of this fleet"
    try:
        signed = parse_signed(path.read_bytes()[: MAX_REQUEST_BYTES * 4], DEVICE_TYPE, what=path.name)
        trust.verify(ENROL, signed.message, [signed.claimed])
        record = convert(parse(signed.payload, what=path.name), DeviceRecord, what=path.name)
        if record.fleet_id == trust.fleet_id and record.kid == kid_of(record.public_der) == path.stem:
            return record
    except OSError as error:
        reason = (error.strerror or "unknown").lower()
    except EdgeGuardError as error:
        reason = error.message
    raise ProvisioningError(
        f"device record {path.name}: {reason}", code="EG-P014", hint="remove the record and enrol the device again"
    )


def device_records(fleet: Fleet, trust: TrustStore) -> Iterator[DeviceRecord]:
    """Give every verified record; one that does not verify is an error, not a gap."""
    for count, path in enumerate(sorted(fleet.devices_folder.glob("*.json"))):
        if count >= MAX_DEVICES:
            raise ProvisioningError(f"more than {MAX_DEVICES} devices", code="EG-P014")
        yield read_record(path, trust)


def find_device(fleet: Fleet, trust: TrustStore, name: str) -> DeviceRecord:
    """Return the record of a device by name or kid.

    Raises:
        ProvisioningError: EG-P013 unknown, EG-P014.
    """
    for record in device_records(fleet, trust):
        if name in (record.device_name, record.kid):
            return record
    raise ProvisioningError(
        f"no device {name!a} is enrolled",
        code="EG-P013",
        hint="enrol it with: edgeguard-provision enroll FLEET REQUEST",
    )


def _read_request(path: Path) -> bytes:
    reason = ""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_REQUEST_BYTES + 1)
        if len(raw) <= MAX_REQUEST_BYTES:
            return raw
        reason = f"larger than {MAX_REQUEST_BYTES} bytes"
    except OSError as error:
        reason = (error.strerror or "unknown").lower()
    raise ProvisioningError(f"cannot read {path}: {reason}", code="EG-P010")


def _proven_request(fleet: Fleet, raw: bytes) -> EnrolRequest:
    reason = "is not proven: it was altered, or the device does not hold the key"
    try:
        signed = convert(parse(raw, what="the request"), SignedRequest, what="the request")
        request = signed.request
        if request.fleet_id != fleet.fleet_id:
            reason = "is for another fleet"
        else:
            device_key = raw_x25519(bytes.fromhex(request.public_key))
            expected = fleet.enrol_key().prove_possession(device_key, canonical(msgspec.to_builtins(request)))
            if hmac.compare_digest(expected.hex(), signed.proof):
                return request
    except ValueError:
        reason = "holds no key that can be read"
    except EdgeGuardError as error:
        reason = error.message
    raise ProvisioningError(
        f"the request {reason}", code="EG-P010", hint="make it again on the device: edgeguard-provision keygen"
    )
