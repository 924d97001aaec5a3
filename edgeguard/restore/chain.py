"""Runs restorers in their configured order and builds the built-in ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from edgeguard.config import RestoreConfig
from edgeguard.errors import ConfigError
from edgeguard.restore.chain_file import read_chain_file, restorer_of
from edgeguard.restore.cloud_chain import SCATTERED_RETURNS, CloudRestorer
from edgeguard.restore.impulse import ImpulseMedian
from edgeguard.restore.isolated import IsolatedReturns
from edgeguard.types import Restoration, Restorer, Sample, SyncedSet

if TYPE_CHECKING:
    from edgeguard.restore.diagnose import Limits


def _diagnosed(limits: Limits | None) -> Restorer:
    # Only where it is asked for: its kernels are compiled code, which takes longer to load than the rest of the chain.
    from edgeguard.restore.diagnosed import DiagnosedFrames

    return DiagnosedFrames(limits)


_BUILDERS: Mapping[str, Callable[[RestoreConfig, Limits | None], Restorer]] = MappingProxyType({
    ImpulseMedian.name: lambda config, limits: ImpulseMedian(),  # noqa: ARG005 - nothing about it is configurable
    "diagnosed": lambda config, limits: _diagnosed(limits),  # noqa: ARG005 - its limits are calibrated, not configured
    SCATTERED_RETURNS.name: lambda config, limits: CloudRestorer(SCATTERED_RETURNS),  # noqa: ARG005 - its own caps
    IsolatedReturns.name: lambda config, limits: IsolatedReturns(max_removed_share=config.max_removed_share),  # noqa: ARG005
})  # fmt: skip


@runtime_checkable
class SeriesRepair(Protocol):
    """A restorer that also works on series: everything a sensor sent since the tick before."""

    sensor: str

    def restart(self) -> None: ...

    def apply_series(self, series: Sequence[Sample]) -> tuple[Sequence[Sample], Restoration]: ...


def build_restorers(config: RestoreConfig, limits: Limits | None = None) -> tuple[Restorer, ...]:
    """Return the restorers that `config.chain` names, in that order: built-in ones, and chains of `config.chains`.

    limits: of this camera, for `diagnosed`; None takes what no healthy camera reaches.

    Raises:
        ConfigError: EG-C052: a name is not known, is there twice, or is that of a built-in one and of a chain. What
            reading the file of chains raises.
    """
    own = {chain.name: chain for chain in (read_chain_file(Path(config.chains)) if config.chains else ())}
    for name in own.keys() & _BUILDERS.keys():
        raise ConfigError(f"a built-in restorer is called {name!r}", code="EG-C052", hint="name the chain differently")
    for name in config.chain:
        if name not in _BUILDERS and name not in own:
            known = ", ".join(sorted((*_BUILDERS, *own)))
            raise ConfigError(f"no restorer is called {name!r}", code="EG-C052", hint=f"known: {known}")
    if len(set(config.chain)) != len(config.chain):
        raise ConfigError("a restorer is named twice in restore.chain", code="EG-C052", hint="name it once")
    return tuple(restorer_of(own[name]) if name in own else _BUILDERS[name](config, limits) for name in config.chain)


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

    def restore(self, synced: SyncedSet) -> tuple[SyncedSet, tuple[Restoration, ...]]:
        """Return a tick after restoration, samples and series, and what was changed; itself when nothing was.

        The sample of a sensor whose series was repaired is the repaired one.
        """
        samples, done = self.apply(synced.samples, synced.tick.frame)
        series, repaired = self._repair(synced)
        if not done and not repaired:
            return synced, ()
        current = dict(samples)
        for restoration in repaired:
            old, new = synced.series[restoration.sensor], series[restoration.sensor]
            for before, after in zip(old, new, strict=True):
                if current.get(restoration.sensor) is before:
                    current[restoration.sensor] = after
        return replace(synced, samples=MappingProxyType(current), series=series), (*done, *repaired)

    def _repair(self, synced: SyncedSet) -> tuple[Mapping[str, Sequence[Sample]], tuple[Restoration, ...]]:
        series, done = dict(synced.series), []
        for restorer in self._restorers:
            if not isinstance(restorer, SeriesRepair):
                continue
            if synced.tick.discontinuity:
                restorer.restart()
            given = series.get(restorer.sensor, ())
            if not given:
                continue
            series[restorer.sensor], restoration = restorer.apply_series(given)
            if restoration.changed_share > 0.0:
                done.append(restoration)
        return MappingProxyType(series), tuple(done)

    def _frame_seed(self, frame: int, position: int) -> int:
        """Independent per frame and restorer, so that inserting one does not shift the others' randomness in time."""
        message = f"edgeguard/restore/{self._seed}/{frame}/{position}".encode()
        return int.from_bytes(hashlib.sha256(message).digest()[:8], "big")
