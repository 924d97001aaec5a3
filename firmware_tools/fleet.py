"""A fleet's folder on the provisioning host. docs/formats/fleet.md"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgeguard.clock import NS_PER_S
from edgeguard.errors import BundleFormatError, ProvisioningError
from edgeguard.keys.context import SUITE_HYBRID, SUITE_P256, SUITE_X25519
from edgeguard.keys.file import FileKeyProvider
from edgeguard.keys.private_file import write_private_file
from edgeguard.keys.public_key import parse_public_key
from edgeguard.keys.secret_source import Ask
from edgeguard.trust.dates import Date, ns_to_date, ns_to_datetime
from edgeguard.trust.metadata import RELEASE, RELEASE_PQ
from edgeguard.trust.policy import CLASSICAL, HYBRID, EnrolKeys, FleetPolicy, Hex64, Name, RevocationPolicy, Signatures
from edgeguard.trust.revocation import LIST_FILE, METADATA_FILE
from edgeguard.trust.role_keys import MAX_KEYS_PER_FAMILY, SCHEME_MLDSA65, SCHEME_P256, KeyGroup
from edgeguard.trust.store import ATTEST, ENROL, REVOCATION, TrustStore
from edgeguard.trust.strict_json import canonical, convert, parse
from firmware_tools.files import folder_in_the_making, write_synced
from firmware_tools.revocation_list import empty_list
from firmware_tools.signer import ADDRESS_SUFFIX, FileSigner, Signer, open_signer
from firmware_tools.trust_metadata import revocation_metadata, root_metadata, targets_metadata

FLEET_SCHEMA = "edgeguard/fleet/v1"
MAX_FLEET_BYTES = 64 * 1024
OLD_TRUST = ".trust-old"  # the trust folder while a new one takes its place
# A device in the field must outlive its metadata's renewal; five years is the service interval of most machines.
DEFAULT_VALID_DAYS = 5 * 365
# A fleet whose owner has said nothing for a year gets no new models until somebody looks; what runs keeps running.
DEFAULT_LIST_DAYS = 365
_S_PER_DAY = 86_400
# Roles a person can give numbers to; snapshot and timestamp are online and one of one.
ROLES = ("root", "targets", "snapshot", "timestamp", RELEASE, RELEASE_PQ, REVOCATION, ENROL, ATTEST)


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
    passphrase: bytes | None = field(default=None, repr=False, compare=False)
    ask: Ask | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path | str, passphrase: bytes | None = None, ask: Ask | None = None) -> Fleet:
        """Return the fleet in `folder`.

        Args:
            passphrase: opens those of its keys that are encrypted.
            ask: asks a person for the PIN of a token whose address names no source of it.

        Raises:
            ProvisioningError: EG-P002, there is none.
        """
        folder = Path(folder)
        reason = ""
        try:
            raw = (folder / "fleet.json").read_bytes()[:MAX_FLEET_BYTES]
            facts = convert(parse(raw, what="fleet.json"), FleetFile, what="fleet.json")
            if (folder / OLD_TRUST).is_dir() and not (folder / "trust").exists():
                (folder / OLD_TRUST).rename(folder / "trust")  # the power went between two renames
            return cls(folder, facts.fleet_id, facts.name, passphrase, ask)
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
        roles: Mapping[str, tuple[int, int]] | None = None,
        signatures: Signatures = CLASSICAL,
        channels: Sequence[str] = ("production",),
        valid_days: int = DEFAULT_VALID_DAYS,
        allow_unlocked_memory: bool = False,
        passphrase: bytes | None = None,
        device_state: Literal["required", "optional"] = "required",
        list_max_age_days: tuple[int | None, int | None] = (DEFAULT_LIST_DAYS, None),
        required_attestations: Sequence[str] = (),
        token_keys: Mapping[str, Sequence[str]] | None = None,
        ask: Ask | None = None,
    ) -> Fleet:
        """Make a new fleet: all keys, the pinned root, the delegations and the signed policy.

        Args:
            wall_ns: now, nanoseconds since 1970 UTC; becomes a signed time below which no device judges.
            offline_keys, offline_threshold: n and k of root and of targets.
            release_keys, release_threshold: n and k of the keys that sign models, in each family.
            roles: (n, k) of further roles by name; overrides the four arguments above.
            signatures: `hybrid-required` makes every role sign with P-256 and with ML-DSA-65, n and k in each family.
            allow_unlocked_memory: let devices decrypt into memory that can be swapped.
            passphrase: encrypts every private key of the folder.
            device_state: whether a model opens only beside an authenticated device state.
            required_attestations: in-toto predicate types that each model must carry, signed by `attest`.
            token_keys: addresses of P-256 keys on tokens that a role's first keys are, by role name; made before, with
                `edgeguard-provision token-key`. The folder holds their addresses and never their PINs.
            ask: as for `open`.
            list_max_age_days: how old the revocation list may be for a new install, and for running; None: any age.

        Raises:
            ProvisioningError: EG-P001 the folder exists, EG-P003 bad numbers or names, EG-P030 cannot write.
            EnvironmentMissingError: EG-E012, hybrid and no ML-DSA here.
        """
        folder = Path(folder)
        numbers = _role_numbers(
            {
                "root": (offline_keys, offline_threshold),
                "targets": (offline_keys, offline_threshold),
                RELEASE: (release_keys, release_threshold),
                RELEASE_PQ: (release_keys, release_threshold),
            },
            roles or {},
            signatures,
        )
        issued_ns = wall_ns // NS_PER_S * NS_PER_S
        expires = ns_to_datetime(issued_ns + valid_days * _S_PER_DAY * NS_PER_S)
        with folder_in_the_making(folder, code="EG-P001", mode=0o700) as new:
            for sub in ("keys", "public", "trust", "devices", "wraps"):
                (new / sub).mkdir(mode=0o700)
            tokens = _token_signers(token_keys or {}, numbers, ask)
            signers = _new_signers(new / "keys", numbers, signatures, passphrase, tokens)
            thresholds = {
                role: threshold * len({s.public_key().scheme for s in signers[role]})
                for role, (_, threshold) in numbers.items()
            }
            for role in (RELEASE, RELEASE_PQ):
                for number, signer in enumerate(signers.get(role, ()), start=1):
                    write_synced(new / "public" / f"{role}-{number}.pem", signer.public_pem())
            enrol_keys = _new_agreement_keys(new / "keys", passphrase)
            root = root_metadata(signers, thresholds, expires)
            fleet_id = hashlib.sha256(root).hexdigest()
            extras = {
                "device_state": device_state,
                "revocation": _list_policy(list_max_age_days),
                "required_attestations": tuple(required_attestations),
            }
            policy = _first_policy(
                fleet_id, name, issued_ns, tuple(channels), signatures, allow_unlocked_memory, enrol_keys, extras
            )
            write_synced(new / "trust" / "1.root.json", root)
            write_synced(new / "trust" / "policy.json", policy)
            write_synced(new / "trust" / "targets.json", targets_metadata(signers, thresholds, policy, expires))
            content = empty_list(fleet_id, issued_ns)
            write_synced(new / "trust" / LIST_FILE, content)
            write_synced(new / "trust" / METADATA_FILE, revocation_metadata(signers[REVOCATION], 1, expires, content))
            facts = FleetFile("edgeguard/fleet/v1", fleet_id, name, ns_to_date(issued_ns))
            write_synced(new / "fleet.json", canonical(msgspec.to_builtins(facts)))
            TrustStore.load(new / "trust", wall_ns, expect_fleet=fleet_id)
        return cls.open(folder, passphrase, ask)

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

    def signers(self, role: str, count: int) -> list[Signer]:
        """Return the first `count` signing keys of a role that lie in this folder; `<role>-pq` names its other family.

        Raises:
            ProvisioningError: EG-P005, fewer are here.
        """
        paths = self._key_files(role)
        if len(paths) < count:
            raise self._missing(role, count, len(paths))
        return [self._signer(path) for path in paths[:count]]

    def signing_set(self, role: str, trust: TrustStore, *, partial: bool = False) -> list[Signer]:
        """Return just as many keys of a delegated role as devices ask for, classical ones first.

        Keys that lie here and that `trust` no longer names are passed over. partial: those that are here will do, at
        least one of them classical; others sign later.

        Raises:
            ProvisioningError: EG-P005, too few are here.
        """
        return self._enough(trust.groups[role], partial=partial)

    def offline_set(self, role: str, trust: TrustStore) -> list[Signer]:
        """As `signing_set`, for root, targets, snapshot and timestamp."""
        return self._enough(trust.top_groups[role])

    def key_files_of(self, groups: Sequence[KeyGroup]) -> list[Path]:
        """Return the files here that hold keys of these groups."""
        return [path for group in groups for path, _ in self._here(group)]

    def new_signer(self, role: str, scheme: str) -> tuple[Path, FileSigner]:
        """Make one more signing key of a role, under the next free number."""
        path = self._next_key_file(_stem(role, scheme), ".pem")
        return path, FileSigner.generate(path, scheme, self.passphrase)

    def adopt_token_key(self, role: str, address: str) -> tuple[Path, Signer]:
        """Take a P-256 key on a token as one more signing key of a role, under the next free number."""
        signer = open_signer(address, ask=self.ask)
        path = self._next_key_file(_stem(role, SCHEME_P256), ADDRESS_SUFFIX)
        write_private_file(path, address.encode() + b"\n")
        return path, signer

    def _next_key_file(self, stem: str, suffix: str) -> Path:
        taken = [int(m[1]) for p in (self.folder / "keys").rglob("*") if (m := _key_name(stem).fullmatch(p.name))]
        return self.folder / "keys" / f"{stem}-{max(taken, default=0) + 1}{suffix}"

    def _signer(self, path: Path) -> Signer:
        return open_signer(path, self.passphrase, self.ask)

    def _enough(self, groups: Sequence[KeyGroup], *, partial: bool = False) -> list[Signer]:
        chosen: list[Signer] = []
        for group in groups:
            here = [signer for _, signer in self._here(group)][: group.threshold]
            # Of a partial set only the first group, which makes model.sig, needs somebody.
            needed = group.threshold if not partial else 0 if chosen else 1
            if len(here) < needed:
                raise self._missing(_stem(group.role, group.scheme), group.threshold, len(here))
            chosen += here
        return chosen

    def _here(self, group: KeyGroup) -> list[tuple[Path, Signer]]:
        known = {key.public_der for key in group.keys}
        files = ((p, self._signer(p)) for p in self._key_files(_stem(group.role, group.scheme)))
        return [(path, signer) for path, signer in files if signer.public_key().public_der in known]

    def _key_files(self, stem: str) -> list[Path]:
        pattern = _key_name(stem)
        found = [(int(m[1]), p) for p in (self.folder / "keys").glob("*") if (m := pattern.fullmatch(p.name))]
        return [path for _, path in sorted(found)]

    def _missing(self, stem: str, needed: int, here: int) -> ProvisioningError:
        return ProvisioningError(
            f"{needed} {stem} keys must sign and {here} are in {self.folder / 'keys'}",
            code="EG-P005",
            hint="bring the missing keys for as long as it takes to sign",
        )

    def grant_key(self) -> FileKeyProvider:
        """Return the key to which this fleet wraps its CEKs."""
        return FileKeyProvider(self.folder / "keys" / "grant.pem", self.passphrase)

    def enrol_key(self, suite: str = SUITE_X25519) -> FileKeyProvider:
        """Return the key against which devices of a suite prove possession of theirs; hybrid keys use X25519."""
        curve = "p256" if suite == SUITE_P256 else "x25519"
        return FileKeyProvider(self.folder / "keys" / f"enrol-agreement-{curve}.pem", self.passphrase)

    def cek_wrap(self, identity: bytes) -> Path:
        """Return where the CEK of a bundle rests, wrapped to the grant key."""
        return self.folder / "wraps" / f"{identity.hex()}.hpke"


def _role_numbers(
    defaults: Mapping[str, tuple[int, int]], chosen: Mapping[str, tuple[int, int]], signatures: str
) -> dict[str, tuple[int, int]]:
    """Return (keys, threshold) of every role this fleet has."""
    known = [role for role in ROLES if role != RELEASE_PQ or signatures == HYBRID]
    for role in chosen:
        if role not in known:
            raise ProvisioningError(
                f"there is no role {role!a} in a {signatures} fleet", code="EG-P003", hint=f"roles: {', '.join(known)}"
            )
    numbers = {role: chosen.get(role, defaults.get(role, (1, 1))) for role in known}
    for role, (keys, threshold) in numbers.items():
        if not 1 <= threshold <= keys <= MAX_KEYS_PER_FAMILY:
            raise ProvisioningError(
                f"{role}: a threshold is between 1 and the number of keys, at most {MAX_KEYS_PER_FAMILY}",
                code="EG-P003",
            )
    return numbers


def _stem(role: str, scheme: str) -> str:
    """Return how the key files of a role and family are named; `release-pq` is a role of its own."""
    return role if scheme == SCHEME_P256 or role.endswith("-pq") else f"{role}-pq"


def _key_name(stem: str) -> re.Pattern[str]:
    """Return what files are called that hold a key of `stem`, or its address on a token."""
    return re.compile(rf"{re.escape(stem)}-([0-9]+)\.(?:pem|uri)")


def _token_signers(
    token_keys: Mapping[str, Sequence[str]], numbers: Mapping[str, tuple[int, int]], ask: Ask | None
) -> dict[str, list[tuple[str, Signer]]]:
    """Open the keys on tokens before anything is made; each is one key of one role."""
    opened = {role: [(a, open_signer(a, ask=ask)) for a in given] for role, given in token_keys.items()}
    wrong = [r for r, given in opened.items() if r not in numbers or r == RELEASE_PQ or len(given) > numbers[r][0]]
    ids = [signer.public_key().keyid for given in opened.values() for _, signer in given]
    if wrong or len(set(ids)) != len(ids):
        raise ProvisioningError(
            "a token's key is one P-256 key of one role, and no role gets more than it has keys",
            code="EG-P003",
            hint="make one for each with: edgeguard-provision token-key ADDRESS",
        )
    return opened


def _new_signers(
    folder: Path,
    numbers: Mapping[str, tuple[int, int]],
    signatures: str,
    passphrase: bytes | None,
    tokens: Mapping[str, Sequence[tuple[str, Signer]]],
) -> dict[str, list[Signer]]:
    """Make the keys of every role; `snapshot` and `timestamp` sign what the fleet publishes and never authorise."""
    made: dict[str, list[Signer]] = {}
    for role, (count, _) in numbers.items():
        schemes = [SCHEME_P256, SCHEME_MLDSA65] if signatures == HYBRID else [SCHEME_P256]
        if role in (RELEASE, RELEASE_PQ):
            schemes = [SCHEME_P256 if role == RELEASE else SCHEME_MLDSA65]
        made[role] = []
        for scheme in schemes:
            stem = _stem(role, scheme)
            kept = tokens.get(role, ()) if scheme == SCHEME_P256 else ()
            for i, (address, signer) in enumerate(kept):
                write_private_file(folder / f"{stem}-{i + 1}{ADDRESS_SUFFIX}", address.encode() + b"\n")
                made[role].append(signer)
            for i in range(len(kept), count):
                made[role].append(FileSigner.generate(folder / f"{stem}-{i + 1}.pem", scheme, passphrase))
    return made


def _first_policy(
    fleet_id: str,
    name: str,
    issued_ns: int,
    channels: tuple[str, ...],
    signatures: Signatures,
    allow_unlocked_memory: bool,
    enrol_keys: EnrolKeys,
    extras: Mapping[str, Any],
) -> bytes:
    reason = ""
    try:
        policy = FleetPolicy(
            schema="edgeguard/fleet-policy/v1",
            fleet_id=fleet_id,
            fleet_name=name,
            issued=ns_to_date(issued_ns),
            channels=channels,
            signatures=signatures,
            floors={},
            unlocked_memory="allow" if allow_unlocked_memory else "refuse-with-swap",
            enrol_keys=enrol_keys,
            **extras,
        )
        return canonical(msgspec.to_builtins(convert(msgspec.to_builtins(policy), FleetPolicy, what="the policy")))
    except BundleFormatError as error:
        reason = error.message
    raise ProvisioningError(f"these names cannot be used: {reason}", code="EG-P003")


def _list_policy(max_age_days: tuple[int | None, int | None]) -> RevocationPolicy:
    install_s, run_s = (None if days is None else str(days * _S_PER_DAY) for days in max_age_days)
    return RevocationPolicy("0", True, install_s, run_s)


def _new_agreement_keys(folder: Path, passphrase: bytes | None) -> EnrolKeys:
    """Make the grant key and the two enrolment keys.

    The grant key is hybrid in every fleet: all CEKs rest behind it for years, and what is copied today can be broken
    later.
    """
    FileKeyProvider.generate(folder / "grant.pem", passphrase, suite=SUITE_HYBRID)
    points = {
        curve: parse_public_key(
            FileKeyProvider.generate(folder / f"enrol-agreement-{curve}.pem", passphrase, suite=suite).public_key()
        ).point.hex()
        for curve, suite in (("x25519", SUITE_X25519), ("p256", SUITE_P256))
    }
    return EnrolKeys(**points)
