"""A state never grows beyond what it can read again, whatever an online key signs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeguard.trust.state import MAX_LISTED_MODELS
from edgeguard.trust.state_record import MAX_STATE_BYTES

if TYPE_CHECKING:
    from conftest import Device

STOLEN_FLOORS = 31_000  # with the longest names: a list within its limit, a state beyond its own


def test_a_list_full_of_floors_bricks_no_device(device: Device) -> None:
    """A thief of the revocation keys fills a list: it is obeyed, and the state still opens, is written, and opens."""
    bundle = device.pack()
    device.install(bundle)
    names = [f"thief-{index:05d}-{'x' * 52}" for index in range(STOLEN_FLOORS)]
    device.revoke(floors=dict.fromkeys(names, (0, 1)))
    device.bring_trust()

    device.open(bundle)
    device.revoke()
    device.bring_trust()
    device.open(bundle)

    assert device.state.revocation is not None
    assert device.state.revocation.place == (0, 3)
    assert (device.state_folder / "device.state").stat().st_size < MAX_STATE_BYTES
    assert device.state.floor("road-objects") == (0, 1)


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
