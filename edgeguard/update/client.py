"""`UpdateClient`: bring trust and catalogue of a device up to date. docs/formats/repository.md section 4.

python-tuf's client walks the repository from the pinned root; what it accepted is then read again as this project
reads metadata: strictly, by typed key groups, at effective time, and against the device state.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tuf.api.metadata import Root, Signed, Snapshot, Targets, Timestamp  # type: ignore[attr-defined] # re-exports
from tuf.ngclient.updater import Updater

from edgeguard.clock import NS_PER_S, Clock, SystemClock
from edgeguard.errors import TrustError
from edgeguard.trust.dates import date_to_ns
from edgeguard.trust.files import read_directory_file
from edgeguard.trust.metadata import HINT, RELEASE, RELEASE_PQ, groups, parse_metadata, require_signed
from edgeguard.trust.revocation import LIST_FILE, LIST_TARGET, MAX_LIST_BYTES, METADATA_FILE, newest
from edgeguard.trust.signed_time import effective_ns
from edgeguard.trust.state import DeviceState
from edgeguard.trust.store import MAX_POLICY_BYTES, MAX_ROOT_BYTES, MAX_TARGETS_BYTES, TrustStore
from edgeguard.update.catalogue import PREFIXES, Offer, parse_catalogue
from edgeguard.update.source import Source, read_all
from edgeguard.update.store_files import StoreFiles, store_errors
from edgeguard.update.tuf_client import MAX_SNAPSHOT_BYTES, MAX_TIMESTAMP_BYTES, expired, make_updater, tuf_refusals
from edgeguard.update.versions import SeenVersion, keys_digest, remember, require_not_older

TRUST_LINK: Final = "trust"
CACHE: Final = "tuf"
POLICY: Final = "policy.json"
_ROOTS: Final = "root_history"
_NOBODY: Final = "-"  # a name that no bundle has: asking for it makes the TUF client load the role


@dataclass(frozen=True, slots=True)
class Index:
    """A verified, fresh repository. trust_folder: where the newest trust lies now. expires_ns: when it is stale."""

    trust: TrustStore
    trust_folder: Path
    offers: tuple[Offer, ...]
    expires_ns: int


class UpdateClient:
    """One device and one repository.

    Args:
        store: the device's store. source: the repository.
        pinned: the trust folder the device was provisioned with; of it only the root is believed here.
        state: what the device remembers. clock: never judged earlier than a signed time.
    """

    def __init__(
        self, store: StoreFiles, source: Source, *, pinned: Path | str, state: DeviceState, clock: Clock | None = None
    ) -> None:
        self._store = store
        self._source = source
        self._pinned = Path(pinned)
        self._state = state
        self._clock = clock if clock is not None else SystemClock()

    def refresh(self) -> Index:
        """Fetch and verify what is new; take it over into the trust folder of the store and the device state.

        After an error, and after a power cut at any point, the trust and state from before are in force, or the new.

        Raises:
            UpdateError: EG-R001, EG-R002, EG-R004. TrustError: EG-T050 ... EG-T053, and those of `TrustStore.load`
                and `DeviceState.observe`.
        """
        with store_errors(), self._store.locked():
            self._store.make_folder(CACHE)
            self._drop_old_folders()  # what a refusal or a power cut has left
            fetched = self._fetch()
            folder = self._staged(fetched)
            index, seen = self._judged(folder)
            if folder.name != TRUST_LINK:
                self._store.point(TRUST_LINK, folder.name)
            self._drop_old_folders()
            self._state.observe(index.trust, index.trust.revocation)
            remember(self._state, seen)
        return index

    def _fetch(self) -> dict[str, bytes]:
        """Run the TUF workflow; return the files of a trust folder by their names there."""
        cache = self._store.path(CACHE)
        root = read_directory_file(self._pinned, "1.root.json", MAX_ROOT_BYTES, hint=HINT)
        with tuf_refusals():
            updater = make_updater(cache, self._source, root=root)
            updater.refresh()
            files = {POLICY: self._target(updater, POLICY, POLICY, MAX_POLICY_BYTES)}
            files[LIST_FILE] = self._target(updater, LIST_TARGET, LIST_FILE, MAX_LIST_BYTES)
            for prefix in PREFIXES.values():
                updater.get_targetinfo(prefix + _NOBODY)
        files[METADATA_FILE] = self._cached("revocation.json", MAX_TARGETS_BYTES)
        files["targets.json"] = self._cached("targets.json", MAX_TARGETS_BYTES)
        newest_root = parse_metadata(self._cached("root.json", MAX_ROOT_BYTES, link=True), Root, "root").signed
        for version in range(1, newest_root.version + 1):
            name = f"{version}.root.json"
            files[name] = read_directory_file(cache / _ROOTS, name, MAX_ROOT_BYTES, hint=HINT)
        return files

    def _target(self, updater: Updater, path: str, name: str, limit: int) -> bytes:
        """Return a small target: the copy in the trust folder where it is the listed one, else from the repository."""
        info = updater.get_targetinfo(path)
        if info is None:
            raise TrustError(f"the repository lists no {path}", code="EG-T050", hint="publish again")
        here = self._store.path(TRUST_LINK)
        known = read_directory_file(here, name, limit, hint=HINT, optional=True) if here.is_dir() else None
        folder, _, base = path.rpartition("/")
        digest = info.hashes.get("sha256", "")
        remote = "/".join(part for part in ("targets", folder, f"{digest}.{base}") if part)
        if known is not None and len(known) == info.length:
            try:
                info.verify_length_and_hashes(known)
                return known
            except Exception:  # noqa: S110 - an older one: fetched again
                pass
        content = read_all(self._source, remote, min(limit, info.length))
        info.verify_length_and_hashes(content)
        return content

    def _cached(self, name: str, limit: int, *, link: bool = False) -> bytes:
        cache = self._store.path(CACHE)
        # The TUF client makes root.json a link into its history.
        path = (cache / name).resolve() if link else cache / name
        return read_directory_file(path.parent, path.name, limit, hint=HINT)

    def _staged(self, files: dict[str, bytes]) -> Path:
        """Return a folder of the store that holds these files: the present one when nothing is new."""
        present = self._store.names(TRUST_LINK)
        if present == sorted(files) and all(
            self._store.read_at(f"{TRUST_LINK}/{n}", 0, len(c) + 1) == c for n, c in files.items()
        ):
            return self._store.path(TRUST_LINK)
        numbers = [int(n.partition(".")[2]) for n in self._store.names("") if _is_trust_folder(n)]
        name = f"{TRUST_LINK}.{max(numbers, default=0) + 1}"
        self._store.make_folder(name)
        for file, content in files.items():
            self._store.write_whole(f"{name}/{file}", content)
        return self._store.path(name)

    def _judged(self, folder: Path) -> tuple[Index, dict[str, SeenVersion]]:
        """Read everything again as this project reads it; return what holds."""
        state, clock_ns = self._state, self._clock.wall_ns()
        now_ns = state.effective_ns(clock_ns)
        trust = TrustStore.load(folder, now_ns, expect_fleet=state.fleet_id)
        if trust.revocation is None:
            raise TrustError(
                trust.revocation_refusal or "the repository carries no revocation list",
                code="EG-T021",
                hint="sign one with: edgeguard-provision revoke FLEET, and publish again",
            )
        state.require_not_older(trust)
        newest(trust, state.revocation, trust.revocation)
        issued_ns = date_to_ns(trust.policy.issued, what="issued")
        now_ns = effective_ns(now_ns, issued_ns, trust.revocation.issued_ns)
        trust.require_valid(now_ns)
        root = parse_metadata(
            read_directory_file(folder, f"{trust.root_version}.root.json", MAX_ROOT_BYTES, hint=HINT), Root, "root"
        ).signed
        targets = parse_metadata(
            read_directory_file(folder, "targets.json", MAX_TARGETS_BYTES, hint=HINT), Targets, "targets"
        ).signed
        signed: dict[str, Signed] = {}
        timestamp = parse_metadata(self._cached("timestamp.json", MAX_TIMESTAMP_BYTES), Timestamp, "timestamp")
        snapshot = parse_metadata(self._cached("snapshot.json", MAX_SNAPSHOT_BYTES), Snapshot, "snapshot")
        require_signed(root, "timestamp", timestamp, "timestamp")
        require_signed(root, "snapshot", snapshot, "snapshot")
        signed |= {"timestamp": timestamp.signed, "snapshot": snapshot.signed}
        keys = {role: keys_digest(trust.top_groups[role]) for role in signed}
        halves: dict[str, Targets] = {}
        for role in (RELEASE, RELEASE_PQ):
            if role in ((targets.delegations and targets.delegations.roles) or {}):
                half = parse_metadata(self._cached(f"{role}.json", MAX_TARGETS_BYTES), Targets, role)
                require_signed(targets, role, half, role)
                halves[role] = half.signed
                keys[role] = keys_digest(groups(targets, role))
        signed |= halves
        for role, metadata in signed.items():
            if now_ns >= int(metadata.expires.timestamp()) * NS_PER_S:
                raise expired(role)
        seen = {role: SeenVersion(keys[role], metadata.version) for role, metadata in signed.items()}
        require_not_older(state, seen)
        offers = parse_catalogue(halves[RELEASE], halves.get(RELEASE_PQ))
        expires_ns = min(int(m.expires.timestamp()) * NS_PER_S for m in signed.values())
        return Index(trust, self._store.path(TRUST_LINK), offers, expires_ns), seen

    def _drop_old_folders(self) -> None:
        current = self._store.path(TRUST_LINK).resolve().name
        for name in self._store.names(""):
            if _is_trust_folder(name) and name != current:
                self._store.remove(name)


def current_trust_folder(store: StoreFiles, pinned: Path | str, fleet_id: str) -> Path:
    """Return the newest trust folder of a device: that of its store, or the one it was provisioned with.

    Only the pinned fleet's is taken. Which is too old is for the device state to say.
    """
    here = store.path(TRUST_LINK)
    if not here.is_dir():
        return Path(pinned)
    try:
        newer, older = (TrustStore.load(folder, 0, expect_fleet=fleet_id) for folder in (here, Path(pinned)))
    except TrustError:
        return Path(pinned)
    ahead = (newer.root_version, newer.targets_version) >= (older.root_version, older.targets_version)
    return here if ahead else Path(pinned)


def _is_trust_folder(name: str) -> bool:
    return name.startswith(f"{TRUST_LINK}.") and name.partition(".")[2].isascii() and name.partition(".")[2].isdigit()
