"""Device state: made once, authentic or refused, never silently replaced."""

from __future__ import annotations

import json
import os
import shutil

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.errors import TrustError
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.state import UNTRUSTED, DeviceState
from edgeguard.trust.state_record import StateRecord, seal, unseal
from edgeguard.trust.strict_json import canonical
from firmware_tools.fleet import Fleet

MODEL_ID = "road-objects"


def cannot_open(device, **how) -> TrustError:
    arguments = {"key": device.key, "fleet_id": device.fleet.fleet_id} | how
    with pytest.raises(TrustError) as error:
        DeviceState.open(device.state_folder, **arguments)
    assert (error.value.code, error.value.message) == ("EG-T030", UNTRUSTED)
    return error.value


def test_a_new_state_knows_its_device_fleet_trust_and_list(device):
    """What staging puts there, and nothing more."""
    state = device.state
    assert (state.kid, state.fleet_id) == (device.key.kid, device.fleet.fleet_id)
    assert state.generation == 1
    assert state.revocation is not None
    assert state.revocation.place == (0, 1)
    assert state.floor(MODEL_ID) == (0, 0)
    assert state.installed(MODEL_ID) == ("", None)
    assert "not detected" in state.undetected
    assert os.stat(device.state_folder).st_mode & 0o777 == 0o700


def test_a_missing_state_is_no_first_boot(device):
    """Each file deleted, or all: refused, and opening makes nothing."""
    for name in [*(p.name for p in device.state_folder.iterdir() if p.name != "lock"), ""]:
        copy = device.root / f"backup-{name}"
        shutil.copytree(device.state_folder, copy)
        if name:
            (device.state_folder / name).unlink()
        else:
            shutil.rmtree(device.state_folder)
        cannot_open(device)
        assert not (device.state_folder / "device.state").exists() or name != "device.state"
        shutil.rmtree(device.state_folder, ignore_errors=True)
        copy.rename(device.state_folder)
    assert device.state.generation == 1


def test_a_second_create_is_refused(device):
    """An existing state is never replaced, also not by the same device."""
    with pytest.raises(TrustError) as error:
        DeviceState.create(device.state_folder, key=device.key, trust=device.trust)
    assert error.value.code == "EG-T034"


def test_the_state_of_another_device_or_fleet_is_refused(device, device_maker, tmp_path):
    """Cloned A to B within the fleet; carried from another fleet; opened for another fleet: one and the same answer."""
    neighbour = device_maker(device.root, "cam-2", device.fleet)
    (tmp_path / "far").mkdir()
    stranger = device_maker(tmp_path / "far", "cam-1")
    own = device.state_folder.with_name("own")
    device.state_folder.rename(own)
    answers = set()
    for foreign in (neighbour, stranger):
        shutil.copytree(foreign.state_folder, device.state_folder)
        answers.add(str(cannot_open(device)))
        shutil.rmtree(device.state_folder)
    own.rename(device.state_folder)
    answers.add(str(cannot_open(device, fleet_id=stranger.fleet.fleet_id)))
    answers.add(str(cannot_open(device, key=neighbour.key)))
    assert len(answers) == 1


def test_who_has_the_files_but_not_the_key_cannot_make_a_state(device):
    """A state sealed under a key derived from anything public is refused: every field right, only the MAC wrong."""
    path = device.state_folder / "device.state"
    tree = json.loads(path.read_bytes())
    stranger = FileKeyProvider.generate(device.root / "stranger.pem")
    forged = msgspec.structs.replace(
        msgspec.convert(tree["state"], StateRecord), models={}, generation="9", kid=device.key.kid
    )
    path.write_bytes(seal(forged, stranger))
    cannot_open(device)
    path.write_bytes(canonical({"mac": "00" * 32, "state": tree["state"]}))
    cannot_open(device)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "empty", "huge", "json"])
def test_a_state_that_is_no_plain_file_is_refused(device, kind):
    """Nothing is followed, nothing blocks, nothing is believed."""
    path = device.state_folder / "device.state"
    real = path.rename(device.root / "real")
    if kind == "link":
        path.symlink_to(real)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        path.write_bytes(real.read_bytes() + b" " * 5_000_000)
    else:
        path.write_bytes(b"" if kind == "empty" else b"{}")
    cannot_open(device)


