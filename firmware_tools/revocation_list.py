"""The bytes of a revocation list, built from what a person names. docs/formats/revocation.md section 2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgeguard.errors import BundleFormatError, ProvisioningError
from edgeguard.trust.dates import ns_to_date
from edgeguard.trust.floors import Place
from edgeguard.trust.revocation import LIST_SCHEMA, RevocationList, RevocationListFile
from edgeguard.trust.strict_json import canonical, convert


@dataclass(frozen=True, slots=True)
class Entries:
    """What is revoked. bundles: identities, hex. signers: key id to the identities still vouched for. devices: kids."""

    bundles: frozenset[str] = frozenset()
    signers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    devices: frozenset[str] = frozenset()
    floors: Mapping[str, Place] = field(default_factory=dict)

    @classmethod
    def of(cls, known: RevocationList) -> Entries:
        """Return the entries of a list."""
        return cls(known.bundles, dict(known.signers), known.devices, dict(known.floors))

    def plus(self, more: Entries) -> Entries:
        """Return both together; nothing is ever taken off, and a floor only rises.

        A signer that is named again keeps only the exceptions named now.
        """
        floors = dict(self.floors)
        for model_id, floor in more.floors.items():
            floors[model_id] = max(floor, floors.get(model_id, floor))
        return Entries(
            self.bundles | more.bundles, {**self.signers, **more.signers}, self.devices | more.devices, floors
        )


def list_bytes(fleet_id: str, place: Place, issued_ns: int, entries: Entries) -> bytes:
    """Return the canonical list.

    Raises:
        ProvisioningError: EG-P003, an entry cannot be used.
    """
    fields = {
        "schema": LIST_SCHEMA,
        "fleet_id": fleet_id,
        "epoch": str(place[0]),
        "version": str(place[1]),
        "issued": ns_to_date(issued_ns),
        "floors": {name: {"epoch": str(f[0]), "number": str(f[1])} for name, f in entries.floors.items()},
        "bundles": _sorted(entries.bundles),
        "signers": [{"keyid": k, "except": _sorted(v)} for k, v in sorted(entries.signers.items())],
        "devices": _sorted(entries.devices),
    }
    try:
        convert(fields, RevocationListFile, what="the revocation list")
        return canonical(fields)
    except BundleFormatError as error:
        reason = error.message
    raise ProvisioningError(reason, code="EG-P003", hint="docs/formats/revocation.md section 2 lists the fields")


def empty_list(fleet_id: str, issued_ns: int) -> bytes:
    """Return the first list of a fleet: nothing is revoked, and that is said."""
    return list_bytes(fleet_id, (0, 1), issued_ns, Entries())


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(set(names))
