"""`DeviceState`: what a device remembers, so that old is never taken for new. docs/formats/device-state.md.

* Created with the device's key, or again by a token of the `enrol` role, and by nothing else; a missing state is an
  integrity failure, never a first boot.
* Authenticated with a secret that needs the device's private key; bound to device and fleet.
* Every change reads the state again under a lock, writes it whole, and counts one generation.
* Floors, versions and the time floor only ever rise.

Example::

    state = DeviceState.open("/var/lib/edgeguard/state", key=key, fleet_id=trust.fleet_id)
    with InferenceSession(bundle, trust=trust, key=key, expect_model="road-objects", state=state) as session:
        ...  # health check
        state.commit(session.statement)
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn, Self

import msgspec

from edgeguard.errors import TrustError
from edgeguard.keys.provider import KeyProvider, VerifiedStatement
from edgeguard.trust.counter import MonotonicCounter
from edgeguard.trust.dates import date_to_ns, ns_to_date
from edgeguard.trust.floors import Place, exceeds_step
from edgeguard.trust.policy import Counter
from edgeguard.trust.revocation import MAX_LIST_BYTES, RevocationList, newest, parse_list
from edgeguard.trust.signed_time import effective_ns
from edgeguard.trust.state_files import FolderFiles, StateFiles
from edgeguard.trust.state_record import (
    MAX_STATE_BYTES,
    ListInForce,
    ModelFloor,
    Seen,
    StateRecord,
    seal,
    unseal,
)
from edgeguard.trust.state_token import StateToken, verified_token
from edgeguard.trust.store import TrustStore

STATE_FILE: Final = "device.state"
_LIST_PREFIX: Final = "revocation-"
_PARTIAL_SUFFIX: Final = ".new"
# The revocation keys are online and a list holds tens of thousands of floors; what the state remembers of them is
# bounded, so that a thief of those keys cannot make it grow beyond MAX_STATE_BYTES, after which it would never open.
MAX_LISTED_MODELS: Final = 4096
# What the system says about the caller, and not about what lies there.
_SAYS_NOTHING: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EAGAIN})
_ZERO: Final = ModelFloor(Counter("0", "0"))

# One message for a state that is missing, edited, cut, cloned, foreign or old: failing tells nothing.
UNTRUSTED: Final = "the device state cannot be trusted"
UNDETECTED: Final = (
    "no monotonic counter: restoring an old image of the whole disk, this state included, is not detected"
)


class DeviceState:
    """The state of one device in one fleet. Make one with `create` (once) or `open`.

    Attributes:
        kid, fleet_id: whose it is.
    """

    def __init__(
        self, files: StateFiles, key: KeyProvider, fleet_id: str, counter: MonotonicCounter | None, record: StateRecord
    ) -> None:
        """For `create` and `open` alone."""
        self._files = files
        self._key = key
        self._counter = counter
        self.kid: str = key.kid
        self.fleet_id: str = fleet_id
        self._record = record
        self._list: RevocationList | None = None

    @classmethod
    def create(
        cls,
        folder: Path | str | StateFiles,
        *,
        key: KeyProvider,
        trust: TrustStore,
        counter: MonotonicCounter | None = None,
    ) -> Self:
        """Make the state of a new device; call at enrolment or staging and nowhere else.

        Its floors are those the fleet has signed. With a counter, the state becomes its next generation, so that no
        state made before is accepted again.

        Raises:
            TrustError: EG-T033 cannot be written, EG-T034 there is one already, EG-T035 the counter does not answer.
        """
        with _errors_as("EG-T033", "the device state cannot be written"):
            files = FolderFiles(folder, make=True) if isinstance(folder, (str, Path)) else folder
            with files.locked():
                if files.read(STATE_FILE, 1) is not None:
                    raise TrustError("there is a device state already", code="EG-T034", hint="it is never replaced")
                return cls._new(files, key, trust, counter, None)

    @classmethod
    def recover(
        cls,
        folder: Path | str | StateFiles,
        *,
        key: KeyProvider,
        trust: TrustStore,
        token: bytes,
        clock_ns: int,
        counter: MonotonicCounter | None = None,
    ) -> Self:
        """Make a lost or broken state again, with the permission of the fleet's `enrol` role.

        What lies there is replaced. The new state holds the signed floors and those of the token, and with a counter
        it is its next generation, which also uses the token up. Without a counter a token works until it expires.

        Raises:
            TrustError: EG-T037 the token is refused, EG-T033, EG-T035.
        """
        value = counter.read() if counter is not None else None
        permitted = verified_token(trust, token, kid=key.kid, counter=value, clock_ns=clock_ns)
        with _errors_as("EG-T033", "the device state cannot be written"):
            files = FolderFiles(folder, make=True) if isinstance(folder, (str, Path)) else folder
            with files.locked():
                return cls._new(files, key, trust, counter, permitted)

    @classmethod
    def _new(
        cls,
        files: StateFiles,
        key: KeyProvider,
        trust: TrustStore,
        counter: MonotonicCounter | None,
        token: StateToken | None,
    ) -> Self:
        record = StateRecord(
            schema="edgeguard/device-state/v1",
            kid=key.kid,
            fleet_id=trust.fleet_id,
            generation=str(counter.read() if counter is not None else 0),
            counted=counter is not None,
            time_floor=token.issued if token is not None else trust.policy.issued,
            root=Seen(trust.root_version, trust.root_digest),
            targets=Seen(trust.targets_version, trust.targets_digest),
            revocation=None,
            models={name: ModelFloor(floor) for name, floor in token.floors.items()} if token is not None else {},
            notes={},
        )
        state = cls(files, key, trust.fleet_id, counter, record)
        state._store(_with_signed(record, trust, trust.revocation), trust.revocation)
        return state

    @classmethod
    def open(
        cls,
        folder: Path | str | StateFiles,
        *,
        key: KeyProvider,
        fleet_id: str,
        counter: MonotonicCounter | None = None,
    ) -> Self:
        """Read and authenticate the state of this device.

        Raises:
            TrustError: EG-T030 missing, altered, another device's or fleet's, or older than the counter; EG-T033 this
                user may not read it, or somebody holds its lock, which says nothing about the state; EG-T035.
        """
        files = FolderFiles(folder) if isinstance(folder, (str, Path)) else folder
        found: Self | None = None
        reason = ""
        try:
            with files.locked():
                raw = files.read(STATE_FILE, MAX_STATE_BYTES + 1)
                record = unseal(raw, key, fleet_id) if raw is not None else None
                if record is not None:
                    found = cls(files, key, fleet_id, counter, record)
                    found._accept(record)
        except OSError as error:
            found = None
            reason = (error.strerror or "").lower() if error.errno in _SAYS_NOTHING else ""
        if reason:
            raise TrustError(
                f"the device state cannot be reached: {reason}",
                code="EG-T033",
                hint="use it as the user it belongs to, on a writable medium, while no other process holds its lock",
            )
        if found is None:
            _refuse()
        return found

    @property
    def generation(self) -> int:
        """How often the state has been written."""
        return int(self._record.generation)

    @property
    def time_floor_ns(self) -> int:
        """Latest signed time this device has seen, nanoseconds since 1970 UTC."""
        return date_to_ns(self._record.time_floor, what="time_floor")

    @property
    def revocation(self) -> RevocationList | None:
        """Newest revocation list this device has ever accepted; None when there was none, which is not empty."""
        return self._list

    @property
    def undetected(self) -> str:
        """What this state cannot see; empty with a monotonic counter."""
        return "" if self._counter is not None else UNDETECTED

    @property
    def models(self) -> tuple[str, ...]:
        """Models with a floor, sorted."""
        return tuple(sorted(self._record.models))

    def floor(self, model_id: str) -> Place:
        """Return the counter floor (epoch, number) of a model that this device remembers."""
        return self._record.models.get(model_id, _ZERO).floor.value

    def installed(self, model_id: str) -> tuple[str, Place | None]:
        """Return identity (hex, empty when none) and counter of the committed bundle of a model."""
        model = self._record.models.get(model_id, _ZERO)
        return model.installed, model.installed_counter.value if model.installed_counter else None

    def note(self, name: str) -> str:
        """Return what was kept under `name` with `set_note`; empty when nothing was."""
        return self._record.notes.get(name, "")

    def effective_ns(self, clock_ns: int) -> int:
        """Return the time to judge by, as far as this state knows."""
        return effective_ns(clock_ns, self.time_floor_ns)

    def require_not_older(self, trust: TrustStore) -> None:
        """Check that a trust folder is this fleet's and not older than what this device has obeyed before.

        Raises:
            TrustError: EG-T010 another fleet, EG-T032 older, or other content under the same version.
        """
        if trust.fleet_id != self.fleet_id:
            raise TrustError("the trust folder belongs to another fleet than the device state", code="EG-T010")
        _require_not_older(self._record, trust)

    def observe(self, trust: TrustStore, revocation: RevocationList | None, *, signed_ns: int = 0) -> None:
        """Take over what has been verified: versions, the list if it is newer, signed times, signed floors.

        Nothing is written when nothing is new. `signed_ns`: a further signed issue time, as of a fleet index.

        Raises:
            TrustError: EG-T022, EG-T030, EG-T032, EG-T033, EG-T035.
        """
        self.require_not_older(trust)

        def change(record: StateRecord) -> StateRecord:
            _require_not_older(record, trust)
            time_floor_ns = max(signed_ns, date_to_ns(record.time_floor, what="time_floor"))
            return _with_signed(msgspec.structs.replace(record, time_floor=ns_to_date(time_floor_ns)), trust, chosen)

        # With an epoch that the policy no longer names, the remembered list stays until one of the new epoch comes.
        chosen = newest(trust, self._list, revocation) or self._list
        if change(self._record) == self._record:
            return
        self._update(change, chosen)

    def commit(self, statement: VerifiedStatement) -> None:
        """Say that a model works: its counter becomes the floor and its bundle the installed one.

        Raises:
            TrustError: EG-T010 another fleet's, EG-T015 below the floor by now, EG-T018 too far above it, EG-T030,
                EG-T033, EG-T035. TypeError: `statement` did not come out of the verifier.
        """
        if not isinstance(statement, VerifiedStatement):
            raise TypeError("commit takes a VerifiedStatement")
        if statement.fleet_id != self.fleet_id:
            raise TrustError("the model belongs to another fleet than the device state", code="EG-T010")
        if self.installed(statement.model_id) == (statement.identity.hex(), statement.counter):
            return

        def change(record: StateRecord) -> StateRecord:
            known = record.models.get(statement.model_id, _ZERO)
            if statement.counter < known.floor.value:
                raise TrustError("the model is older than the fleet allows", code="EG-T015")
            if exceeds_step(statement.counter, known.floor.value):
                raise TrustError("the model's security counter jumps further than one release may", code="EG-T018")
            counter = _counter(statement.counter)
            model = ModelFloor(counter, statement.identity.hex(), counter)
            return msgspec.structs.replace(record, models={**record.models, statement.model_id: model})

        self._update(change, self._list)

    def set_note(self, name: str, text: str) -> None:
        """Keep a text under a name, authenticated with the rest; an empty text removes it.

        Raises:
            TrustError: EG-T030, EG-T033, EG-T035; EG-T036, name or text break the format.
        """

        def change(record: StateRecord) -> StateRecord:
            kept = {k: v for k, v in {**record.notes, name: text}.items() if v}
            return _checked(msgspec.structs.replace(record, notes=kept))

        if self.note(name) != text:
            self._update(change, self._list)

    def __repr__(self) -> str:
        return f"<DeviceState of {self.kid}, generation {self.generation}>"

    def _update(self, change: Callable[[StateRecord], StateRecord], wanted: RevocationList | None) -> None:
        """Read again, change, write; two processes lose nothing of each other."""
        with _errors_as("EG-T033", "the device state cannot be written"), self._files.locked():
            raw = self._files.read(STATE_FILE, MAX_STATE_BYTES + 1)
            record = unseal(raw, self._key, self.fleet_id) if raw is not None else None
            if record is None or int(record.generation) < self.generation:
                _refuse()
            self._accept(record)
            if self._list is not None and (wanted is None or wanted.place <= self._list.place):
                wanted = self._list
            self._store(change(record), wanted)

    def _store(self, record: StateRecord, wanted: RevocationList | None) -> None:
        """Write list, state, counter, in this order; each step alone leaves a state that opens."""
        record = msgspec.structs.replace(
            record, revocation=_in_force(wanted), generation=str(int(record.generation) + 1)
        )
        sealed = seal(record, self._key)
        if len(sealed) > MAX_STATE_BYTES:
            raise TrustError("the device state would be too large to be read again", code="EG-T033")
        if wanted is not None and self._files.read(_list_name(wanted.digest), MAX_LIST_BYTES + 1) != wanted.content:
            self._write(_list_name(wanted.digest), wanted.content)
        self._write(STATE_FILE, sealed)
        if self._counter is not None and self._counter.increment() != int(record.generation):
            _refuse()
        self._record, self._list = record, wanted
        keep = _list_name(wanted.digest) if wanted is not None else ""
        for name in self._files.names():
            if (name.startswith(_LIST_PREFIX) and name != keep) or name.endswith(_PARTIAL_SUFFIX):
                self._files.remove(name)

    def _write(self, name: str, content: bytes) -> None:
        self._files.write_new(name + _PARTIAL_SUFFIX, content)
        self._files.replace(name + _PARTIAL_SUFFIX, name)
        self._files.sync_names()

    def _accept(self, record: StateRecord) -> None:
        """Take an authentic record as ours: its generation against the counter, its list from the folder."""
        if record.counted and self._counter is None:
            raise TrustError(
                "this device state counts with a monotonic counter, and none was given",
                code="EG-T035",
                hint="give the counter that the state was made with: --tpm-counter, or model.tpm_counter",
            )
        if self._counter is not None and not record.counted:
            _refuse()
        if self._counter is not None:
            behind = int(record.generation) - self._counter.read()
            if behind == 1:
                behind = int(record.generation) - self._counter.increment()
            if behind != 0:
                _refuse()
        found: RevocationList | None = None
        if record.revocation is not None:
            listed = record.revocation
            content = self._files.read(_list_name(listed.digest), MAX_LIST_BYTES + 1) or b""
            if hashlib.sha256(content).hexdigest() != listed.digest:
                _refuse()
            expires_ns = date_to_ns(listed.expires, what="expires")
            found = parse_list(content, fleet_id=self.fleet_id, expires_ns=expires_ns)
        self._record, self._list = record, found


@contextmanager
def _errors_as(code: str, message: str) -> Iterator[None]:
    """Turn what the system says into a refusal of ours."""
    reason = ""
    try:
        yield
        return
    except OSError as error:
        reason = (error.strerror or "unknown").lower()
    raise TrustError(f"{message}: {reason}", code=code, hint="is the state's folder writable, and is there space?")


def _refuse() -> NoReturn:
    raise TrustError(
        UNTRUSTED,
        code="EG-T030",
        hint="if this device is yours, ask its fleet for a token: edgeguard-provision state-token, then recover-state",
    )


def _require_not_older(record: StateRecord, trust: TrustStore) -> None:
    for what, seen, version, digest in (
        ("root", record.root, trust.root_version, trust.root_digest),
        ("targets", record.targets, trust.targets_version, trust.targets_digest),
    ):
        if version < seen.version or (version == seen.version and digest != seen.digest):
            raise TrustError(
                f"the trust folder's {what} is older than this device has seen, or another of the same version",
                code="EG-T032",
                hint="copy the fleet's newest trust folder to the device",
            )


def _with_signed(record: StateRecord, trust: TrustStore, revocation: RevocationList | None) -> StateRecord:
    """Return the record with everything that verified metadata says, and nothing lowered."""
    times = [date_to_ns(record.time_floor, what="time_floor"), date_to_ns(trust.policy.issued, what="issued")]
    models = dict(record.models)
    for model_id, counter in trust.policy.floors.items():
        _raise_floor(models, model_id, counter.value)
    if revocation is not None:
        times.append(revocation.issued_ns)
        for model_id, floor in sorted(revocation.floors.items()):
            # A model for which there is no room is still held to the floor by the list itself while that is in force.
            if model_id in models or len(models) < MAX_LISTED_MODELS:
                _raise_floor(models, model_id, floor)
    return msgspec.structs.replace(
        record,
        time_floor=ns_to_date(max(times)),
        root=Seen(trust.root_version, trust.root_digest),
        targets=Seen(trust.targets_version, trust.targets_digest),
        revocation=_in_force(revocation),
        models=models,
    )


def _raise_floor(models: dict[str, ModelFloor], model_id: str, floor: Place) -> None:
    known = models.get(model_id, _ZERO)
    if floor > known.floor.value:
        models[model_id] = msgspec.structs.replace(known, floor=_counter(floor))


def _checked(record: StateRecord) -> StateRecord:
    try:
        return msgspec.convert(msgspec.to_builtins(record), StateRecord, strict=True)
    except msgspec.ValidationError:
        pass
    raise TrustError("a note is a name and at most 4096 characters, sixteen in all", code="EG-T036")


def _in_force(revocation: RevocationList | None) -> ListInForce | None:
    if revocation is None:
        return None
    epoch, version = revocation.place
    return ListInForce(str(epoch), str(version), revocation.digest, ns_to_date(revocation.expires_ns))


def _counter(place: Place) -> Counter:
    return Counter(str(place[0]), str(place[1]))


def _list_name(digest: str) -> str:
    return f"{_LIST_PREFIX}{digest}.json"
