"""`edgeguard state` as a person meets it."""

from __future__ import annotations

import json

import pytest

from edgeguard.cli.main import run
from edgeguard.cli.state import command


@pytest.fixture
def words(device, monkeypatch) -> list[str]:
    monkeypatch.setattr("edgeguard.clock.SystemClock.wall_ns", lambda self: 1_790_000_100_000_000_000)
    device.install(device.pack("1", counter=(0, 4)))
    return [str(device.state_folder), "--key", str(device.root / "cam-1.pem"), "--trust", str(device.trust_folder)]


def test_the_state_is_shown_with_what_it_would_not_notice(device, words, capsys):
    """Text for people, JSON for machines; neither changes anything."""
    before = (device.state_folder / "device.state").read_bytes()
    assert run(command, "edgeguard", words) == 0
    shown = capsys.readouterr().out
    assert "floor 0:4" in shown
    assert "list 0:1" in shown
    assert "not detected" in shown
    assert run(command, "edgeguard", [*words, "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["models"][0]["floor"] == "0:4"
    assert facts["revocation"]["age_s"] == 101
    assert (device.state_folder / "device.state").read_bytes() == before


def test_a_state_that_cannot_be_trusted_is_exit_code_four_with_a_hint(device, words, capsys):
    """And nothing on stdout."""
    (device.state_folder / "device.state").unlink()
    assert run(command, "edgeguard", words) == 4
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "EG-T030" in printed.err
    assert "state-token" in printed.err
