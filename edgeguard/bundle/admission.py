"""What a bundle is judged by: trust, device state, the revocation list in force, and the time.

docs/formats/device-state.md section 6, revocation.md sections 3 to 5. `gather` takes over what is newer before the
bundle is judged; the methods raise and return nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeguard.bundle.storage import BundleStorage
from edgeguard.clock import SystemClock
from edgeguard.errors import BundleFormatError, TrustError
from edgeguard.keys.provider import VerifiedStatement
from edgeguard.trust.floors import Place, require_counter
from edgeguard.trust.revocation import (
    LIST_FILE,
    MAX_LIST_BYTES,
    MAX_METADATA_BYTES,
    METADATA_FILE,
    RevocationList,
    newest,
    verified_list,
)
from edgeguard.trust.role_keys import RoleKey
from edgeguard.trust.signed_time import effective_ns
from edgeguard.trust.state import DeviceState
from edgeguard.trust.store import RELEASE, TrustStore

# Both lie in a folder that the signed ignore set covers, so a newer list can be added to any bundle.
CARRIED_METADATA = f"signatures/{METADATA_FILE}"
CARRIED_LIST = f"signatures/{LIST_FILE}"
_NEWER_LIST = (
    "copy the fleet's newest trust folder or bundle to the device; on the host: edgeguard-provision revoke FLEET"
)


@dataclass(frozen=True, slots=True)
class Admission:
    """The grounds for one decision. now_ns: effective time, nanoseconds since 1970 UTC."""

    trust: TrustStore
    state: DeviceState | None
    revocation: RevocationList | None
    now_ns: int

    def at(self, clock_ns: int) -> Admission:
        """Return the same grounds at a later moment of the clock."""
        listed_ns = self.revocation.issued_ns if self.revocation is not None else 0
        floor_ns = self.state.time_floor_ns if self.state is not None else 0
        now_ns = effective_ns(self.trust.effective_ns(clock_ns), listed_ns, floor_ns)
        return replace(self, now_ns=now_ns)

    def require_current(self) -> None:
        """Check that trust and list may still be acted upon.

        Raises:
            TrustError: EG-T004, EG-T020, EG-T021, EG-T027.
        """
        self.trust.require_valid(self.now_ns)
        if self.revocation is None:
            if self.trust.revocation_refusal:
                raise TrustError(self.trust.revocation_refusal, code="EG-T021", hint=_NEWER_LIST)
            if self.trust.policy.revocation.required:
                raise TrustError(
                    "there is no revocation list, which is not an empty one", code="EG-T020", hint=_NEWER_LIST
                )
        elif self.revocation.is_older_than(self.trust.policy.revocation.run_max_age_s, self.now_ns):
            raise TrustError("the revocation list is too old to run a model", code="EG-T027", hint=_NEWER_LIST)

    def revokes_signer(self, keyid: str, identity: bytes) -> bool:
        """Return whether a release key's signature over this statement no longer counts."""
        return self.revocation is not None and self.revocation.revokes_signer(keyid, identity)

    def require_signers(self, signers: Sequence[RoleKey], identity: bytes) -> None:
        """Check that enough signers remain that are not revoked.

        Raises:
            TrustError: EG-T024.
        """
        good = {key.public_der for key in signers if not self.revokes_signer(key.keyid, identity)}
        if not all(group.is_met_by(good) for group in self.trust.groups[RELEASE]):
            raise TrustError(
                "the model is signed by a revoked key",
                code="EG-T024",
                hint="sign the same bytes with a key in force: edgeguard-provision resign FLEET BUNDLE",
            )

    def require_statement(self, statement: VerifiedStatement) -> None:
        """Check revocation, counter, validity and the age of the list.

        Raises:
            TrustError: EG-T014, EG-T015, EG-T016, EG-T018, EG-T019, EG-T023, EG-T026.
        """
        self.require_running(statement)
        self._require_step(statement)
        self._require_list_for_install(statement)

    def require_running(self, statement: VerifiedStatement) -> None:
        """The part that also a model that runs must keep up with.

        Raises:
            TrustError: EG-T014, EG-T015, EG-T016, EG-T023.
        """
        if self.revocation is not None and statement.identity.hex() in self.revocation.bundles:
            raise TrustError("the model has been revoked", code="EG-T023", hint="install a newer release")
        if self.now_ns < statement.valid_from_ns:
            raise TrustError("the model is not yet valid", code="EG-T014", hint="check the clock of this device")
        if self.now_ns >= statement.expires_ns:
            raise TrustError("the model has expired", code="EG-T014", hint="install a newer release")
        if statement.counter < self.floor(statement.model_id):
            raise TrustError("the model is older than the fleet allows", code="EG-T015", hint="install a newer release")
        if statement.min_revocation_version > (self.revocation.place if self.revocation else (0, 0)):
            raise TrustError(
                "the model needs a newer revocation list than this device has", code="EG-T016", hint=_NEWER_LIST
            )

    def require_device(self, kid: str) -> None:
        """Check that this device may open models.

        Raises:
            TrustError: EG-T025 revoked, EG-T031 the policy requires a state.
        """
        if self.state is None and self.trust.policy.device_state == "required":
            raise TrustError(
                "this fleet opens models only beside a device state, and none was given",
                code="EG-T031",
                hint="give it with --state; it is made with the device's key: edgeguard-provision keygen --state DIR",
            )
        if self.revocation is not None and kid in self.revocation.devices:
            raise TrustError("this device has been revoked", code="EG-T025", hint="ask the fleet's owner")

    def floor(self, model_id: str) -> Place:
        """Return the highest floor known for a model."""
        floors = [self.trust.floor(model_id)]
        if self.revocation is not None:
            floors.append(self.revocation.floor(model_id))
        if self.state is not None:
            floors.append(self.state.floor(model_id))
        return max(floors)

    def is_installed(self, statement: VerifiedStatement) -> bool:
        """Return whether this bundle has been committed on this device."""
        return self.state is not None and self.state.installed(statement.model_id)[0] == statement.identity.hex()

    def _require_step(self, statement: VerifiedStatement) -> None:
        model_id = statement.model_id
        require_counter(statement.counter, floor=self.floor(model_id), offline_epoch=self.trust.floor(model_id)[0])
        if self.trust.policy.equal_counter == "accept" or self.state is None:
            return
        identity, counter = self.state.installed(model_id)
        if counter == statement.counter and identity != statement.identity.hex():
            raise TrustError(
                "another model was committed under this security counter", code="EG-T019", hint="raise the counter"
            )

    def _require_list_for_install(self, statement: VerifiedStatement) -> None:
        if self.revocation is None or self.is_installed(statement):
            return
        limit_s = self.trust.policy.revocation.install_max_age_s
        if self.now_ns >= self.revocation.expires_ns or self.revocation.is_older_than(limit_s, self.now_ns):
            raise TrustError("the revocation list is too old to install a model", code="EG-T026", hint=_NEWER_LIST)