@given(data=st.data())
def test_any_edit_of_the_state_is_refused_or_changes_nothing(template, data):
    """Flip, cut, insert: authentic and equal, or not believed; never a foreign error."""
    fleet_id = Fleet.open(template / "fleet").fleet_id
    key = FileKeyProvider(template / "cam-1.pem")
    raw = (template / "cam-1.state" / "device.state").read_bytes()
    start = data.draw(st.integers(0, len(raw)))
    edited = raw[:start] + data.draw(st.binary(max_size=6)) + raw[start + data.draw(st.integers(0, 6)) :]
    record = unseal(edited, key, fleet_id)
    assert (record is not None) == (edited == raw)


def test_an_edited_list_beside_the_state_is_refused(device):
    """The state names its list by digest; another genuine list under that name is not it."""
    (path,) = device.state_folder.glob("revocation-*.json")
    device.revoke(devices=frozenset({"ab" * 16}))
    path.write_bytes((device.fleet.trust_folder / "revocation-list.json").read_bytes())
    cannot_open(device)


def test_notes_are_kept_and_authenticated(device):
    """What the updater keeps there survives, is bounded, and can be taken away."""
    device.state.set_note("slots", '{"active":"a"}')
    assert device.state.note("slots") == '{"active":"a"}'
    for name, text in (("slots", "x" * 4097), ("a/b", "x")):
        with pytest.raises(TrustError) as error:
            device.state.set_note(name, text)
        assert error.value.code == "EG-T036"
    device.state.set_note("slots", "")
    assert device.state.note("slots") == ""


def test_two_processes_lose_nothing_of_each_other(device):
    """Each write reads the newest state first; generations count both."""
    first, second = device.state, device.state
    first.set_note("a", "1")
    second.set_note("b", "2")
    assert (device.state.note("a"), device.state.note("b"), device.state.generation) == ("1", "2", 3)


def test_a_state_put_back_under_a_running_process_is_refused(device):
    """The process remembers its own generation."""
    old = (device.state_folder / "device.state").read_bytes()
    state = device.state
    state.set_note("a", "1")
    (device.state_folder / "device.state").write_bytes(old)
    with pytest.raises(TrustError) as error:
        state.set_note("b", "2")
    assert error.value.code == "EG-T030"


def test_an_unwritable_state_is_an_error_and_loses_nothing(device, monkeypatch):
    """A full or read-only medium: EG-T033, and the old state still opens."""
    state = device.state

    def full(name: str, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    state._files.write_new = full  # type: ignore[method-assign] # the medium, not our code
    with pytest.raises(TrustError) as error:
        state.set_note("a", "1")
    assert error.value.code == "EG-T033"
    assert device.state.generation == 1


def test_nothing_is_written_when_nothing_is_new(device):
    """Opening a model a thousand times wears no flash."""
    bundle = device.pack()
    device.install(bundle)
    generation = device.state.generation
    for _ in range(3):
        device.state.commit(device.open(bundle))
    assert device.state.generation == generation


def test_a_lock_that_somebody_holds_delays_and_does_not_hang(device, monkeypatch):
    """After a bounded wait it is a refusal, which does not say that the state is broken."""
    import fcntl

    from edgeguard.trust import state_files

    monkeypatch.setattr(state_files, "LOCK_WAIT_NS", 20_000_000)
    state = device.state
    with (device.state_folder / "lock").open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TrustError) as error:
            _ = device.state
        assert error.value.code == "EG-T033"
        with pytest.raises(TrustError) as error:
            state.set_note("a", "1")
        assert error.value.code == "EG-T033"
    device.state.set_note("a", "1")


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_what_lies_under_the_name_of_a_new_state_is_not_written_into(device, link):
    """A temporary name that leads elsewhere: replaced, and the other file stays as it was."""
    precious = device.root / "precious"
    precious.write_bytes(b"precious")
    link(precious, device.state_folder / "device.state.new")
    device.state.set_note("a", "1")
    assert device.state.note("a") == "1"
    assert precious.read_bytes() == b"precious"
    assert not (device.state_folder / "device.state").is_symlink()
