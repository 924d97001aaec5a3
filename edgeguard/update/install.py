"""Fetch a bundle into the idle slot, span by span, and put it on trial. docs/formats/slots.md section 2."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from edgeguard.bundle.admission import gather
from edgeguard.bundle.manifest import SPAN_BYTES, Manifest, Payload
from edgeguard.bundle.signature import SIGNATURE_FILE, read_release_signed
from edgeguard.bundle.statement import Statement, parse_statement
from edgeguard.bundle.storage import DirectoryStorage
from edgeguard.bundle.verify import MAX_ATTESTATION_BYTES, MAX_MANIFEST_BYTES, verify_bundle
from edgeguard.clock import Clock, SystemClock
from edgeguard.errors import KeyUnavailableError, TrustError
from edgeguard.keys.context import WRAP_BYTES
from edgeguard.keys.provider import KeyProvider
from edgeguard.trust.revocation import LIST_FILE, METADATA_FILE
from edgeguard.trust.state import DeviceState
from edgeguard.trust.strict_json import convert, parse
from edgeguard.update.catalogue import Offer, choose
from edgeguard.update.client import Index
from edgeguard.update.slots import ModelSlots
from edgeguard.update.source import NotThereError, Source, read_all
from edgeguard.update.store_files import StoreFiles, store_errors

ATTEMPTS: Final = 3  # for a damaged span; more is a broken repository, not a broken line
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Installed:
    """What `install_model` did. fetched_bytes: came from the repository; kept_bytes: were here already."""

    identity: str
    slot: str
    release: str
    already_there: bool
    fetched_bytes: int
    kept_bytes: int


class ModelInstaller:
    """Brings bundles of a repository into the slots of a device.

    Args:
        index: what `UpdateClient.refresh` returned. key: the device's; only its kid and suite are used here.
        progress: called with (bytes done, bytes in all).
    """

    def __init__(
        self,
        store: StoreFiles,
        source: Source,
        index: Index,
        *,
        key: KeyProvider,
        state: DeviceState,
        clock: Clock | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._store = store
        self._source = source
        self._index = index
        self._key = key
        self._state = state
        self._clock = clock if clock is not None else SystemClock()
        self._progress = progress
        self._done = self._total = self._fetched = self._kept = 0

    def install(self, model_id: str, *, board: str = "", identity: str = "") -> Installed:
        """Put the newest bundle for this device on trial; what a cut has interrupted is gone on with.

        The floor does not rise: that is for `ModelSlots.mark_good` to do, after the health check.

        Args:
            identity: take exactly this bundle instead of the newest.

        Raises:
            TrustError: EG-T054 nothing on offer, EG-T055 the repository's files are not the signed ones, and every
                refusal of a load. KeyUnavailableError: EG-K003. UpdateError: EG-R001, EG-R002, EG-R004.
        """
        trust = self._index.trust
        offer = choose(
            self._index.offers, model_id=model_id, channels=trust.policy.channels, board=board, identity=identity
        )
        slots = ModelSlots(self._store, self._state, model_id)
        with store_errors(), self._store.locked():
            there = slots.holds(offer.identity)
            if there:
                return Installed(offer.identity, there, offer.facts.release, True, 0, offer.facts.bytes)
            self._require_worth_fetching(offer)
            wrap = self._wrap(offer)
            name = slots.begin_filling(offer.identity)
            folder = slots.folder(name)
            self._total = offer.facts.bytes
            self._fill(folder, offer, wrap)
            verified = verify_bundle(
                self._store.path(folder),
                trust,
                expect_model=model_id,
                board=board,
                wall_ns=self._clock.wall_ns(),
                state=self._state,
            )
            verified.admission.require_device(self._key.kid)
            slots.arm(name, verified.statement)
        return Installed(offer.identity, name, verified.statement.release, False, self._fetched, self._kept)

    def _require_worth_fetching(self, offer: Offer) -> None:
        """Refuse before anything is fetched or removed what the end would refuse: the catalogue says enough."""
        grounds = gather(None, self._index.trust, self._state, self._clock.wall_ns())
        grounds.require_device(self._key.kid)
        if offer.facts.counter.value < grounds.floor(offer.facts.model_id):
            raise TrustError("the newest bundle on offer is older than the fleet allows", code="EG-T015")
        if grounds.revocation is not None and offer.identity in grounds.revocation.bundles:
            raise TrustError("the bundle on offer has been revoked", code="EG-T023", hint="publish a newer release")

    def _wrap(self, offer: Offer) -> bytes:
        kid = self._key.kid
        try:
            return read_all(
                self._source, f"recipients/{offer.identity}/{kid[:2]}/{kid}.hpke", WRAP_BYTES[self._key.suite]
            )
        except NotThereError:
            pass
        raise KeyUnavailableError(
            "the repository holds no wrap for this device: never granted, or withheld",
            code="EG-K003",
            hint="on the provisioning host: edgeguard-provision grant FLEET BUNDLE DEVICE, then publish again",
        )

    def _fill(self, folder: str, offer: Offer, wrap: bytes) -> None:
        """Write everything of the bundle, small files first: each of them names the next."""
        remote = f"targets/bundles/{offer.sha256}.{offer.identity}.sig"
        self._small(f"{folder}/{SIGNATURE_FILE}", remote, offer.sha256, offer.length)
        self._store.make_folder(f"{folder}/signatures")
        for keyid, further in offer.facts.signatures.items():
            self._blob(f"{folder}/signatures/{keyid}.sig", further.sha256, further.length)
        for name in (METADATA_FILE, LIST_FILE):
            trust_file = self._store.read_at(f"trust/{name}", 0, 8 * 1024 * 1024)
            self._put(f"{folder}/signatures/{name}", trust_file)
        statement = self._statement(folder, offer)
        manifest = self._manifest(folder, statement)
        self._only(folder, statement.digests)
        for name in sorted(n for n in statement.digests if n.startswith("attestations/")):
            self._store.make_folder(f"{folder}/attestations")
            self._blob(f"{folder}/{name}", statement.digests[name], MAX_ATTESTATION_BYTES)
        self._store.make_folder(f"{folder}/recipients")
        self._put(f"{folder}/recipients/{self._key.kid}.hpke", wrap)
        self._store.make_folder(f"{folder}/payload")
        for payload in manifest.payloads:
            self._payload(folder, payload, statement.digests[f"payload/{payload.name}"])

    def _statement(self, folder: str, offer: Offer) -> Statement:
        """Return the signed statement; only from here on are digests to be had, so its signatures come first."""
        grounds = gather(None, self._index.trust, self._state, self._clock.wall_ns())
        with DirectoryStorage(self._store.path(folder)) as storage:
            raw, signers = read_release_signed(storage, self._index.trust, grounds.revokes_signer)
        identity = hashlib.sha256(raw).digest()
        if identity.hex() != offer.identity:
            raise TrustError("the bundle is not the one that the catalogue names", code="EG-T055")
        grounds.require_signers(signers, identity)
        return parse_statement(raw)

    def _manifest(self, folder: str, statement: Statement) -> Manifest:
        raw = self._blob(f"{folder}/manifest.json", statement.policy.manifest, MAX_MANIFEST_BYTES)
        return convert(parse(raw, what="manifest.json"), Manifest, what="manifest.json")

    def _only(self, folder: str, names: Iterable[str]) -> None:
        """Remove what an earlier attempt at this bundle left and the statement does not list."""
        listed = set(names)
        for sub in ("payload", "attestations"):
            for name in self._store.names(f"{folder}/{sub}"):
                if f"{sub}/{name}" not in listed:
                    self._store.remove(f"{folder}/{sub}/{name}")
        for name in self._store.names(f"{folder}/recipients"):
            self._store.remove(f"{folder}/recipients/{name}")
        for name in self._store.names(folder):
            if name not in ("model.sig", "manifest.json", "payload", "attestations", "recipients", "signatures"):
                self._store.remove(f"{folder}/{name}")

    def _payload(self, folder: str, payload: Payload, digest: str) -> None:
        name = f"{folder}/payload/{payload.name}"
        remote = f"blobs/{digest[:2]}/{digest}"
        first = self._good_spans(name, payload)
        here = min(first * SPAN_BYTES, payload.ciphertext_bytes)
        self._kept += here
        self._count(here)
        for number in range(first, len(payload.spans)):
            start = number * SPAN_BYTES
            length = min(SPAN_BYTES, payload.ciphertext_bytes - start)
            self._store.write_at(name, start, self._span(remote, start, length, payload.spans[number]))
            self._count(length)

    def _good_spans(self, name: str, payload: Payload) -> int:
        """Return how many spans from the start are here and hash right."""
        size = min(self._store.size(name), payload.ciphertext_bytes)
        for number, digest in enumerate(payload.spans):
            start = number * SPAN_BYTES
            length = min(SPAN_BYTES, payload.ciphertext_bytes - start)
            if start + length > size or _sha256(self._store.read_at(name, start, length)) != digest:
                return number
        return len(payload.spans)

    def _span(self, remote: str, start: int, length: int, digest: str) -> bytes:
        """Fetch one span; damaged ones again, a few times."""
        for _ in range(ATTEMPTS):
            content = bytearray()
            with closing(self._source.stream(remote, start, length)) as pieces:  # type: ignore[type-var]
                for piece in pieces:
                    content += piece
                    if len(content) > length:
                        break
            self._fetched += len(content)
            if _sha256(bytes(content)) == digest:
                return bytes(content)
        raise _damaged(remote)

    def _small(self, name: str, remote: str, digest: str, limit: int) -> bytes:
        """Return a whole file, from the slot where it is right, else fetched and written there."""
        size = self._store.size(name)
        if 0 <= size <= limit and _sha256(here := self._store.read_at(name, 0, size)) == digest:
            self._kept += size
            self._count(size)
            return here
        for _ in range(ATTEMPTS):
            content = read_all(self._source, remote, limit)
            self._fetched += len(content)
            if _sha256(content) == digest:
                self._store.write_whole(name, content)
                self._count(len(content))
                return content
        raise _damaged(remote)

    def _blob(self, name: str, digest: str, limit: int) -> bytes:
        return self._small(name, f"blobs/{digest[:2]}/{digest}", digest, limit)

    def _put(self, name: str, content: bytes) -> None:
        if self._store.size(name) != len(content) or self._store.read_at(name, 0, len(content)) != content:
            self._store.write_whole(name, content)

    def _count(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _damaged(remote: str) -> TrustError:
    return TrustError(
        f"{remote} is not the signed one, also after {ATTEMPTS} attempts",
        code="EG-T055",
        hint="publish the bundle again: edgeguard-provision publish FLEET REPOSITORY BUNDLE",
    )
