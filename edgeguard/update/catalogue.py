"""The catalogue: which bundles a fleet has on offer, signed by its release keys. docs/formats/repository.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined] # documented re-exports

from edgeguard.bundle.manifest import Identifier
from edgeguard.errors import EdgeGuardError, TrustError
from edgeguard.trust.metadata import RELEASE, RELEASE_PQ
from edgeguard.trust.policy import Counter, Hex64
from edgeguard.trust.strict_json import convert

CATALOGUE_SCHEMA: Final = "edgeguard/catalogue/v1"
MAX_OFFERS: Final = 1000  # releases worth offering; a device reads all of them
MAX_SIGNATURE_BYTES: Final = 1024 * 1024
PREFIXES: Final = {RELEASE: "bundles/", RELEASE_PQ: "bundles-pq/"}
_SUFFIX: Final = ".sig"

Size = Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class FurtherSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `signatures/<keyid>.sig` of a bundle."""

    length: Annotated[int, msgspec.Meta(ge=1, le=MAX_SIGNATURE_BYTES)]
    sha256: Hex64


class OfferFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`custom` of a catalogue entry."""

    schema: Literal["edgeguard/catalogue/v1"]
    model_id: Identifier
    release: Identifier
    channel: Identifier
    boards: Annotated[tuple[Identifier, ...], msgspec.Meta(max_length=64)]
    counter: Counter
    sequence: Size
    bytes: Size
    signatures: Annotated[dict[Hex64, FurtherSignature], msgspec.Meta(max_length=32)]


@dataclass(frozen=True, slots=True)
class Offer:
    """One bundle on offer. identity: hex. length, sha256: of model.sig."""

    identity: str
    length: int
    sha256: str
    facts: OfferFacts

    @property
    def rank(self) -> tuple[tuple[int, int], int]:
        """What decides between two offers: counter, then the order of publishing."""
        return self.facts.counter.value, self.facts.sequence


def parse_catalogue(release: Targets, release_pq: Targets | None = None) -> tuple[Offer, ...]:
    """Return the offers of verified metadata; in a hybrid fleet both halves must say the same.

    Raises:
        TrustError: EG-T053.
    """
    offers = _offers(release, PREFIXES[RELEASE])
    if release_pq is not None and _offers(release_pq, PREFIXES[RELEASE_PQ]) != offers:
        raise TrustError("the two halves of the catalogue differ", code="EG-T053", hint="publish again")
    return offers


def target_files(offers: Sequence[Offer], role: str) -> dict[str, TargetFile]:
    """Return the targets that `role` signs for these offers; the reverse of `parse_catalogue`."""
    files: dict[str, TargetFile] = {}
    for offer in offers:
        path = f"{PREFIXES[role]}{offer.identity}{_SUFFIX}"
        custom: Mapping[str, Any] = {"custom": msgspec.to_builtins(offer.facts)}
        files[path] = TargetFile(offer.length, {"sha256": offer.sha256}, path, dict(custom))
    return files


def choose(offers: Sequence[Offer], *, model_id: str, channels: Sequence[str], board: str, identity: str = "") -> Offer:
    """Return the newest offer for this model and board, or the one with `identity`.

    Raises:
        TrustError: EG-T054, there is none.
    """
    fitting = [
        offer
        for offer in offers
        if offer.facts.model_id == model_id
        and offer.facts.channel in channels
        and (not offer.facts.boards or board in offer.facts.boards)
        and identity in ("", offer.identity)
    ]
    if not fitting:
        raise TrustError(
            f"the repository offers no bundle of {model_id} for this channel and board",
            code="EG-T054",
            hint="publish one with: edgeguard-provision publish FLEET REPOSITORY BUNDLE",
        )
    return max(fitting, key=lambda offer: offer.rank)


def _offers(targets: Targets, prefix: str) -> tuple[Offer, ...]:
    reason = ""
    try:
        offers = tuple(_offer(path, target, prefix) for path, target in sorted(targets.targets.items()))
        if len(offers) > MAX_OFFERS:
            reason = f"more than {MAX_OFFERS} bundles"
        elif len({offer.facts.sequence for offer in offers}) != len(offers):
            reason = "two bundles in one place of the order"
        else:
            return offers
    except EdgeGuardError as error:
        reason = error.message
    raise TrustError(f"the catalogue is refused: {reason}", code="EG-T053", hint="publish again")


def _offer(path: str, target: TargetFile, prefix: str) -> Offer:
    identity = path.removeprefix(prefix).removesuffix(_SUFFIX)
    digest = target.hashes.get("sha256", "")
    well_formed = path == f"{prefix}{identity}{_SUFFIX}" and _is_hex64(identity) and _is_hex64(digest)
    if not well_formed or not 0 < target.length <= MAX_SIGNATURE_BYTES or len(target.hashes) != 1:
        raise TrustError("an entry is no bundle", code="EG-T053")
    return Offer(identity, target.length, digest, convert(target.custom, OfferFacts, what="a catalogue entry"))


def _is_hex64(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