def gather(
    storage: BundleStorage | None, trust: TrustStore, state: DeviceState | None, wall_ns: int | None
) -> Admission:
    """Find the list in force and the time; let the state take over what is newer. `storage`: the bundle, if any.

    Raises:
        TrustError: EG-T010, EG-T022, EG-T030, EG-T032, EG-T033, EG-T035, and those of `Admission.require_current`.
    """
    clock_ns = SystemClock().wall_ns() if wall_ns is None else wall_ns
    if state is not None:
        state.require_not_older(trust)
    carried = _carried_list(storage, trust) if storage is not None else None
    known: RevocationList | None = None
    if state is not None:
        state.observe(trust, newest(trust, state.revocation, trust.revocation, carried))
        known = state.revocation
    admission = Admission(trust, state, newest(trust, known, trust.revocation, carried), clock_ns).at(clock_ns)
    admission.require_current()
    return admission


def _carried_list(storage: BundleStorage, trust: TrustStore) -> RevocationList | None:
    """Return the list that travels in the bundle, unless it is the trust folder's; one that does not verify is none."""
    try:
        metadata = storage.read_optional(CARRIED_METADATA, MAX_METADATA_BYTES)
        content = storage.read_optional(CARRIED_LIST, MAX_LIST_BYTES)
        if metadata is None or content is None or (trust.revocation and trust.revocation.content == content):
            return None
        return verified_list(trust, metadata, content)
    except (TrustError, BundleFormatError):
        return None
