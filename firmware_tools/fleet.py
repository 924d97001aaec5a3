"""A fleet's folder on the provisioning host. docs/formats/fleet.md"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from edgeguard.clock import NS_PER_S
from edgeguard.errors import BundleFormatError, ProvisioningError
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.dates import Date, ns_to_date, ns_to_datetime
from edgeguard.trust.policy import FleetPolicy, Hex64, Name, SignatureGroup
from edgeguard.trust.store import TrustStore
from edgeguard.trust.strict_json import canonical, convert, parse
from firmware_tools.files import folder_in_the_making, write_synced
from firmware_tools.signer import FileSigner
from firmware_tools.trust_metadata import root_metadata, targets_metadata

FLEET_SCHEMA = "edgeguard/fleet/v1"
MAX_FLEET_BYTES = 64 * 1024
# A device in the field must outlive its metadata's renewal; five years is the service interval of most machines.
DEFAULT_VALID_DAYS = 5 * 365
_S_PER_DAY = 86_400


class FleetFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """fleet.json: which fleet this folder belongs to. Holds no secret and no authority."""

    schema: Literal["edgeguard/fleet/v1"]
    fleet_id: Hex64
    name: Name
    created: Date


@dataclass(frozen=True, slots=True)
class Fleet:
    """An existing fleet folder. Make one with `Fleet.create`, find one with `Fleet.open`."""

    folder: Path
    fleet_id: str
    name: str

    @classmethod
    def open(cls, folder: Path | str) -> Fleet:
        """Return the fleet in `folder`.

        Raises:
            ProvisioningError: EG-P002, there is none.
        """
        folder = Path(folder)
        reason = ""
        try:
            raw = (folder / "fleet.json").read_bytes()[:MAX_FLEET_BYTES]
            facts = convert(parse(raw, what="fleet.json"), FleetFile, what="fleet.json")
            return cls(folder, facts.fleet_id, facts.name)
        except OSError as error:
            reason = (error.strerror or "unknown").lower()
        except BundleFormatError as error:
            reason = error.message
        raise ProvisioningError(
            f"{folder} is not a fleet folder: {reason}",
            code="EG-P002",
            hint=f"make one with: edgeguard-provision init {folder} --name NAME",
        )

    @classmethod
    def create(
        cls,
        folder: Path | str,
        *,
        name: str,
        wall_ns: int,
        offline_keys: int = 1,
        offline_threshold: int = 1,
        release_keys: int = 1,
        release_threshold: int = 1,
        channels: Sequence[str] = ("production",),
        valid_days: int = DEFAULT_VALID_DAYS,
        allow_unlocked_memory: bool = False,
    ) -> Fleet:
        """Make a new fleet: all keys, the pinned root, the delegations and the signed policy.

        Args:
            wall_ns: now, nanoseconds since 1970 UTC; becomes a signed time below which no device judges.
            offline_keys, offline_threshold: n and k of root and of targets.
            release_keys, release_threshold: n and k of the keys that sign models.
            allow_unlocked_memory: let devices decrypt into memory that can be swapped.

        Raises:
            ProvisioningError: EG-P001 the folder exists, EG-P003 bad numbers or names, EG-P030 cannot write.
        """
        folder = Path(folder)
        for keys, threshold in ((offline_keys, offline_threshold), (release_keys, release_threshold)):
            if not 1 <= threshold <= keys <= 16:
                raise ProvisioningError("thresholds are between 1 and the number of keys, at most 16", code="EG-P003")
        counts = {"root": offline_keys, "targets": offline_keys, "release": release_keys}
        thresholds = {"root": offline_threshold, "targets": offline_threshold, "release": release_threshold}
        issued_ns = wall_ns // NS_PER_S * NS_PER_S
        expires = ns_to_datetime(issued_ns + valid_days * _S_PER_DAY * NS_PER_S)
        with folder_in_the_making(folder, code="EG-P001", mode=0o700) as new:
            for sub in ("keys", "public", "trust", "devices", "wraps"):
                (new / sub).mkdir(mode=0o700)
            signers = _new_signers(new / "keys", counts)
            for number, signer in enumerate(signers["release"], start=1):
                write_synced(new / "public" / f"release-{number}.pem", signer.public_pem())
            enrol = FileKeyProvider.generate(new / "keys" / "enrol-agreement.pem")
            FileKeyProvider.generate(new / "keys" / "grant.pem")
            root = root_metadata(signers, thresholds, expires)
            fleet_id = hashlib.sha256(root).hexdigest()
            policy = _first_policy(
                fleet_id, name, issued_ns, tuple(channels), release_threshold, allow_unlocked_memory, enrol
            )
            write_synced(new / "trust" / "1.root.json", root)
            write_synced(new / "trust" / "policy.json", policy)
            write_synced(new / "trust" / "targets.json", targets_metadata(signers, thresholds, policy, expires))
            facts = FleetFile("edgeguard/fleet/v1", fleet_id, name, ns_to_date(issued_ns))
            write_synced(new / "fleet.json", canonical(msgspec.to_builtins(facts)))
            TrustStore.load(new / "trust", wall_ns, expect_fleet=fleet_id)
        return cls.open(folder)

    @property
    def trust_folder(self) -> Path:
        """What is copied to every device."""
        return self.folder / "trust"

    @property
    def devices_folder(self) -> Path:
        return self.folder / "devices"

    def trust(self, wall_ns: int) -> TrustStore:
        """Return the fleet's verified trust; raises TrustError as the device would."""
        return TrustStore.load(self.trust_folder, wall_ns, expect_fleet=self.fleet_id)

    def signers(self, role: str, count: int) -> list[FileSigner]:
        """Return `count` signing keys of a role that lie in this folder.

        Raises:
            ProvisioningError: EG-P005, fewer are here.
        """
        paths = sorted((self.folder / "keys").glob(f"{role}-*.pem"), key=lambda p: (len(p.name), p.name))
        if len(paths) < count:
            raise ProvisioningError(
                f"{count} {role} keys must sign and {len(paths)} are in {self.folder / 'keys'}",
                code="EG-P005",
                hint="bring the missing keys for as long as it takes to sign",
            )
        return [FileSigner(path) for path in paths[:count]]

    def grant_key(self) -> FileKeyProvider:
        """Return the key to which this fleet wraps its CEKs."""
        return FileKeyProvider(self.folder / "keys" / "grant.pem")

    def enrol_key(self) -> FileKeyProvider:
        """Return the key against which devices prove possession of theirs."""
        return FileKeyProvider(self.folder / "keys" / "enrol-agreement.pem")

    def cek_wrap(self, identity: bytes) -> Path:
        """Return where the CEK of a bundle rests, wrapped to the grant key."""
        return self.folder / "wraps" / f"{identity.hex()}.hpke"


