"""EdgeGuard: hardens AI perception on devices their owner does not control.

The public names below are loaded on first use, so that ``import edgeguard`` stays cheap on a small board.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "AuditLog": "edgeguard.audit.log",
    "Check": "edgeguard.types",
    "CheckResult": "edgeguard.types",
    "EdgeGuardError": "edgeguard.errors",
    "Image": "edgeguard.types",
    "InferenceSession": "edgeguard.infer.session",
    "KeyProvider": "edgeguard.keys.provider",
    "Pipeline": "edgeguard.runtime.pipeline",
    "PointCloud": "edgeguard.types",
    "Restorer": "edgeguard.types",
    "Source": "edgeguard.types",
    "SyncedSet": "edgeguard.types",
    "TrustStore": "edgeguard.trust.store",
    "Verdict": "edgeguard.types",
    "load_config": "edgeguard.config",
    "open_model": "edgeguard.bundle.model",
}

__all__ = [
    "AuditLog",
    "Check",
    "CheckResult",
    "EdgeGuardError",
    "Image",
    "InferenceSession",
    "KeyProvider",
    "Pipeline",
    "PointCloud",
    "Restorer",
    "Source",
    "SyncedSet",
    "TrustStore",
    "Verdict",
    "load_config",
    "open_model",
]

if TYPE_CHECKING:
    from edgeguard.audit.log import AuditLog
    from edgeguard.bundle.model import open_model
    from edgeguard.config import load_config
    from edgeguard.errors import EdgeGuardError
    from edgeguard.infer.session import InferenceSession
    from edgeguard.keys.provider import KeyProvider
    from edgeguard.runtime.pipeline import Pipeline
    from edgeguard.trust.store import TrustStore
    from edgeguard.types import (
        Check,
        CheckResult,
        Image,
        PointCloud,
        Restorer,
        Source,
        SyncedSet,
        Verdict,
    )


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'edgeguard' has no attribute {name!r}")
