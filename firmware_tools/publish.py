"""`publish`: a fleet's bundles, trust and list as a TUF repository of static files. docs/formats/repository.md

Incremental and restartable: what is there is left, timestamp.json is written last, and a cut-off run is finished by
running it again. Everything on offer is verified as a device would before anything is signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from tuf.api.metadata import (  # type: ignore[attr-defined] # documented re-exports
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from edgeguard.bundle.signature import SIGNATURE_FILE
from edgeguard.bundle.verify import VerifiedBundle, verify_bundle
from edgeguard.clock import NS_PER_S
from edgeguard.errors import EdgeGuardError, ProvisioningError
from edgeguard.keys.context import WRAP_BYTES
from edgeguard.trust.dates import ns_to_date, ns_to_datetime
from edgeguard.trust.metadata import RELEASE, RELEASE_PQ, REVOCATION, parse_metadata, require_signed
from edgeguard.trust.policy import HYBRID, Counter
from edgeguard.trust.revocation import METADATA_FILE
from edgeguard.trust.role_keys import SCHEME_MLDSA65, SCHEME_P256
from edgeguard.trust.store import MAX_ROOT_BYTES, MAX_TARGETS_BYTES, TrustStore
from edgeguard.update.catalogue import (
    CATALOGUE_SCHEMA,
    MAX_OFFERS,
    MAX_SIGNATURE_BYTES,
    FurtherSignature,
    Offer,
    OfferFacts,
    parse_catalogue,
    target_files,
)
from edgeguard.update.tuf_client import MAX_SNAPSHOT_BYTES, MAX_TIMESTAMP_BYTES
from edgeguard.update.versions import keys_digest
from firmware_tools.fleet import Fleet
from firmware_tools.repository import (
    PublishedFile,
    PublishedOffer,
    RepositoryFolder,
    blob_name,
    read_published,
    write_published,
)
from firmware_tools.trust_metadata import signed_metadata

DEFAULT_FRESH_DAYS: Final = 30  # a stick may lie in a drawer for a month; a scheduled --refresh costs two signatures
_S_PER_DAY: Final = 86_400
_TIMESTAMP: Final = "timestamp"
_SNAPSHOT: Final = "snapshot"
_WRAP_SIZES: Final = frozenset(WRAP_BYTES.values())
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Published:
    """What `publish` did, or in a dry run would do. versions: per role; signed: roles that were signed anew."""

    repository: Path
    bundles: tuple[str, ...]
    versions: Mapping[str, int]
    signed: tuple[str, ...]
    files_written: int
    files_kept: int
    bytes_written: int
    fresh_until: str
    dry_run: bool


def publish(
    fleet: Fleet,
    repository: Path | str,
    bundles: Sequence[Path | str] = (),
    *,
    wall_ns: int,
    withdraw: Sequence[str] = (),
    valid_days: int = DEFAULT_FRESH_DAYS,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Published:
    """Put the fleet's trust, list and catalogue, with `bundles` added, into a repository folder.

    Args:
        bundles: bundle directories that go on offer; those already on offer stay. Their wraps are copied as they are,
            so publishing again after `grant` adds new devices.
        withdraw: identities that go off offer. Their files stay; to stop them on devices, revoke them.
        valid_days: how long devices take the index for fresh.
        progress: called with (files done, files in all).

    Raises:
        ModelError: a bundle does not verify. ProvisioningError: EG-P003 nothing with that identity is on offer,
            EG-P005 keys missing, EG-P030 cannot write, EG-P070 ... EG-P072.
    """
    trust = fleet.trust(wall_ns)
    known = read_published(fleet)
    folder = RepositoryFolder(repository, dry_run=dry_run)
    _require_own(fleet, folder)
    folder.drop_partials()
    verified = [(Path(b), verify_bundle(b, trust, wall_ns=wall_ns)) for b in bundles]
    offers = _offers(trust, known.as_offers, verified, withdraw)
    _require_present(folder, offers, {b.statement.identity.hex() for _, b in verified})
    _copy(folder, trust, verified, progress)
    work = _Signing(fleet, trust, folder, known, wall_ns, valid_days)
    files = work.offline_files()
    files |= work.catalogue(offers)
    work.online(files, force=False)
    folder.sync()
    return work.finish(offers)


def refresh(
    fleet: Fleet,
    repository: Path | str,
    *,
    wall_ns: int,
    valid_days: int = DEFAULT_FRESH_DAYS,
    dry_run: bool = False,
) -> Published:
    """Sign snapshot and timestamp of a repository again, with the online keys alone; nothing else changes.

    Raises:
        ProvisioningError: EG-P005, EG-P030, EG-P070 no repository of this fleet, or its snapshot is not ours.
    """
    trust = fleet.trust(wall_ns)
    known = read_published(fleet)
    folder = RepositoryFolder(repository, dry_run=dry_run)
    _require_own(fleet, folder)
    work = _Signing(fleet, trust, folder, known, wall_ns, valid_days)
    work.online(work.present_meta(), force=True)
    return work.finish(known.as_offers)


class _Signing:
    """One run over one repository: signs what is new, reserves each version before it is used."""

    def __init__(
        self, fleet: Fleet, trust: TrustStore, folder: RepositoryFolder, known: PublishedFile, wall_ns: int, days: int
    ) -> None:
        self._fleet = fleet
        self._trust = trust
        self._folder = folder
        self._known = known
        self._now_ns = trust.effective_ns(wall_ns)
        self._fresh_ns = min(self._now_ns + days * _S_PER_DAY * NS_PER_S, trust.expires_ns)
        self._root = self._trust_metadata(f"{trust.root_version}.root.json", Root)
        self._targets = self._trust_metadata("targets.json", Targets)
        self._versions: dict[str, int] = {}
        self._signed: list[str] = []

    def offline_files(self) -> dict[str, MetaFile]:
        """Put roots, targets, policy and list in place; return what a snapshot says of them."""
        trust, fleet = self._trust, self._fleet
        if trust.revocation is None:
            raise ProvisioningError(
                f"devices would have no revocation list: {trust.revocation_refusal or 'there is none'}",
                code="EG-P072",
                hint=f"sign one with: edgeguard-provision revoke {fleet.folder}",
            )
        policy = (fleet.trust_folder / "policy.json").read_bytes()
        self._folder.put(f"targets/{_sha256(policy)}.policy.json", policy)
        self._folder.put(f"targets/revocation/{trust.revocation.digest}.list.json", trust.revocation.content)
        for version in range(1, trust.root_version + 1):
            name = f"{version}.root.json"
            self._folder.put(f"metadata/{name}", (fleet.trust_folder / name).read_bytes())
        found: dict[str, MetaFile] = {}
        for role, file in (("targets", "targets.json"), (REVOCATION, METADATA_FILE)):
            raw = (fleet.trust_folder / file).read_bytes()
            version = trust.targets_version if role == "targets" else trust.revocation.place[1]
            found[f"{role}.json"] = self._put_metadata(role, version, raw)
        return found

    def catalogue(self, offers: Sequence[Offer]) -> dict[str, MetaFile]:
        """Sign the catalogue where it is new or no longer holds; return what a snapshot says of it."""
        roles = {RELEASE: SCHEME_P256}
        if self._trust.policy.signatures == HYBRID:
            roles[RELEASE_PQ] = SCHEME_MLDSA65
        present = self._present_catalogue(tuple(roles), offers)
        if present is not None:
            return {f"{role}.json": self._meta(role, version, raw) for role, (version, raw) in present.items()}
        if self._folder.dry_run:
            self._signed += roles
            return {f"{role}.json": MetaFile(self._next(role)) for role in roles}
        signers = self._fleet.signing_set(RELEASE, self._trust)
        expires = ns_to_datetime(self._trust.expires_ns)
        version = max(self._next(role) for role in roles)
        self._reserve(dict.fromkeys(roles, version), offers)
        found: dict[str, MetaFile] = {}
        for role, scheme in roles.items():
            targets = Targets(version=version, expires=expires, targets=target_files(offers, role))
            raw = signed_metadata(targets, [s for s in signers if s.public_key().scheme == scheme])
            self._require_accepted(role, raw, self._targets, Targets)
            found[f"{role}.json"] = self._put_metadata(role, version, raw)
            self._signed.append(role)
        return found

    def present_meta(self) -> dict[str, MetaFile]:
        """Return what the repository's own snapshot says, if the online keys signed it."""
        snapshot = self._present_snapshot()
        if snapshot is None:
            raise ProvisioningError(
                "the repository has no snapshot that these keys signed",
                code="EG-P070",
                hint="publish it once without --refresh",
            )
        if any(snapshot.meta.get(n) is None or snapshot.meta[n].version < v for n, v in self._listed().items()):
            raise ProvisioningError(
                "the repository is older than what this fleet has published", code="EG-P070", hint="publish it again"
            )
        return dict(snapshot.meta)

    def online(self, files: dict[str, MetaFile], *, force: bool) -> None:
        """Sign snapshot and timestamp where something is new, or less than half of their time is left."""
        self._require_forward(files)
        snapshot = self._present_snapshot()
        half_ns = self._now_ns + (self._fresh_ns - self._now_ns) // 2
        if not force and snapshot is not None and snapshot.meta == files:
            timestamp = self._online_metadata("metadata/timestamp.json", MAX_TIMESTAMP_BYTES, _TIMESTAMP, Timestamp)
            ends = [_ns(m.expires) for m in (snapshot, timestamp) if m is not None]
            if len(ends) == 2 and min(ends) >= min(half_ns, self._fresh_ns):
                self._versions |= {_SNAPSHOT: snapshot.version, _TIMESTAMP: timestamp.version}
                self._fresh_ns = min(ends)
                return
        self._signed += [_SNAPSHOT, _TIMESTAMP]
        versions = {role: self._next(role) for role in (_SNAPSHOT, _TIMESTAMP)}
        self._versions |= versions
        if self._folder.dry_run:
            return
        self._folder.sync()
        self._reserve(versions, None, files)
        expires = ns_to_datetime(self._fresh_ns)
        signers = {role: self._fleet.offline_set(role, self._trust) for role in versions}
        raw = signed_metadata(Snapshot(versions[_SNAPSHOT], None, expires, files), signers[_SNAPSHOT])
        self._require_accepted(_SNAPSHOT, raw, self._root, Snapshot)
        listed = self._put_metadata(_SNAPSHOT, versions[_SNAPSHOT], raw)
        raw = signed_metadata(Timestamp(versions[_TIMESTAMP], None, expires, listed), signers[_TIMESTAMP])
        self._require_accepted(_TIMESTAMP, raw, self._root, Timestamp)
        self._folder.put("metadata/timestamp.json", raw)

    def finish(self, offers: Sequence[Offer]) -> Published:
        """Return what was done."""
        folder = self._folder
        return Published(
            repository=folder.folder,
            bundles=tuple(offer.identity for offer in offers),
            versions=dict(sorted(self._versions.items())),
            signed=tuple(self._signed),
            files_written=folder.written,
            files_kept=folder.kept,
            bytes_written=folder.bytes_written,
            fresh_until=ns_to_date(self._fresh_ns),
            dry_run=folder.dry_run,
        )

    def _present_catalogue(self, roles: Sequence[str], offers: Sequence[Offer]) -> dict[str, tuple[int, bytes]] | None:
        """Return the catalogue files of the repository if they say this, hold, and no version went by since."""
        found: dict[str, tuple[int, bytes]] = {}
        parsed: dict[str, Targets] = {}
        for role in roles:
            version = self._known.versions.get(role, 0)
            raw = self._folder.read(f"metadata/{version}.{role}.json", MAX_TARGETS_BYTES) if version else None
            if raw is None:
                return None
            try:
                metadata = parse_metadata(raw, Targets, role)
                require_signed(self._targets, role, metadata, role)
            except EdgeGuardError:
                return None
            if metadata.signed.version != version or _ns(metadata.signed.expires) <= self._now_ns:
                return None
            found[role] = (version, raw)
            parsed[role] = metadata.signed
        try:
            said = parse_catalogue(parsed[RELEASE], parsed.get(RELEASE_PQ))
        except EdgeGuardError:
            return None
        return found if _sorted(said) == _sorted(offers) else None

    def _present_snapshot(self) -> Snapshot | None:
        timestamp = self._online_metadata("metadata/timestamp.json", MAX_TIMESTAMP_BYTES, _TIMESTAMP, Timestamp)
        if timestamp is None:
            return None
        name = f"metadata/{timestamp.snapshot_meta.version}.snapshot.json"
        snapshot: Snapshot | None = self._online_metadata(name, MAX_SNAPSHOT_BYTES, _SNAPSHOT, Snapshot)
        return snapshot

    def _online_metadata(self, name: str, limit: int, role: str, kind: type[Any]) -> Any:
        """Return metadata of the repository if the role's present keys signed it, else None."""
        raw = self._folder.read(name, limit)
        if raw is None:
            return None
        try:
            metadata = parse_metadata(raw, kind, role)
            require_signed(self._root, role, metadata, role)
        except EdgeGuardError:
            return None
        return metadata.signed

    def _require_forward(self, files: Mapping[str, MetaFile]) -> None:
        """A version that goes back is refused by every device, unless the online keys are new as well."""
        for name, version in self._listed().items():
            now = files.get(name)
            if now is None or now.version >= version:
                continue
            if name == "targets.json":
                raise ProvisioningError(
                    "this fleet folder is older than what was published",
                    code="EG-P071",
                    hint="work on the fleet folder that published last",
                )
            raise ProvisioningError(
                f"{name} goes back from version {version} to {now.version}, which devices refuse",
                code="EG-P072",
                hint="after a new epoch or a stolen key, first: rotate FLEET snapshot; rotate FLEET timestamp",
            )

    def _listed(self) -> Mapping[str, int]:
        return self._known.listed if self._known.snapshot_keys == self._snapshot_keys() else {}

    def _snapshot_keys(self) -> str:
        # Clients compare with the snapshot they have as long as its keys are in force.
        return keys_digest(self._trust.top_groups[_SNAPSHOT])

    def _next(self, role: str) -> int:
        """Return a version that was never used: above the fleet's memory and what lies in the repository."""
        suffix = f".{role}.json"
        here = [
            int(n.removesuffix(suffix)) for n in self._folder.names("metadata")
            if n.endswith(suffix) and n.removesuffix(suffix).isdigit() and len(n) < len(suffix) + 16
        ]  # fmt: skip
        if role == _TIMESTAMP:
            present = self._online_metadata("metadata/timestamp.json", MAX_TIMESTAMP_BYTES, role, Timestamp)
            here = [present.version] if present is not None else []
        return max([self._known.versions.get(role, 0), *here]) + 1

    def _reserve(
        self,
        versions: Mapping[str, int],
        offers: Sequence[Offer] | None,
        files: Mapping[str, MetaFile] | None = None,
    ) -> None:
        """Remember versions before they are signed, so that none is ever used for two contents."""
        known = msgspec.structs.replace(self._known, versions={**self._known.versions, **versions})
        if offers is not None:
            listed = tuple(PublishedOffer(o.identity, o.length, o.sha256, o.facts) for o in offers)
            known = msgspec.structs.replace(known, offers=listed)
        if files is not None:
            said = {name: meta.version for name, meta in files.items()}
            known = msgspec.structs.replace(known, listed=said, snapshot_keys=self._snapshot_keys())
        write_published(self._fleet, known)
        self._known = known

    def _put_metadata(self, role: str, version: int, raw: bytes) -> MetaFile:
        self._folder.put(f"metadata/{version}.{role}.json", raw)
        return self._meta(role, version, raw)

    def _meta(self, role: str, version: int, raw: bytes) -> MetaFile:
        self._versions[role] = version
        return MetaFile(version, len(raw), {"sha256": _sha256(raw)})

    def _require_accepted(self, role: str, raw: bytes, delegator: Root | Targets, kind: type[Any]) -> None:
        reason = ""
        try:
            require_signed(delegator, role, parse_metadata(raw, kind, role), role)
        except EdgeGuardError as error:
            reason = error.message
        limits = {_TIMESTAMP: MAX_TIMESTAMP_BYTES, _SNAPSHOT: MAX_SNAPSHOT_BYTES}
        if len(raw) > limits.get(role, MAX_TARGETS_BYTES):
            reason = "it is too large"
        if reason:
            raise ProvisioningError(f"no device would accept the new {role}: {reason}", code="EG-P072")

    def _trust_metadata(self, name: str, kind: type[Any]) -> Any:
        raw = (self._fleet.trust_folder / name).read_bytes()
        return parse_metadata(raw, kind, name).signed


