"""Granting: the CEK goes from the fleet's wrap to the devices' wraps; the bundle stays as signed.

The CEK is opened once for all devices of a call. Records and wraps are handled one at a time, so that memory does not
grow with the fleet.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgeguard.bundle.verify import verify_bundle
from edgeguard.errors import ProvisioningError
from edgeguard.harden.durable import sync_folder
from edgeguard.harden.memory import SecretBuffer
from edgeguard.keys.context import KEY_CLASSES, POST_QUANTUM_SUITES, WRAP_BYTES, wrap_info
from edgeguard.keys.provider import VerifiedStatement
from edgeguard.keys.public_key import parse_public_key
from edgeguard.trust.store import TrustStore
from firmware_tools.enroll import DeviceRecord, device_records, find_device, matching_records, unknown_device
from firmware_tools.files import write_atomic
from firmware_tools.fleet import Fleet

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Granted:
    """What `grant_many` did. refused: (device name, reason) of those that the statement or the fleet excludes."""

    count: int
    refused: tuple[tuple[str, str], ...]


def seal_cek(
    cek: SecretBuffer | memoryview, public_der: bytes, *, identity: bytes, fleet_id: str, model_id: str
) -> bytes:
    """Return the wrap of a CEK to a device key of any suite, bound to statement, fleet, model and key.

    Raises:
        KeyUnavailableError: EG-K006, the key is not one of a known suite.
    """
    key = parse_public_key(public_der)
    info = wrap_info(identity=identity, fleet_id=fleet_id, model_id=model_id, kid=key.kid, suite=key.suite)
    return key.seal(cek.view if isinstance(cek, SecretBuffer) else cek, info)


def grant(fleet: Fleet, bundle: Path | str, device: str, *, wall_ns: int) -> Path:
    """Give one enrolled device access to a bundle; return the path of its wrap.

    Everything is verified first: the bundle as the device would, the device's record by its signature. Granting again
    replaces the wrap by a fresh one.

    Raises:
        ModelError: the bundle does not verify. ProvisioningError: EG-P013 unknown device, EG-P014 record not signed,
            EG-P022 the statement or the fleet excludes the device, EG-P023 the fleet does not hold this bundle's CEK.
    """
    trust = fleet.trust(wall_ns)
    record = find_device(fleet, trust, device)
    statement = verify_bundle(bundle, trust, wall_ns=wall_ns).statement
    reason = why_not(trust, statement, record)
    if reason:
        raise ProvisioningError(f"{record.device_name} is not granted: {reason}", code="EG-P022")
    path = Path(bundle) / "recipients" / f"{record.kid}.hpke"
    with _content_key(fleet, statement) as cek:
        write_atomic(path, _wrap(cek, statement, record))
    return path


def grant_many(
    fleet: Fleet,
    bundle: Path | str,
    devices: Iterable[str] | None,
    *,
    wall_ns: int,
    progress: Progress | None = None,
) -> Granted:
    """Give many enrolled devices access; the CEK is opened once, whatever their number.

    Args:
        devices: names or kids; None means every enrolled device that the statement admits.
        progress: called with (devices done, devices in all).

    Raises:
        As `grant`; EG-P022 only where the excluded device was named. After an error nobody has been granted anything.
    """
    trust = fleet.trust(wall_ns)
    statement = verify_bundle(bundle, trust, wall_ns=wall_ns).statement
    wanted = None if devices is None else set(devices)
    total = len(wanted) if wanted is not None else sum(1 for _ in fleet.devices_folder.glob("*.json"))
    folder = Path(bundle) / "recipients"
    refused: list[tuple[str, str]] = []
    count = 0
    with _content_key(fleet, statement) as cek, _all_or_nothing(folder) as new:
        for record in _wanted_records(fleet, trust, wanted):
            reason = why_not(trust, statement, record)
            if reason and wanted is not None:
                raise ProvisioningError(f"{record.device_name} is not granted: {reason}", code="EG-P022")
            if reason:
                refused.append((record.device_name, reason))
            else:
                (new / f"{record.kid}.hpke").write_bytes(_wrap(cek, statement, record))
                count += 1
            if progress is not None:
                progress(count + len(refused), total)
    return Granted(count, tuple(refused))


def why_not(trust: TrustStore, statement: VerifiedStatement, record: DeviceRecord) -> str:
    """Return why a device is not granted a model, or "" where it may be."""
    if trust.revocation is not None and record.kid in trust.revocation.devices:
        return "the device is revoked"
    if statement.boards and record.board not in statement.boards:
        return f"the model is for {', '.join(statement.boards)} and the device is a {record.board}"
    if KEY_CLASSES.index(record.key_class) < KEY_CLASSES.index(statement.min_key_class):
        return f"the model asks for a {statement.min_key_class} key and the device has a {record.key_class} key"
    if statement.confidentiality == "pq-required" and record.suite not in POST_QUANTUM_SUITES:
        return "the model asks for a post-quantum wrap and the device has no such key"
    return ""


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[Path]:
    """Give a folder for new wraps; when the block ends well they are flushed with one call and moved into `folder`.

    One flush for all instead of one for each: ten thousand flushes take longer than ten thousand wraps.
    """
    partial = folder / f".partial-{secrets.token_hex(4)}"
    reason = ""
    try:
        partial.mkdir(parents=True)
        yield partial
        os.sync()
        with os.scandir(partial) as entries:
            for entry in entries:
                os.replace(entry.path, folder / entry.name)
        sync_folder(folder)
    except OSError as error:
        reason = (error.strerror or "unknown").lower()
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if reason:
        raise ProvisioningError(f"cannot write {folder}: {reason}", code="EG-P030")


def _wanted_records(fleet: Fleet, trust: TrustStore, wanted: set[str] | None) -> Iterator[DeviceRecord]:
    if wanted is None:
        yield from device_records(fleet, trust)
        return
    missing = set(wanted)
    for record in matching_records(fleet, trust, wanted):
        missing -= {record.device_name, record.kid}
        yield record
    for name in sorted(missing):
        raise unknown_device(name)


def _wrap(cek: SecretBuffer, statement: VerifiedStatement, record: DeviceRecord) -> bytes:
    return seal_cek(
        cek,
        record.public_der,
        identity=statement.identity,
        fleet_id=statement.fleet_id,
        model_id=statement.model_id,
    )


def _content_key(fleet: Fleet, statement: VerifiedStatement) -> SecretBuffer:
    """Open the fleet's own wrap; what the statement asks of devices it does not ask of the grant key."""
    key = fleet.grant_key()
    path = fleet.cek_wrap(statement.identity)
    try:
        with path.open("rb") as file:
            wrap = file.read(WRAP_BYTES[key.suite] + 1)
    except OSError:
        wrap = b""
    if not wrap:
        raise ProvisioningError(
            f"this fleet folder does not hold the key of {statement.model_id} {statement.release}",
            code="EG-P023",
            hint="grant from the folder that packed the bundle, or pack the model again",
        )
    return key.open_wrap(replace(statement, min_key_class=KEY_CLASSES[0]), wrap)