def _new_signers(folder: Path, counts: dict[str, int]) -> dict[str, list[FileSigner]]:
    """Make the keys of every role; `snapshot` and `timestamp` sign what the fleet publishes and never authorise."""
    roles = ("root", "targets", "snapshot", "timestamp", "release", "enrol")
    return {
        role: [FileSigner.generate(folder / f"{role}-{i + 1}.pem") for i in range(counts.get(role, 1))]
        for role in roles
    }


def _first_policy(
    fleet_id: str,
    name: str,
    issued_ns: int,
    channels: tuple[str, ...],
    release_threshold: int,
    allow_unlocked_memory: bool,
    enrol: FileKeyProvider,
) -> bytes:
    reason = ""
    try:
        policy = FleetPolicy(
            schema="edgeguard/fleet-policy/v1",
            fleet_id=fleet_id,
            fleet_name=name,
            issued=ns_to_date(issued_ns),
            channels=channels,
            signature_groups=(SignatureGroup(scheme="ecdsa-sha2-nistp256", threshold=release_threshold),),
            floors={},
            unlocked_memory="allow" if allow_unlocked_memory else "refuse-with-swap",
            enrol_key=raw_x25519(enrol.public_key()).hex(),
        )
        return canonical(msgspec.to_builtins(convert(msgspec.to_builtins(policy), FleetPolicy, what="the policy")))
    except BundleFormatError as error:
        reason = error.message
    raise ProvisioningError(f"these names cannot be used: {reason}", code="EG-P003")


def raw_x25519(public_der: bytes) -> bytes:
    """Return the 32 raw bytes of an X25519 key in DER form."""
    key = load_der_public_key(public_der)
    if not isinstance(key, X25519PublicKey):
        raise ProvisioningError("the key is not an X25519 key", code="EG-P010")
    return key.public_bytes_raw()