def _require_own(fleet: Fleet, folder: RepositoryFolder) -> None:
    root = folder.read("metadata/1.root.json", MAX_ROOT_BYTES)
    foreign = root is not None and _sha256(root) != fleet.fleet_id
    if foreign or (root is None and any(n != "lost+found" for n in folder.names(""))):
        raise ProvisioningError(
            f"{folder.folder} is not empty and no repository of this fleet",
            code="EG-P070",
            hint="name an empty folder, or the one that was published to before",
        )


def _require_present(folder: RepositoryFolder, offers: Sequence[Offer], coming: set[str]) -> None:
    """A bundle that stays on offer must lie here: in a new or cleared folder it has to be published again."""
    for offer in offers:
        name = f"targets/bundles/{offer.sha256}.{offer.identity}.sig"
        if offer.identity not in coming and folder.read(name, offer.length) is None:
            raise ProvisioningError(
                f"{offer.facts.model_id} {offer.facts.release} is on offer and not in {folder.folder}",
                code="EG-P072",
                hint=f"name its bundle as well, or take it off offer: --withdraw {offer.identity}",
            )


def _offers(
    trust: TrustStore,
    known: Sequence[Offer],
    verified: Sequence[tuple[Path, VerifiedBundle]],
    withdraw: Sequence[str],
) -> tuple[Offer, ...]:
    offers = {offer.identity: offer for offer in known}
    for identity in withdraw:
        if offers.pop(identity, None) is None:
            raise ProvisioningError(f"nothing with the identity {identity!a} is on offer", code="EG-P003")
    revoked = trust.revocation.bundles if trust.revocation is not None else frozenset()
    offers = {identity: offer for identity, offer in offers.items() if identity not in revoked}
    last = max((offer.facts.sequence for offer in known), default=0)
    for path, bundle in verified:
        identity = bundle.statement.identity.hex()
        sequence = offers[identity].facts.sequence if identity in offers else last + 1
        last = max(last, sequence)
        offers[identity] = _offer(trust, path, bundle, sequence)
    if len(offers) > MAX_OFFERS:
        raise ProvisioningError(f"more than {MAX_OFFERS} bundles on offer", code="EG-P072", hint="withdraw old ones")
    return _sorted(offers.values())


