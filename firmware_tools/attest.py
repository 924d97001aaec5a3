"""What `attest` keys say about a model, and the golden data of its health check, read from a person's files.

docs/formats/bundle.md sections 2a and 5a.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeguard.bundle.attestations import ATTESTATIONS_FOLDER, attestation_payload
from edgeguard.bundle.dsse import STATEMENT_TYPE, pae
from edgeguard.bundle.golden import DEFAULT_ATOL, DEFAULT_RTOL, MAX_GOLDEN_BYTES, Golden, encode_golden
from edgeguard.bundle.signature import encode_signed
from edgeguard.errors import BundleFormatError, ProvisioningError
from edgeguard.trust.store import ATTEST, TrustStore
from edgeguard.trust.strict_json import parse
from firmware_tools.fleet import Fleet

MAX_PREDICATE_BYTES = 512 * 1024  # twice in base64 it still fits an attestation


def attestation_files(
    fleet: Fleet,
    trust: TrustStore,
    predicates: Mapping[str, Mapping[str, Any]],
    model_id: str,
    manifest_digest: str,
) -> dict[str, bytes]:
    """Return the signed attestation files by their names in the bundle; one file per predicate type and key.

    Raises:
        BundleFormatError: a predicate that cannot be put into a statement. ProvisioningError: EG-P005, keys missing.
    """
    files: dict[str, bytes] = {}
    for number, (predicate_type, predicate) in enumerate(sorted(predicates.items())):
        payload = attestation_payload(predicate_type, predicate, model_id=model_id, manifest_digest=manifest_digest)
        for index, signer in enumerate(fleet.signing_set(ATTEST, trust)):
            signature = signer.sign(pae(STATEMENT_TYPE, payload))
            content = encode_signed(payload, STATEMENT_TYPE, signer.public_key().keyid, signature)
            files[f"{ATTESTATIONS_FOLDER}/{number:02d}-{index:02d}.json"] = content
    return files


def read_predicate(path: Path) -> dict[str, Any]:
    """Read a predicate, such as a CycloneDX document, from a JSON file.

    Raises:
        ProvisioningError: EG-P024, unreadable, too large, or no JSON object.
    """
    reason = ""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_PREDICATE_BYTES + 1)
        value = parse(raw, what=str(path), require_canonical=False) if len(raw) <= MAX_PREDICATE_BYTES else None
        if isinstance(value, dict):
            return value
        reason = f"{path} is no JSON object of at most {MAX_PREDICATE_BYTES} bytes"
    except OSError as error:
        reason = f"cannot read {path}: {(error.strerror or 'unknown').lower()}"
    except BundleFormatError as error:
        reason = error.message
    raise ProvisioningError(reason, code="EG-P024")


def read_golden(path: Path) -> bytes:
    """Read golden data from an npz with arrays `input.NAME` and `output.NAME` and, optional, scalars `rtol`, `atol`.

    Raises:
        ProvisioningError: EG-P025, unreadable, or not such a file.
    """
    reason = ""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if sum(info.file_size for info in zipfile.ZipFile(path).infolist()) > MAX_GOLDEN_BYTES:
                raise BundleFormatError(f"larger than {MAX_GOLDEN_BYTES} bytes")
            arrays = {name: np.asarray(stored[name]) for name in stored.files}
        rtol = float(arrays.pop("rtol", np.float64(DEFAULT_RTOL)))
        atol = float(arrays.pop("atol", np.float64(DEFAULT_ATOL)))
        sides = {"input": {}, "output": {}}  # type: dict[str, dict[str, Any]]
        for name, value in arrays.items():
            side, _, tensor = name.partition(".")
            sides[side][tensor] = value
        return encode_golden(Golden(sides["input"], sides["output"], rtol, atol))
    except OSError as error:
        reason = (error.strerror or "not an npz file").lower()
    except BundleFormatError as error:
        reason = error.message
    except KeyError:
        reason = "arrays are named input.NAME and output.NAME"
    except (ValueError, TypeError, zipfile.BadZipFile, AttributeError):
        reason = "not an npz file of plain arrays"
    raise ProvisioningError(f"{path} is no golden data: {reason}", code="EG-P025")
