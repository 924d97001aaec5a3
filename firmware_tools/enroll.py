"""Enrolment: a device proves that it holds its key, a person compares fingerprints, the enrol role signs a record.

Requests, challenges and answers are files, so the device needs no network. docs/formats/fleet.md sections 2 and 3.

* X25519 and P-256: a MAC under a static Diffie-Hellman agreement between the device's key and the fleet's (RFC 6955).
* ML-KEM-768 with X25519: the same MAC for its X25519 half, and an answer to a challenge sealed to the whole key,
  because a KEM can show possession only by opening something.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from edgeguard.bundle.dsse import pae
from edgeguard.bundle.manifest import Hex32, Hex64, Identifier
from edgeguard.bundle.signature import encode_signed, parse_signed
from edgeguard.errors import EdgeGuardError, ProvisioningError
from edgeguard.keys.context import CEK_BYTES, POST_QUANTUM_SUITES, challenge_info, fingerprint_of, kid_of
from edgeguard.keys.hpke_provider import challenge_answer
from edgeguard.keys.provider import EnrollingKey
from edgeguard.keys.public_key import DevicePublicKey, parse_public_key
from edgeguard.keys.regular_file import open_regular, read_up_to
from edgeguard.trust.dates import Date, ns_to_date
from edgeguard.trust.store import ENROL, KeySignature, TrustStore
from edgeguard.trust.strict_json import canonical, convert, parse
from firmware_tools.files import write_atomic
from firmware_tools.fleet import Fleet

DEVICE_TYPE = "application/vnd.edgeguard.device+json"
MAX_REQUEST_BYTES = 16 * 1024  # three times what a request takes
MAX_RECORD_BYTES = 64 * 1024
MAX_DEVICES = 100_000

PublicKeyHex = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{2}){1,2048}\Z")]
SealedHex = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{2}){1,2048}\Z")]
SuiteName = Literal[
    "hpke-base/x25519/hkdf-sha256/aes-256-gcm",
    "hpke-base/p256/hkdf-sha256/aes-256-gcm",
    "hpke-base/mlkem768-x25519/hkdf-sha256/aes-256-gcm",
]
T = TypeVar("T", bound=msgspec.Struct)


class EnrolRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device says about itself."""

    schema: Literal["edgeguard/enrol-request/v1"]
    fleet_id: Hex64
    device_name: Identifier
    board: Identifier
    key_class: Literal["file", "device-bound", "hardware"]
    suite: SuiteName
    public_key: PublicKeyHex


class SignedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request file."""

    proof: Hex64
    request: EnrolRequest


class EnrolChallenge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What only the holder of the request's whole key can open. request: SHA-256 of the request file."""

    schema: Literal["edgeguard/enrol-challenge/v1"]
    fleet_id: Hex64
    request: Hex64
    sealed: SealedHex


class EnrolAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to a challenge."""

    schema: Literal["edgeguard/enrol-answer/v1"]
    fleet_id: Hex64
    request: Hex64
    answer: Hex64


class DeviceRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the enrol role signs; `grant` believes this and nothing else."""

    schema: Literal["edgeguard/device/v1"]
    fleet_id: Hex64
    device_name: Identifier
    board: Identifier
    key_class: Literal["file", "device-bound", "hardware"]
    suite: SuiteName
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
    proof = key.prove_possession(trust.policy.enrol_keys.point_for(key.suite), canonical(fields))
    return canonical({"proof": proof.hex(), "request": fields})


def make_challenge(fleet: Fleet, request_path: Path | str) -> bytes:
    """Return a challenge for the key of a request; run on the provisioning host.

    The nonce inside is derived from the request and the fleet's grant key, so nothing needs to be remembered.

    Raises:
        ProvisioningError: EG-P010, the request is malformed, for another fleet, or not proven.
    """
    raw = read_bounded(Path(request_path))
    _, public = _proven_request(fleet, raw)
    digest = hashlib.sha256(raw).digest()
    info = challenge_info(fleet_id=fleet.fleet_id, request_digest=digest, kid=public.kid, suite=public.suite)
    challenge = EnrolChallenge(
        schema="edgeguard/enrol-challenge/v1",
        fleet_id=fleet.fleet_id,
        request=digest.hex(),
        sealed=public.seal(_nonce(fleet, digest), info).hex(),
    )
    return canonical(msgspec.to_builtins(challenge))


