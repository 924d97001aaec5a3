"""A state never grows beyond what it can read again, whatever an online key signs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeguard.trust import state, state_record
from edgeguard.trust.state import MAX_LISTED_MODELS
from edgeguard.trust.state_record import MAX_STATE_BYTES

if TYPE_CHECKING:
    from conftest import Device

STOLEN_FLOORS = 31_000  # with the longest names: a list within its limit, a state beyond its own


def flood(device: Device, floors: int) -> None:
    """Obey a list with so many floors of the longest names, then the next list, and open a model after each."""
    bundle = device.pack()
    device.install(bundle)
    device.revoke(floors=dict.fromkeys([f"thief-{index:05d}-{'x' * 52}" for index in range(floors)], (0, 1)))
    device.bring_trust()
    device.open(bundle)
    device.revoke()
    device.bring_trust()
    device.open(bundle)
    assert device.state.revocation is not None
    assert device.state.revocation.place == (0, 3)
    assert device.state.floor("road-objects") == (0, 1)


def test_a_list_full_of_floors_bricks_no_device(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thief of the revocation keys fills a list: it is obeyed, and the state still opens, is written, and opens.

    With all limits a sixty-fourth of what they are; the next test has them as they are.
    """
    limit = MAX_STATE_BYTES // 64
    for module in (state, state_record):
        monkeypatch.setattr(module, "MAX_STATE_BYTES", limit)
    monkeypatch.setattr(state, "MAX_LISTED_MODELS", MAX_LISTED_MODELS // 64)
    flood(device, STOLEN_FLOORS // 64)
    assert (device.state_folder / "device.state").stat().st_size < limit


@pytest.mark.slow
def test_the_largest_list_of_floors_bricks_no_device(device: Device) -> None:
    """The same in full size."""
    flood(device, STOLEN_FLOORS)
    assert (device.state_folder / "device.state").stat().st_size < MAX_STATE_BYTES


def test_floors_that_are_remembered_are_never_crowded_out(device: Device) -> None:
    """What was learned first stays; what finds no room is in force as long as its list is."""
    device.revoke(floors={"night-objects": (0, 5)})
    device.bring_trust()
    device.open(device.pack())
    device.revoke(floors={f"thief-{index:05d}": (0, 1) for index in range(MAX_LISTED_MODELS)})
    device.bring_trust()
    device.open(device.root / "road-objects-1.bundle")

    assert device.state.floor("night-objects") == (0, 5)
    assert len(device.state.models) == MAX_LISTED_MODELS
