"""A/B slots of one model: which bundle is on trial, which is good, and what to start. docs/formats/slots.md

The record is a note of the device state: authenticated, counted, and changed in one write.

Example::

    slots = ModelSlots(store, state, "road-objects")
    started = slots.start(lambda folder: InferenceSession(folder, trust=trust, key=key, state=state, ...))
    if started.on_trial:
        slots.mark_good(started.value.statement) if healthy else slots.mark_bad()
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Generic, Literal, TypeVar

import msgspec

from edgeguard.bundle.manifest import Identifier
from edgeguard.errors import EdgeGuardError, ModelError, TrustError
from edgeguard.keys.provider import VerifiedStatement
from edgeguard.trust.state import DeviceState
from edgeguard.trust.strict_json import canonical, convert, parse
from edgeguard.update.store_files import StoreFiles

SLOTS_SCHEMA: Final = "edgeguard/slots/v1"
TRIES: Final = 3  # one for a power cut, one for a bad moment, one more
_NAMES: Final = ("a", "b")

Status = Literal["empty", "filling", "trial", "good", "bad"]
T = TypeVar("T")


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place for a bundle. identity: hex, or empty."""

    identity: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")] = ""
    status: Status = "empty"
    tries: Annotated[int, msgspec.Meta(ge=0, le=TRIES)] = 0


class SlotRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the note says. active: the slot that last passed its health check, or empty."""

    schema: Literal["edgeguard/slots/v1"]
    model_id: Identifier
    active: Literal["a", "b", ""] = ""
    a: Slot = Slot()
    b: Slot = Slot()

    def slot(self, name: str) -> Slot:
        """Return a slot by its name."""
        return self.a if name == "a" else self.b

    def having(self, name: str, slot: Slot) -> SlotRecord:
        """Return the record with one slot changed."""
        return msgspec.structs.replace(self, **{name: slot})


@dataclass(frozen=True, slots=True)
class Started(Generic[T]):
    """What `ModelSlots.start` opened. refusals: (slot, why) of those that did not open before it."""

    value: T
    slot: str
    on_trial: bool
    refusals: tuple[tuple[str, str], ...]


class ModelSlots:
    """The two slots of `model_id` in a device's store."""

    def __init__(self, store: StoreFiles, state: DeviceState, model_id: str) -> None:
        self._store = store
        self._state = state
        self._model_id = model_id
        self._note = f"slots-{hashlib.sha256(model_id.encode()).hexdigest()[:16]}"

    @property
    def record(self) -> SlotRecord:
        """What the device remembers; a commit that a power cut kept from the record is already in it.

        Raises:
            TrustError: EG-T060.
        """
        text = self._state.note(self._note)
        if not text:
            return _reconciled(SlotRecord("edgeguard/slots/v1", self._model_id), "")
        reason = ""
        try:
            record = convert(parse(text.encode(), what="the slot record"), SlotRecord, what="the slot record")
            if record.model_id == self._model_id:
                return _reconciled(record, self._state.installed(self._model_id)[0])
            reason = "it is about another model"
        except EdgeGuardError as error:
            reason = error.message
        raise TrustError(f"the slot record is refused: {reason}", code="EG-T060", hint="install the model again")

    def folder(self, slot: str) -> str:
        """Return a slot's folder, relative to the store."""
        return f"slots/{self._model_id}/{slot}"

    def path(self, slot: str) -> Path:
        """Return where a slot's bundle directory lies."""
        return self._store.path(self.folder(slot))

    def holds(self, identity: str) -> str:
        """Return the slot that has this bundle on trial or good; empty when none has."""
        record = self.record
        return next(
            (
                name
                for name in _NAMES
                if record.slot(name).identity == identity and record.slot(name).status in ("trial", "good")
            ),
            "",
        )

    def begin_filling(self, identity: str) -> str:
        """Take the slot that is not active for a new bundle; what was there goes, unless it is the same one, begun.

        Returns:
            The slot. From here until `arm`, it is not started.
        """
        record = self.record
        name = "b" if record.active == "a" else "a"
        going_on = record.slot(name) == Slot(identity, "filling")
        if not going_on:
            # The record first: files that nobody may start can be removed in any order.
            self._keep(record.having(name, Slot("", "empty")))
            self._store.remove(self.folder(name))
            self._store.make_folder(self.folder(name))
            self._keep(self.record.having(name, Slot(identity, "filling")))
        return name

    def arm(self, name: str, statement: VerifiedStatement) -> None:
        """Say that a filled slot is complete and verified: it may be tried."""
        record = self.record
        slot = record.slot(name)
        if slot != Slot(statement.identity.hex(), "filling") or statement.model_id != self._model_id:
            raise TrustError("the slot was filled with another bundle", code="EG-T061", hint="install it again")
        self._keep(record.having(name, Slot(slot.identity, "trial", TRIES)))

    def start(self, opening: Callable[[Path], T]) -> Started[T]:
        """Open the bundle that should run: the trial while it has tries left, else the last good one.

        Args:
            opening: makes a session from a bundle directory; verifies it in full, as every load does. A ModelError
                or InferenceError of a trial makes it bad; any other error only costs it a try.

        Raises:
            TrustError: EG-T062, none opens: HOLD. Other errors of `opening` as they are.
        """
        refusals: list[tuple[str, str]] = []
        for name in _NAMES:
            slot = self.record.slot(name)
            if slot.status != "trial":
                continue
            if slot.tries == 0:
                self._keep(self.record.having(name, Slot(slot.identity, "bad")))
                refusals.append((name, "its tries are used up"))
                continue
            # The try is spent before anything is opened, so that a model that takes the machine down ends.
            self._keep(self.record.having(name, Slot(slot.identity, "trial", slot.tries - 1)))
            try:
                return Started(opening(self.path(name)), name, True, tuple(refusals))
            except EdgeGuardError as error:
                if not isinstance(error, ModelError) and not error.code.startswith("EG-I"):
                    raise
                refusals.append((name, str(error)))
                self._keep(self.record.having(name, Slot(slot.identity, "bad")))
        for name in self._good():
            try:
                return Started(opening(self.path(name)), name, False, tuple(refusals))
            except ModelError as error:
                refusals.append((name, str(error)))
        told = "; ".join(f"{name}: {why}" for name, why in refusals)
        raise TrustError(
            f"no slot holds a model that may run{': ' + told if told else ''}",
            code="EG-T062",
            hint="the device holds; bring a newer release: edgeguard model install REPOSITORY",
        )

    def mark_good(self, statement: VerifiedStatement) -> None:
        """Commit the trial: its counter becomes the floor, its slot the active one. Doing it again changes nothing.

        Raises:
            TrustError: EG-T061 it is not on trial; those of `DeviceState.commit`.
        """
        name = self.holds(statement.identity.hex())
        if not name or statement.model_id != self._model_id:
            raise TrustError("this bundle is not on trial here", code="EG-T061", hint="edgeguard model status")
        # A power cut between the two leaves a trial whose identity is the installed one: `record` reads it as good.
        self._state.commit(statement)
        self._activate(name)

    def mark_bad(self) -> str:
        """Give the trial up; return its slot. The active one stays.

        Raises:
            TrustError: EG-T061, nothing is on trial.
        """
        record = self.record
        for name in _NAMES:
            if record.slot(name).status == "trial":
                self._keep(record.having(name, Slot(record.slot(name).identity, "bad")))
                return name
        raise TrustError("no model is on trial", code="EG-T061", hint="edgeguard model status")

    def rollback(self, verify: Callable[[Path], VerifiedStatement]) -> str:
        """Go back to the other slot; return it.

        Args:
            verify: verifies a bundle directory in full and as the device, so that a raised floor refuses it.

        Raises:
            TrustError: EG-T061 there is no other good slot; those of `verify` and `DeviceState.commit`.
        """
        record = self.record
        others = [name for name in self._good() if name != record.active]
        if not others:
            raise TrustError("there is no other good slot to go back to", code="EG-T061", hint="edgeguard model status")
        name = others[0]
        statement = verify(self.path(name))
        if statement.identity.hex() != record.slot(name).identity or statement.model_id != self._model_id:
            raise TrustError("the other slot holds another bundle than was put there", code="EG-T061")
        self._state.commit(statement)
        self._activate(name)
        return name

    def _activate(self, name: str) -> None:
        record = self.record
        good = Slot(record.slot(name).identity, "good")
        self._keep(msgspec.structs.replace(record.having(name, good), active=name))

    def _good(self) -> list[str]:
        """Slots that have passed, the active one first."""
        record = self.record
        good = [name for name in _NAMES if record.slot(name).status == "good"]
        return sorted(good, key=lambda name: name != record.active)

    def _keep(self, record: SlotRecord) -> None:
        self._state.set_note(self._note, canonical(msgspec.to_builtins(record)).decode())


def _reconciled(record: SlotRecord, installed: str) -> SlotRecord:
    """Return the record as it would be, had no power cut come between commit and record."""
    for name in _NAMES:
        slot = record.slot(name)
        if installed and slot.identity == installed and slot.status in ("trial", "good"):
            good = record.having(name, Slot(installed, "good"))
            return msgspec.structs.replace(good, active=name)
    return record
