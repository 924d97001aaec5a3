"""The monotonic counter of a real TPM implementation (swtpm), under a device state."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgeguard.cli.main import run
from edgeguard.cli.state import command
from edgeguard.cli.verify import command as verify_command
from edgeguard.errors import TrustError
from edgeguard.keys.context import fingerprint_of
from edgeguard.keys.file import FileKeyProvider
from edgeguard.keys.tpm_counter import DEFAULT_INDEX, TpmCounter
from edgeguard.trust.state import DeviceState
from firmware_tools.cli import cli

SWTPM = shutil.which("swtpm") or ""
pytestmark = [pytest.mark.skipif(not SWTPM, reason="swtpm is not installed: apt-get install swtpm libtss2-tcti-swtpm0")]
tss = pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is not installed: pip install edgeguard[tpm]")


def free_port() -> int:
    """A port whose neighbour is free too: swtpm's control channel is expected there."""
    for _ in range(50):
        with closing(socket.socket()) as first, closing(socket.socket()) as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
    pytest.skip("no two free ports next to each other")


@pytest.fixture
def tcti(tmp_path: Path) -> Iterator[str]:
    """A fresh TPM."""
    folder = tmp_path / "tpm"
    folder.mkdir()
    port = free_port()
    process = subprocess.Popen(
        [SWTPM, "socket", "--tpm2", "--tpmstate", f"dir={folder}", "--flags", "not-need-init,startup-clear",
         "--server", f"type=tcp,port={port},bindaddr=127.0.0.1",
         "--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for(port + 1)
        yield f"swtpm:host=127.0.0.1,port={port}"
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int) -> None:
    import time

    for _ in range(200):
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail("swtpm does not start")


def test_the_counter_counts_over_restarts_of_the_process(device, tcti):
    """Created once; opened again it goes on."""
    with TpmCounter.create(device.key, tcti=tcti) as counter:
        start = counter.read()
        assert counter.increment() == start + 1
    with TpmCounter(device.key, tcti=tcti) as counter:
        assert counter.read() == start + 1


def test_a_restored_image_of_a_state_is_refused_by_a_real_tpm(device, tcti):
    """Every earlier generation, with many more writes than the TPM has sessions."""
    folder = device.root / "counted"
    with TpmCounter.create(device.key, tcti=tcti) as counter:
        state = DeviceState.create(folder, key=device.key, trust=device.trust, counter=counter)
        image = shutil.copytree(folder, device.root / "image")
        for number in range(8):
            state.set_note("n", str(number))
        assert state.generation == counter.read()

        def again() -> DeviceState:
            return DeviceState.open(folder, key=device.key, fleet_id=device.fleet.fleet_id, counter=counter)

        assert again().note("n") == "7"
        shutil.rmtree(folder)
        shutil.copytree(image, folder)
        with pytest.raises(TrustError) as error:
            again()
        assert error.value.code == "EG-T030"


def test_a_counter_that_was_deleted_and_made_again_starts_above_all_before(device, tcti):
    """The TPM's own guarantee: deleting resets nothing, and the old state stays dead."""
    folder = device.root / "counted"
    with TpmCounter.create(device.key, tcti=tcti) as counter:
        DeviceState.create(folder, key=device.key, trust=device.trust, counter=counter).set_note("a", "1")
        before = counter.read()
    with tss.ESAPI(tcti) as esys:
        esys.nv_undefine_space(esys.tr_from_tpmpublic(DEFAULT_INDEX))
    with pytest.raises(TrustError) as error:
        TpmCounter(device.key, tcti=tcti)
    assert error.value.code == "EG-T035"
    with TpmCounter.create(device.key, tcti=tcti) as counter:
        assert counter.read() > before
        counter.increment()
        with pytest.raises(TrustError) as error:
            DeviceState.open(folder, key=device.key, fleet_id=device.fleet.fleet_id, counter=counter)
        assert error.value.code == "EG-T030"


def test_nobody_without_the_device_key_moves_or_reads_the_counter(device, tcti):
    """Another key's authorisation value is wrong; after it the right one still works (no lock-out)."""
    with TpmCounter.create(device.key, tcti=tcti) as counter:
        value = counter.read()
    stranger = FileKeyProvider.generate(device.root / "stranger.pem")
    for _ in range(40):
        with TpmCounter(stranger, tcti=tcti) as other, pytest.raises(TrustError) as error:
            other.increment()
        assert error.value.code == "EG-T035"
    with TpmCounter(device.key, tcti=tcti) as counter:
        assert counter.read() == value


def test_an_ordinary_index_in_the_counter_s_place_is_refused(device, tcti):
    """It could be written with any value."""
    attributes = tss.TPMA_NV.AUTHREAD | tss.TPMA_NV.AUTHWRITE | tss.TPMA_NV.NO_DA
    public = tss.TPMS_NV_PUBLIC(nvIndex=DEFAULT_INDEX, nameAlg=tss.TPM2_ALG.SHA256, attributes=attributes, dataSize=8)
    with tss.ESAPI(tcti) as esys:
        esys.nv_define_space(b"", tss.TPM2B_NV_PUBLIC(nvPublic=public))
    for attempt in (TpmCounter, TpmCounter.create):
        with pytest.raises(TrustError) as error:
            attempt(device.key, tcti=tcti)
        assert error.value.code == "EG-T035"


def test_a_tpm_that_is_not_there_is_a_refusal(device):
    """No device, a closed port, nonsense: the same error, and never a zero."""
    for nowhere in ("device:/dev/nowhere", "swtpm:host=127.0.0.1,port=1", "nonsense"):
        with pytest.raises(TrustError) as error:
            TpmCounter(device.key, tcti=nowhere)
        assert error.value.code == "EG-T035"


def test_keygen_makes_a_counted_state_and_the_verb_reads_it(device, tcti, capsys, monkeypatch):
    """By commands: with the counter it opens, without it it does not."""
    monkeypatch.setattr("edgeguard.clock.SystemClock.wall_ns", lambda self: 1_790_000_000_000_000_000)
    root = device.root
    made = ["keygen", "--trust", device.trust_folder, "--key", root / "k.pem", "--request", root / "r", "--name", "n",
            "--state", root / "s", "--tpm-counter", tcti]  # fmt: skip
    assert run(cli, "edgeguard-provision", [str(word) for word in made]) == 0
    shown = [str(root / "s"), "--key", str(root / "k.pem"), "--trust", str(device.trust_folder)]
    assert run(command, "edgeguard", [*shown, "--tpm-counter", tcti]) == 0
    assert "undetected" not in capsys.readouterr().out
    assert run(command, "edgeguard", shown) == 4
    assert "EG-T035" in capsys.readouterr().err

    fleet, key = str(device.fleet.folder), str(root / "k.pem")
    fingerprint = fingerprint_of(FileKeyProvider(key).public_key())
    enroll = ["enroll", fleet, str(root / "r"), "--fingerprint", fingerprint]
    assert run(cli, "edgeguard-provision", enroll) == 0
    bundle = str(device.pack())
    assert run(cli, "edgeguard-provision", ["grant", fleet, bundle, "n"]) == 0
    opened = [bundle, "--trust", str(device.trust_folder), "--key", key, "--state", str(root / "s")]
    assert run(verify_command, "edgeguard", [*opened, "--tpm-counter", tcti]) == 0
    assert run(verify_command, "edgeguard", opened) == 4
    assert "--tpm-counter" in capsys.readouterr().err
