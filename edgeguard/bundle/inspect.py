"""What a bundle says about itself. Nothing here is verified, and the value says so."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeguard.bundle.dsse import STATEMENT_TYPE
from edgeguard.bundle.manifest import Manifest
from edgeguard.bundle.signature import MAX_SIGNATURE_BYTES, SIGNATURE_FILE, parse_signed
from edgeguard.bundle.statement import Policy, parse_statement
from edgeguard.bundle.storage import DirectoryStorage
from edgeguard.bundle.verify import MAX_MANIFEST_BYTES
from edgeguard.trust.strict_json import convert, parse


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """Claims of an unverified bundle. identity: hex. signer: key id that the signature names."""

    identity: str
    signer: str
    policy: Policy
    manifest: Manifest
    verified: Literal[False] = False


def inspect_bundle(path: Path | str) -> BundleFacts:
    """Read the claims of a bundle without trusting them.

    Raises:
        UnprotectedModelError: a plain model file. BundleFormatError: not of this format.
    """
    with DirectoryStorage(path) as storage:
        raw = storage.read_small(SIGNATURE_FILE, MAX_SIGNATURE_BYTES)
        signed = parse_signed(raw, STATEMENT_TYPE, what=SIGNATURE_FILE)
        manifest_raw = storage.read_small("manifest.json", MAX_MANIFEST_BYTES)
    return BundleFacts(
        identity=hashlib.sha256(signed.payload).hexdigest(),
        signer=signed.claimed.keyid,
        policy=parse_statement(signed.payload).policy,
        manifest=convert(parse(manifest_raw, what="manifest.json"), Manifest, what="manifest.json"),
    )