def answer_challenge(key: EnrollingKey, trust: TrustStore, raw: bytes) -> bytes:
    """Return the answer file to a challenge; run where the device's key is.

    Raises:
        ProvisioningError: EG-P010, malformed or for another fleet. DecryptionError: not for this key.
    """
    challenge = _parse(raw, EnrolChallenge, "the challenge")
    if challenge.fleet_id != trust.fleet_id:
        raise ProvisioningError("the challenge is from another fleet", code="EG-P010")
    digest = bytes.fromhex(challenge.request)
    answer = EnrolAnswer(
        schema="edgeguard/enrol-answer/v1",
        fleet_id=trust.fleet_id,
        request=challenge.request,
        answer=key.answer_challenge(trust.fleet_id, digest, bytes.fromhex(challenge.sealed)).hex(),
    )
    return canonical(msgspec.to_builtins(answer))


def fingerprint(public_der: bytes) -> str:
    """Return what is compared by eye or telephone."""
    return fingerprint_of(public_der)


def enroll(
    fleet: Fleet,
    request_path: Path | str,
    *,
    confirm: Callable[[PendingDevice], bool],
    wall_ns: int,
    answer: bytes | None = None,
) -> DeviceRecord:
    """Check a request and sign the record of the device.

    Args:
        confirm: shown name and fingerprint, says whether they are those of the device in hand.
        answer: the device's answer to `make_challenge`; hybrid keys are not enrolled without.

    Raises:
        ProvisioningError: EG-P005 enrol keys missing, EG-P010 malformed or not proven, EG-P011 not confirmed, EG-P012
            name or key known already, EG-P015 a challenge must be answered first.
    """
    trust = fleet.trust(wall_ns)
    raw = read_bounded(Path(request_path))
    request, public = _proven_request(fleet, raw)
    _require_answered(fleet, public, hashlib.sha256(raw).digest(), answer)
    for known in matching_records(fleet, trust, {public.kid, request.device_name}):
        raise ProvisioningError(
            f"{known.device_name} is enrolled already, or its key is",
            code="EG-P012",
            hint="see: edgeguard-provision status FLEET",
        )
    pending = PendingDevice(request.device_name, request.board, request.key_class, fingerprint_of(public.der))
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
        kid=public.kid,
        enrolled=ns_to_date(wall_ns),
        request=hashlib.sha256(raw).hexdigest(),
    )
    _write_record(fleet, trust, record)
    return record


def read_record(path: Path, trust: TrustStore) -> DeviceRecord:
    """Return a device record that the enrol role has signed.

    Raises:
        ProvisioningError: EG-P014.
    """
    reason = "is not a record of this fleet"
    try:
        first = parse_signed(_read_record_file(path), DEVICE_TYPE, what=path.name)
        claimed = [first.claimed, *_further_signatures(path, trust, first.claimed.keyid, first.payload)]
        trust.verify(ENROL, first.message, claimed)
        record = convert(parse(first.payload, what=path.name), DeviceRecord, what=path.name)
        named = record.kid == kid_of(record.public_der) == path.stem
        if named and record.fleet_id == trust.fleet_id and parse_public_key(record.public_der).suite == record.suite:
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


def sign_again(fleet: Fleet, trust: TrustStore, records: Iterable[DeviceRecord]) -> int:
    """Sign records that have been verified with the enrol keys now in force; what is signed stays the same."""
    count = 0
    for record in records:
        for stale in fleet.devices_folder.glob(f"{record.kid}.*.sig"):
            stale.unlink()
        _write_record(fleet, trust, record)
        count += 1
    return count


def matching_records(fleet: Fleet, trust: TrustStore, wanted: Set[str]) -> Iterator[DeviceRecord]:
    """Give the verified records whose name or kid is wanted; the others are only looked at.

    Verifying costs ten times what looking does, and a fleet may have many thousand records. What a record claims before
    it is verified decides only whether it is verified.

    Raises:
        ProvisioningError: EG-P014, a wanted record, or one that cannot be read at all, does not verify.
    """
    for path in sorted(fleet.devices_folder.glob("*.json")):
        claimed = path.stem if path.stem in wanted else _claimed_name(path)
        if claimed is None or claimed in wanted:
            record = read_record(path, trust)
            if {record.device_name, record.kid} & wanted:
                yield record


def find_device(fleet: Fleet, trust: TrustStore, name: str) -> DeviceRecord:
    """Return the record of a device by name or kid.

    Raises:
        ProvisioningError: EG-P013 unknown, EG-P014.
    """
    for record in matching_records(fleet, trust, {name}):
        return record
    raise unknown_device(name)


def unknown_device(name: str) -> ProvisioningError:
    """Return the error for a name or kid that no record has."""
    return ProvisioningError(
        f"no device {name!a} is enrolled",
        code="EG-P013",
        hint="enrol it with: edgeguard-provision enroll FLEET REQUEST",
    )


