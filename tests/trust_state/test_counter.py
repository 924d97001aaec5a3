"""With a monotonic counter an older image of the disk is seen; without one it is not, and the API says so."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import pytest

from edgeguard.errors import TrustError
from edgeguard.trust.state import UNDETECTED, DeviceState


@dataclass
class Counter:
    """A counter outside the disk that the attacker restores."""

    value: int = 0
    answers: bool = True

    def read(self) -> int:
        if not self.answers:
            raise TrustError("the counter does not answer", code="EG-T035")
        return self.value

    def increment(self) -> int:
        self.value = self.read() + 1
        return self.value


@pytest.fixture
def counted(device):
    """A state with a counter, in a folder of its own."""
    counter = Counter(value=41)
    folder = device.root / "counted"
    DeviceState.create(folder, key=device.key, trust=device.trust, counter=counter)

    def again(value: int | None = None) -> DeviceState:
        counter.value = counter.value if value is None else value
        return DeviceState.open(folder, key=device.key, fleet_id=device.fleet.fleet_id, counter=counter)

    return folder, counter, again


def test_a_new_state_is_the_counter_s_next_generation(counted):
    """States made before with the same counter are dead."""
    _, counter, again = counted
    assert again().generation == counter.value == 42
    assert again().undetected == ""


@pytest.mark.parametrize(("counter_value", "accepted"), [(40, False), (41, True), (42, True), (43, False)])
def test_the_generation_must_be_the_counter_or_the_one_step_that_was_cut_off(counted, counter_value, accepted):
    """Equal: fine. One ahead: the increment is completed. Anything else: refused."""
    _, counter, again = counted
    if accepted:
        assert again(counter_value).generation == 42
        assert counter.value == 42
    else:
        with pytest.raises(TrustError) as error:
            again(counter_value)
        assert error.value.code == "EG-T030"


def test_restoring_any_earlier_generation_is_refused(counted):
    """Every image ever taken but the last one."""
    folder, _, again = counted
    images = []
    for number in range(4):
        images.append(shutil.copytree(folder, folder.with_name(f"image-{number}")))
        again().set_note("n", str(number))
    for image in images:
        shutil.rmtree(folder)
        shutil.copytree(image, folder)
        with pytest.raises(TrustError) as error:
            again()
        assert error.value.code == "EG-T030"


def test_without_a_counter_a_restored_image_is_not_seen_and_that_is_said(device):
    """The honest half: this is what `undetected` warns about."""
    image = shutil.copytree(device.state_folder, device.root / "image")
    device.state.set_note("n", "1")
    shutil.rmtree(device.state_folder)
    shutil.copytree(image, device.state_folder)
    assert device.state.generation == 1
    assert device.state.undetected == UNDETECTED


def test_a_counter_that_does_not_answer_is_a_refusal_and_never_a_zero(counted, device):
    """Neither opened nor created without it."""
    _, counter, again = counted
    counter.answers = False
    for attempt in (
        again,
        lambda: DeviceState.create(device.root / "other", key=device.key, trust=device.trust, counter=counter),
    ):
        with pytest.raises(TrustError) as error:
            attempt()
        assert error.value.code == "EG-T035"
    assert not (device.root / "other" / "device.state").exists()


def test_leaving_the_counter_out_is_no_way_around_it(counted, device):
    """The state says that it is counted; one that is not does not take a counter either."""
    folder, counter, _ = counted
    with pytest.raises(TrustError) as error:
        DeviceState.open(folder, key=device.key, fleet_id=device.fleet.fleet_id)
    assert error.value.code == "EG-T035"
    counter.value = device.state.generation
    with pytest.raises(TrustError) as error:
        DeviceState.open(device.state_folder, key=device.key, fleet_id=device.fleet.fleet_id, counter=counter)
    assert error.value.code == "EG-T030"
