"""Runs restorers in their configured order and builds the built-in ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from edgeguard.config import RestoreConfig
from edgeguard.errors import ConfigError
from edgeguard.restore.impulse import ImpulseMedian
from edgeguard.restore.isolated import IsolatedReturns
from edgeguard.types import Restoration, Restorer, Sample

_BUILDERS: Mapping[str, Callable[[RestoreConfig], Restorer]] = MappingProxyType({
    ImpulseMedian.name: lambda config: ImpulseMedian(),  # noqa: ARG005 - nothing about it is configurable yet
    IsolatedReturns.name: lambda config: IsolatedReturns(max_removed_share=config.max_removed_share),
})  # fmt: skip


def build_restorers(config: RestoreConfig) -> tuple[Restorer, ...]:
    """Return the restorers that `config.chain` names, in that order.

    Raises:
        ConfigError: a name is not known, or is there twice.
    """
    for name in config.chain:
        if name not in _BUILDERS:
            known = ", ".join(sorted(_BUILDERS))
            raise ConfigError(f"no restorer is called {name!r}", code="EG-C052", hint=f"known: {known}")
    if len(set(config.chain)) != len(config.chain):
        raise ConfigError("a restorer is named twice in restore.chain", code="EG-C052", hint="name it once")
    return tuple(_BUILDERS[name](config) for name in config.chain)


class RestoreChain:
    """Applies each restorer to the sample of its sensor, one after the other.

    Args:
        restorers: in order; a later one sees what an earlier one of the same sensor made.
        seed: root of the per-frame seeds. Equal seed, frame and sample give an equal result.
    """

    def __init__(self, restorers: Sequence[Restorer], seed: int) -> None:
        self._restorers = tuple(restorers)
        self._seed = seed

    def apply(
        self, samples: Mapping[str, Sample | None], frame: int
    ) -> tuple[Mapping[str, Sample | None], tuple[Restoration, ...]]:
        """Return the samples after restoration and what was changed; untouched samples are the same objects.

        Only restorations that changed something are listed.
        """
        restored = dict(samples)
        done: list[Restoration] = []
        for position, restorer in enumerate(self._restorers):
            sample = restored.get(restorer.sensor)
            if sample is None:
                continue
            restored[restorer.sensor], restoration = restorer.apply(sample, self._frame_seed(frame, position))
            if restoration.changed_share > 0.0:
                done.append(restoration)
        return (MappingProxyType(restored) if done else samples), tuple(done)

    def _frame_seed(self, frame: int, position: int) -> int:
        """Independent per frame and restorer, so that inserting one does not shift the others' randomness in time."""
        message = f"edgeguard/restore/{self._seed}/{frame}/{position}".encode()
        return int.from_bytes(hashlib.sha256(message).digest()[:8], "big")
