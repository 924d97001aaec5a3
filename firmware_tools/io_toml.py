"""`--io FILE`: how the model is fed and read, as TOML; the same fields as `io` in the signed manifest."""

from __future__ import annotations

import tomllib
from pathlib import Path

from edgeguard.bundle.manifest import ModelIo
from edgeguard.errors import BundleFormatError, ProvisioningError
from edgeguard.trust.strict_json import convert

MAX_IO_BYTES = 1024 * 1024  # thousands of labels


def read_model_io(path: Path | str) -> ModelIo:
    """Read the file.

    Raises:
        ProvisioningError: EG-P021, unreadable, not TOML, or a field is missing, unknown or out of range.
    """
    reason = ""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_IO_BYTES + 1)
        if len(raw) <= MAX_IO_BYTES:
            return convert(tomllib.loads(raw.decode("utf-8")), ModelIo, what=str(path))
        reason = f"{path} is larger than {MAX_IO_BYTES} bytes"
    except OSError as error:
        reason = f"cannot read {path}: {(error.strerror or 'unknown').lower()}"
    except (ValueError, RecursionError):
        reason = f"{path} is not TOML"
    except BundleFormatError as error:
        reason = error.message
    raise ProvisioningError(reason, code="EG-P021", hint="docs/formats/bundle.md section 4 lists the fields")