def _offer(trust: TrustStore, path: Path, bundle: VerifiedBundle, sequence: int) -> Offer:
    statement = bundle.statement
    signature = (path / SIGNATURE_FILE).read_bytes()
    further = {keyid: (path / "signatures" / f"{keyid}.sig") for keyid in _further(trust, path)}
    schema: Literal["edgeguard/catalogue/v1"] = CATALOGUE_SCHEMA
    facts = OfferFacts(
        schema=schema,
        model_id=statement.model_id,
        release=statement.release,
        channel=statement.channel,
        boards=statement.boards,
        counter=Counter(str(statement.counter[0]), str(statement.counter[1])),
        sequence=sequence,
        bytes=sum((path / name).stat().st_size for name in bundle.digests),
        signatures={
            keyid: FurtherSignature(len(raw), _sha256(raw))
            for keyid, raw in ((k, p.read_bytes()) for k, p in further.items())
        },
    )
    return Offer(statement.identity.hex(), len(signature), _sha256(signature), facts)


def _copy(
    folder: RepositoryFolder,
    trust: TrustStore,
    verified: Sequence[tuple[Path, VerifiedBundle]],
    progress: Progress | None,
) -> None:
    """Copy signed files by their digests, then signatures, then wraps."""
    wraps = {path: _wraps(path / "recipients") for path, _ in verified}
    total = sum(len(bundle.digests) + len(wraps[path]) for path, bundle in verified)
    done = 0
    for path, bundle in verified:
        identity = bundle.statement.identity.hex()
        for name, digest in bundle.digests.items():
            folder.put_blob(path / name, digest)
            done += 1
            if progress is not None:
                progress(done, total)
        for keyid in _further(trust, path):
            raw = (path / "signatures" / f"{keyid}.sig").read_bytes()
            folder.put(blob_name(_sha256(raw)), raw)
        signature = (path / SIGNATURE_FILE).read_bytes()
        folder.put(f"targets/bundles/{_sha256(signature)}.{identity}.sig", signature)
        for name in wraps[path]:
            raw = (path / "recipients" / name).read_bytes()
            if len(raw) in _WRAP_SIZES:
                folder.put_small(f"recipients/{identity}/{name[:2]}/{name}", raw)
            done += 1
            if progress is not None:
                progress(done, total)


def _wraps(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    return sorted(n for n in names if len(n) == 37 and n.endswith(".hpke") and set(n[:32]) <= set("0123456789abcdef"))


def _further(trust: TrustStore, bundle: Path) -> list[str]:
    """Return the release keys whose further signatures lie in a bundle."""
    files = {key.keyid: bundle / "signatures" / f"{key.keyid}.sig" for key in trust.role_keys(RELEASE)}
    return [k for k, p in files.items() if p.is_file() and 0 < p.stat().st_size <= MAX_SIGNATURE_BYTES]


def _sorted(offers: Any) -> tuple[Offer, ...]:
    return tuple(sorted(offers, key=lambda offer: offer.facts.sequence))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _ns(moment: Any) -> int:
    return int(moment.timestamp()) * NS_PER_S
