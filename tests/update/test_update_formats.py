"""The catalogue and the slot record: what was written is read, what was not is refused, and nothing else happens."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.metadata import TargetFile, Targets

from edgeguard.errors import TrustError
from edgeguard.trust.metadata import RELEASE, RELEASE_PQ
from edgeguard.trust.policy import Counter
from edgeguard.update.catalogue import (
    CATALOGUE_SCHEMA,
    FurtherSignature,
    Offer,
    OfferFacts,
    choose,
    parse_catalogue,
    target_files,
)
from edgeguard.update.store_files import FolderStore
from firmware_tools.harden import harden
from firmware_tools.resign import resign
from firmware_tools.rotate import rotate

HEX64 = st.text("0123456789abcdef", min_size=64, max_size=64)
NAME = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z")
COUNT = st.integers(0, 10**18 - 1)
EXPIRES = datetime(2099, 1, 1, tzinfo=UTC)


@st.composite
def offer_lists(draw: st.DrawFn) -> tuple[Offer, ...]:
    identities = draw(st.lists(HEX64, unique=True, max_size=5))
    places = draw(st.permutations(range(1, len(identities) + 1)))
    return tuple(
        Offer(
            identity, draw(st.integers(1, 1024 * 1024)), draw(HEX64),
            OfferFacts(
                CATALOGUE_SCHEMA, draw(NAME), draw(NAME), draw(NAME), tuple(draw(st.lists(NAME, max_size=2))),
                Counter(str(draw(COUNT)), str(draw(COUNT))), place, draw(st.integers(1, 2**53)),
                draw(st.dictionaries(HEX64, st.builds(FurtherSignature, st.integers(1, 9999), HEX64), max_size=2)),
            ),
        )
        for identity, place in zip(identities, places, strict=True)
    )  # fmt: skip


def targets(offers, role: str = RELEASE) -> Targets:
    return Targets(1, None, EXPIRES, target_files(offers, role))


@given(offer_lists())
def test_a_catalogue_is_read_as_it_was_written_in_both_halves(offers):
    """Through the bytes that are signed."""
    halves = [Targets.from_dict(targets(offers, role).to_dict()) for role in (RELEASE, RELEASE_PQ)]
    assert parse_catalogue(halves[0], halves[1]) == tuple(sorted(offers, key=lambda offer: offer.identity))


@given(offer_lists().filter(len), st.integers(0, 5))
def test_halves_that_differ_in_anything_are_refused(offers, which):
    """One offer less, or one field changed."""
    first = offers[0]
    changed = [
        offers[1:],
        (msgspec.structs.replace(first.facts, bytes=first.facts.bytes + 1),),
        (msgspec.structs.replace(first.facts, release=first.facts.release + "x"),),
    ][which % 3]
    other = changed if which % 3 == 0 else (Offer(first.identity, first.length, first.sha256, changed[0]), *offers[1:])
    with pytest.raises(TrustError) as error:
        parse_catalogue(targets(offers), targets(other, RELEASE_PQ))
    assert error.value.code == "EG-T053"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.text("bundles/-0aé.sg", max_size=90), JSON, st.integers(0, 2**60))
def test_an_entry_that_is_no_bundle_is_refused_and_nothing_else_is_raised(path, custom, length):
    """Any path, any custom, any length."""
    target = TargetFile(length, {"sha256": "ab" * 32}, path, {"custom": custom})
    with pytest.raises(TrustError) as error:
        parse_catalogue(Targets(1, None, EXPIRES, {path: target}))
    assert error.value.code == "EG-T053"


@given(offer_lists().filter(len))
def test_the_choice_is_the_highest_counter_and_then_the_latest(offers):
    """Among those for this model, channel and board; any other identity or board is not on offer."""
    wanted = offers[0].facts
    board = wanted.boards[0] if wanted.boards else "any"
    chosen = choose(offers, model_id=wanted.model_id, channels=[wanted.channel], board=board)
    assert chosen.facts.model_id == wanted.model_id
    assert chosen.rank >= offers[0].rank
    for wrong in ({"channels": []}, {"identity": "x"}, {"model_id": "-"}):
        arguments = {"model_id": wanted.model_id, "channels": [wanted.channel], "board": board} | wrong
        with pytest.raises(TrustError) as error:
            choose(offers, **arguments)
        assert error.value.code == "EG-T054"


def test_an_update_needs_room_for_one_bundle_beside_the_active_one(site):
    """Measured at every span that is written: never three bundles on the disk."""
    peak = [0]

    class Measured(FolderStore):
        def write_at(self, name: str, start: int, content: bytes) -> None:
            super().write_at(name, start, content)
            slots: Path = self.path("slots")
            peak[0] = max(peak[0], sum(p.stat().st_size for p in slots.rglob("*") if p.is_file()))

    sizes = []
    for number in (2, 3, 4):
        bundle = site.pack(f"{number}", floats=500_000, counter=(0, number))
        site.publish(bundle)
        sizes.append(sum(p.stat().st_size for p in bundle.rglob("*") if p.is_file()))
        site.store = Measured(site.root / "store")
        site.upgrade()
    assert max(sizes) < peak[0] < 2.1 * max(sizes)


def test_a_fleet_that_became_hybrid_goes_on_publishing_to_devices_that_were_there_before(site):
    """harden, resign, publish: the device follows from a classical root to both families, and rotations go on."""

    site.upgrade()
    harden(site.fleet, wall_ns=site.now_ns)
    bundle = site.root / "1.bundle"
    resign(site.fleet, bundle, wall_ns=site.now_ns)
    site.publish(bundle)
    index = site.refresh()
    assert index.trust.policy.signatures == "hybrid-required"
    site.publish(site.pack("2", counter=(0, 2)))
    assert site.upgrade().counter == (0, 2)
    rotate(site.fleet, "timestamp", wall_ns=site.now_ns)
    rotate(site.fleet, "release-pq", wall_ns=site.now_ns)
    site.publish(site.pack("3", counter=(0, 3)))
    shutil.rmtree(site.root / "store/tuf")
    assert site.upgrade().counter == (0, 3)
