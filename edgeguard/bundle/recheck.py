"""`ModelWatch`: is a model that runs still allowed to? For processes that live longer than a revocation list.

Cheap enough for every frame: between two looks at the trust folder it compares numbers. docs/formats/revocation.md
section 5.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from edgeguard.bundle.admission import Admission, gather
from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import EdgeGuardError, TrustError
from edgeguard.keys.provider import VerifiedStatement
from edgeguard.trust.revocation import LIST_FILE, METADATA_FILE, newest
from edgeguard.trust.state import DeviceState
from edgeguard.trust.store import RELEASE, TrustStore

LOOK_EVERY_NS: Final = NS_PER_S  # a revoked model runs for at most this long after the list has arrived
_WATCHED: Final = (METADATA_FILE, LIST_FILE, "targets.json", "policy.json")


class ModelWatch:
    """Callable between frames; raises once the model must stop, and from then on.

    Args:
        folder: the trust folder; a newer list, policy or floor that appears there is taken over, also into the state.
            A folder that does not verify (one that is just being copied, say) teaches nothing: what was known stays
            in force, and grows older.
        trust, statement: as the model was opened. kid: this device's key id.
        clock: injected; its wall time is never judged earlier than a signed time.
        state: what this device remembers. Without one only the trust folder is known, not a list that came in a bundle.

    Example::

        watch = ModelWatch(folder, trust, session.statement, kid=key.kid, clock=clock, state=state)
        with Pipeline(config, sources, clock, model=ImageModel.of(session), recheck=watch.recheck) as pipeline:
            ...
    """

    def __init__(
        self,
        folder: Path | str,
        trust: TrustStore,
        statement: VerifiedStatement,
        *,
        kid: str,
        clock: Clock,
        state: DeviceState | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._trust = trust
        self._statement = statement
        self._kid = kid
        self._clock = clock
        self._state = state
        self._seen: tuple[object, ...] | None = None
        self._next_look_ns = clock.now_ns()
        self._admission: Admission | None = None

    def recheck(self) -> None:
        """Judge the running model again.

        Raises:
            TrustError: EG-T004 trust expired, EG-T014 model expired, EG-T015 below a raised floor, EG-T020, EG-T023
                revoked, EG-T024 its signer is, EG-T025 this device is, EG-T027 list too old; those of the state.
        """
        if self._clock.now_ns() >= self._next_look_ns:
            self._next_look_ns = self._clock.now_ns() + LOOK_EVERY_NS
            self._look()
        clock_ns = self._clock.wall_ns()
        if self._admission is None:
            self._admission = self._grounds(clock_ns)
        judged = self._admission.at(clock_ns)
        judged.require_current()
        judged.require_running(self._statement)
        judged.require_device(self._kid)
        self._require_signers(judged)

    def _grounds(self, clock_ns: int) -> Admission:
        """Take over what is new. A full disk does not stop what runs; the next opening fails on it."""
        try:
            return gather(None, self._trust, self._state, clock_ns)
        except TrustError as error:
            if error.code != "EG-T033" or self._state is None:
                raise
        return Admission(
            self._trust, self._state, newest(self._trust, self._state.revocation, self._trust.revocation), clock_ns
        )

    def _look(self) -> None:
        """Load the trust folder again when something in it has changed."""
        seen = tuple(self._stamp(name) for name in _WATCHED)
        if seen == self._seen:
            return
        self._seen = seen
        with suppress(EdgeGuardError):
            newer = TrustStore.load(self._folder, self._clock.wall_ns(), expect_fleet=self._trust.fleet_id)
            if all(new >= old for new, old in zip(_place(newer), _place(self._trust), strict=True)):
                self._trust = newer
                self._admission = None

    def _stamp(self, name: str) -> object:
        try:
            status = os.stat(self._folder / name, follow_symlinks=False)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _require_signers(self, judged: Admission) -> None:
        """A key that was rotated away does not stop a model; one that is revoked does."""
        statement = self._statement
        good = {k for k in statement.signers if not judged.revokes_signer(k, statement.identity)}
        if len(good) == len(statement.signers):
            return
        keys = [key for key in judged.trust.role_keys(RELEASE) if key.keyid in good]
        if not all(group.is_met_by(key.public_der for key in keys) for group in judged.trust.groups[RELEASE]):
            raise TrustError("the model is signed by a revoked key", code="EG-T024", hint="install a newer release")


def _place(trust: TrustStore) -> tuple[tuple[int, int], ...]:
    """Return what must not go back: of list, root and targets."""
    listed = trust.revocation.place if trust.revocation is not None else (0, 0)
    return listed, (0, trust.root_version), (0, trust.targets_version)