def read_bounded(path: Path) -> bytes:
    """Return the content of a request, challenge or answer file.

    Raises:
        ProvisioningError: EG-P010, unreadable or too large.
    """
    reason = ""
    try:
        with open_regular(path) as file:
            raw = read_up_to(file, MAX_REQUEST_BYTES + 1)
        if len(raw) <= MAX_REQUEST_BYTES:
            return raw
        reason = f"larger than {MAX_REQUEST_BYTES} bytes"
    except OSError as error:
        reason = (error.strerror or "unknown").lower()
    raise ProvisioningError(f"cannot read {path}: {reason}", code="EG-P010")


def _parse(raw: bytes, kind: type[T], what: str) -> T:
    reason = ""
    try:
        return convert(parse(raw, what=what), kind, what=what)
    except EdgeGuardError as error:
        reason = error.message
    raise ProvisioningError(reason, code="EG-P010")


def _proven_request(fleet: Fleet, raw: bytes) -> tuple[EnrolRequest, DevicePublicKey]:
    reason = "is not proven: it was altered, or the device does not hold the key"
    try:
        signed = convert(parse(raw, what="the request"), SignedRequest, what="the request")
        request = signed.request
        if request.fleet_id != fleet.fleet_id:
            reason = "is for another fleet"
        else:
            public = parse_public_key(bytes.fromhex(request.public_key))
            message = canonical(msgspec.to_builtins(request))
            expected = fleet.enrol_key(public.suite).prove_possession(public.point, message)
            if hmac.compare_digest(expected.hex(), signed.proof) and public.suite == request.suite:
                return request, public
    except EdgeGuardError as error:
        reason = error.message
    raise ProvisioningError(
        f"the request {reason}", code="EG-P010", hint="make it again on the device: edgeguard-provision keygen"
    )


def _require_answered(fleet: Fleet, public: DevicePublicKey, digest: bytes, answer: bytes | None) -> None:
    if answer is None and public.suite not in POST_QUANTUM_SUITES:
        return
    if answer is None:
        raise ProvisioningError(
            "a post-quantum key is enrolled only when it has answered a challenge",
            code="EG-P015",
            hint="make one with: edgeguard-provision challenge FLEET REQUEST",
        )
    given = _parse(answer, EnrolAnswer, "the answer")
    expected = challenge_answer(
        _nonce(fleet, digest), fleet_id=fleet.fleet_id, request_digest=digest, kid=public.kid
    ).hex()
    if given.request != digest.hex() or not hmac.compare_digest(given.answer, expected):
        raise ProvisioningError("the answer does not belong to this request, or is wrong", code="EG-P010")


def _nonce(fleet: Fleet, request_digest: bytes) -> bytes:
    """Return 32 bytes that only this fleet and the holder of the request's key can know.

    From the grant key, because it is post-quantum: whoever breaks the X25519 enrolment key, which every device knows,
    must not be able to compute what only an ML-KEM key should open.
    """
    with fleet.grant_key().derive_secret("enrol-challenge") as secret:
        return hmac.digest(secret.view, request_digest, "sha256")[:CEK_BYTES]


def _write_record(fleet: Fleet, trust: TrustStore, record: DeviceRecord) -> None:
    """Write the record last, so that one that is there has all its signatures."""
    payload = canonical(msgspec.to_builtins(record))
    message = pae(DEVICE_TYPE, payload)
    signers = fleet.signing_set(ENROL, trust)
    for index, signer in reversed(list(enumerate(signers))):
        keyid = signer.public_key().keyid
        name = f"{record.kid}.{keyid}.sig" if index else f"{record.kid}.json"
        write_atomic(fleet.devices_folder / name, encode_signed(payload, DEVICE_TYPE, keyid, signer.sign(message)))


def _further_signatures(path: Path, trust: TrustStore, first: str, payload: bytes) -> Iterator[KeySignature]:
    """Give the signatures beside a record, by the names of known keys; each must be over the same bytes."""
    for key in trust.role_keys(ENROL):
        beside = path.with_name(f"{path.stem}.{key.keyid}.sig")
        if key.keyid == first or not beside.is_file():
            continue
        signed = parse_signed(_read_record_file(beside), DEVICE_TYPE, what=beside.name)
        if signed.payload != payload or signed.claimed.keyid != key.keyid:
            raise ProvisioningError(f"{beside.name} signs something else", code="EG-P014")
        yield signed.claimed


def _claimed_name(path: Path) -> str | None:
    """Return the device name that a record claims, None where it claims nothing readable; nothing is verified."""
    try:
        payload = json.loads(_read_record_file(path))["dsseEnvelope"]["payload"]
        name = json.loads(base64.b64decode(payload))["device_name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return name if isinstance(name, str) else None


def _read_record_file(path: Path) -> bytes:
    with open_regular(path) as file:
        return read_up_to(file, MAX_RECORD_BYTES)
