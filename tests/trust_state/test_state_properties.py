"""Any sequence of commits, lists, restarts and restored images: what a device remembers only ever rises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeguard.errors import TrustError
from edgeguard.keys.file import FileKeyProvider
from edgeguard.keys.provider import PROVEN, VerifiedStatement
from edgeguard.trust.floors import MAX_COUNTER_JUMP
from edgeguard.trust.revocation import parse_list
from edgeguard.trust.state import DeviceState
from edgeguard.trust.store import TrustStore
from firmware_tools.revocation_list import Entries, list_bytes

NOW_NS = 1_790_000_000_000_000_000
MODELS = ("a", "b")


class Memory:
    """State files in memory: the medium, with images that can be put back."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def read(self, name: str, limit: int) -> bytes | None:
        content = self.files.get(name)
        return None if content is None else content[:limit]

    def names(self) -> list[str]:
        return sorted(self.files)

    def write_new(self, name: str, content: bytes) -> None:
        self.files[name] = content

    def replace(self, name: str, final: str) -> None:
        self.files[final] = self.files.pop(name)

    def sync_names(self) -> None:
        pass

    def remove(self, name: str) -> None:
        self.files.pop(name, None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        yield


class Counter:
    """The counter outside the medium."""

    def __init__(self) -> None:
        self.value = 0

    def read(self) -> int:
        return self.value

    def increment(self) -> int:
        self.value += 1
        return self.value


def statement(fleet_id: str, model_id: str, number: int, content: int) -> VerifiedStatement:
    """What the verifier would hand out."""
    return VerifiedStatement(
        identity=bytes([content]) * 32, bundle_id="", fleet_id=fleet_id, model_id=model_id, release="1",
        channel="production", boards=(), counter=(0, number), min_revocation_version=(0, 0),
        confidentiality="classical", min_key_class="file", valid_from_ns=0, expires_ns=2**62, signers=(), proof=PROVEN,
    )  # fmt: skip


steps = st.one_of(
    st.tuples(st.just("commit"), st.sampled_from(MODELS), st.integers(0, 2 * MAX_COUNTER_JUMP), st.integers(0, 3)),
    st.tuples(st.just("list"), st.integers(1, 6), st.integers(0, 9), st.integers(0, 10**6)),
    st.tuples(st.just("restart")),
    st.tuples(st.just("image")),
    st.tuples(st.just("restore"), st.integers(0, 5)),
)


@settings(max_examples=80)
@given(st.lists(steps, max_size=14))
def test_whatever_happens_floors_time_list_and_generation_only_rise(template, steps):
    """Refused steps change nothing; an older image is refused, whichever it is."""
    trust = TrustStore.load(template / "cam-1.trust", 0)
    key = FileKeyProvider(template / "cam-1.pem")
    files, counter = Memory(), Counter()
    state = DeviceState.create(files, key=key, trust=trust, counter=counter)
    images: list[dict[str, bytes]] = []

    def seen() -> tuple:
        listed = state.revocation.place if state.revocation else (0, 0)
        return (state.generation, state.time_floor_ns, listed, *(state.floor(m) for m in MODELS))

    def again() -> DeviceState:
        return DeviceState.open(files, key=key, fleet_id=trust.fleet_id, counter=counter)

    for kind, *details in steps:
        before, stored = seen(), dict(files.files)
        try:
            if kind == "commit":
                model_id, number, content = details
                state.commit(statement(trust.fleet_id, model_id, number, content))
                assert state.floor(model_id) == (0, number)
            elif kind == "list":
                version, floor, seconds = details
                entries = Entries(floors={"a": (0, floor)})
                content = list_bytes(trust.fleet_id, (0, version), NOW_NS + seconds * 10**9, entries)
                state.observe(trust, parse_list(content, fleet_id=trust.fleet_id, expires_ns=NOW_NS * 2))
            elif kind == "restart":
                state = again()
            elif kind == "image":
                images.append(dict(files.files))
            elif images:
                image = images[details[0] % len(images)]
                files.files = dict(image)
                if image != stored:
                    refused = False
                    try:
                        again()
                    except TrustError as error:
                        refused = error.code == "EG-T030"
                    assert refused, "an older image was accepted"
                files.files = stored
        except TrustError:
            assert files.files == stored, "a refused step has changed the medium"
        after = seen()
        assert all(new >= old for new, old in zip(after, before, strict=True))
        assert after[0] - before[0] in (0, 1)
        assert counter.value == after[0]
        kept = {"device.state", f"revocation-{state.revocation.digest}.json"} if state.revocation else {"device.state"}
        assert set(files.files) == kept
    assert [again().floor(m) for m in MODELS] == [state.floor(m) for m in MODELS]
