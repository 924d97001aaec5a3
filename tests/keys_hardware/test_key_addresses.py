"""Addresses of keys, secrets from files and systemd credentials, and the commands that take them."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.cli.main import cli as device_cli
from edgeguard.cli.main import run
from edgeguard.errors import ConfigError, EdgeGuardError
from edgeguard.keys.file import FileKeyProvider
from edgeguard.keys.open_key import generate_key, open_key, parse_address
from edgeguard.keys.private_file import read_private_file
from edgeguard.keys.secret_source import credential_path, read_secret
from firmware_tools.cli import cli

NOBODY = 65534


def refused(code: str, call) -> EdgeGuardError:
    with pytest.raises(EdgeGuardError) as error:
        call()
    assert error.value.code == code, error.value
    return error.value


@pytest.fixture
def credentials(tmp_path, monkeypatch) -> Path:
    """A service's credential folder, as systemd makes it."""
    folder = tmp_path / "credentials"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


def test_a_path_is_a_key_file_whatever_it_is_called(tmp_path, monkeypatch):
    """Plain paths keep working; a file whose name begins like a scheme has two spellings."""
    monkeypatch.chdir(tmp_path)
    kid = generate_key("tpm.pem").kid
    for where in ("tpm.pem", "file:tpm.pem", Path("tpm.pem"), "./tpm.pem"):
        assert open_key(where).kid == kid
    Path("tpm.pem").rename("tpm:x.pem")
    for where in ("./tpm:x.pem", "file:tpm:x.pem", Path("tpm:x.pem")):
        assert open_key(where).kid == kid


def test_a_systemd_credential_is_a_key_file_by_name(credentials):
    """LoadCredential= gives a folder of mode 0500 files; the address has a name and never a path."""
    key = FileKeyProvider.generate(credentials / "device-key")
    (credentials / "device-key").chmod(0o400)
    assert open_key("credential:device-key").kid == key.kid
    for name in ("", "../device-key", "a/b", "/etc/passwd", ".hidden", "a\0b", "x" * 200):
        with pytest.raises(EdgeGuardError) as error:
            open_key(f"credential:{name}")
        assert error.value.code in {"EG-K009", "EG-C061"}
    refused("EG-K001", lambda: open_key("credential:another"))
    (credentials / "device-key").chmod(0o444)
    refused("EG-K002", lambda: open_key("credential:device-key"))
    refused("EG-C061", lambda: generate_key("credential:new"))


@pytest.mark.parametrize("folder", ["", "relative", None])
def test_without_a_credential_folder_there_are_no_credentials(folder, monkeypatch):
    """This is no service, or somebody has set nonsense."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    if folder is not None:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", folder)
    refused("EG-K009", lambda: credential_path("device-key"))


def access_list(*entries: tuple[int, int, int]) -> bytes:
    return b"\x02\0\0\0" + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_the_group_bits_that_an_access_list_explains_are_not_an_open_file(tmp_path):
    """systemd hands a credential over by an access list: mode 0440, and nobody but the service's user may read."""
    path = tmp_path / "credential"
    path.write_bytes(b"secret")
    nobody, me = 0xFFFFFFFF, os.geteuid()
    owner, group_none, mask, others = (1, 4, nobody), (4, 0, nobody), (0x10, 4, nobody), (0x20, 0, nobody)
    try:
        os.setxattr(path, "system.posix_acl_access", access_list(owner, (2, 4, me), group_none, mask, others))
    except OSError:
        pytest.skip("this file system has no access lists")
    assert path.stat().st_mode & 0o777 == 0o440
    assert read_private_file(path) == b"secret"
    open_to_more = (
        (owner, (2, 4, NOBODY), group_none, mask, others),
        (owner, (2, 4, me), (4, 4, nobody), mask, others),
        (owner, (2, 4, me), group_none, (8, 4, 5), mask, others),
        (owner, (2, 4, me), group_none, mask, (0x20, 4, nobody)),
    )
    for entries in open_to_more:
        os.setxattr(path, "system.posix_acl_access", access_list(*entries))
        refused("EG-K002", lambda: read_private_file(path))
    os.removexattr(path, "system.posix_acl_access")
    path.chmod(0o440)
    refused("EG-K002", lambda: read_private_file(path))


def test_a_secret_is_read_from_a_private_file_without_its_line_end(tmp_path, credentials):
    """One line end, of either kind; an empty one is none."""
    path = tmp_path / "pin"
    for written, expected in ((b"1234\n", b"1234"), (b"1234\r\n", b"1234"), (b" 1\n\n", b" 1\n"), (b"1234", b"1234")):
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_bytes(written)
        assert read_secret(str(path), what="PIN", environ={}) == expected
        assert read_secret(f"file:{path}", what="PIN", environ={}) == expected
    path.write_bytes(b"\n")
    refused("EG-K009", lambda: read_secret(str(path), what="PIN", environ={}))
    (credentials / "pin").touch(0o400)
    (credentials / "pin").write_bytes(b"9\n")
    assert read_secret("credential:pin", what="PIN") == b"9"


@pytest.mark.parametrize(
    "address",
    ["tpm:", "tpm:k?auth", "tpm:k?auth=a&auth=b", "tpm:k?color=red", "tpm:?auth=a", "rpi-otp:k?auth=a", "credential:",
     "file:"],
)  # fmt: skip
def test_an_address_that_says_too_little_or_too_much_is_a_usage_error(address):
    """Before any chip is touched."""
    refused("EG-C061", lambda: open_key(address))


def test_what_is_chosen_at_generation_is_not_chosen_again(tmp_path):
    """PCRs and parent are in the key file; a chip has its suite."""
    refused("EG-C061", lambda: open_key(f"tpm:{tmp_path}/k?auth=a&pcrs=7"))
    refused("EG-C061", lambda: generate_key(f"tpm:{tmp_path}/k?auth={tmp_path}/a&pcrs=seven"))
    for address in (f"tpm:{tmp_path}/k?auth=a", f"rpi-otp:{tmp_path}/k"):
        refused("EG-C061", lambda address=address: generate_key(address, suite="hpke-base/mlkem768-x25519/..."))
    assert not list(tmp_path.iterdir())


@given(text=st.text(max_size=60), scheme=st.sampled_from(["", "tpm:", "pkcs11:", "rpi-otp:", "credential:", "file:"]))
def test_no_text_makes_the_address_parser_raise_anything_else(text, scheme):
    """A parsed address or a ConfigError."""
    try:
        parsed = parse_address(scheme + text)
    except ConfigError as error:
        assert error.exit_code == 2  # noqa: PT017 - the other outcome is fine too
    else:
        assert parsed.rest or parsed.provider == "file"


def test_keygen_state_and_verify_take_an_address(tpm, site, tmp_path, capsys):
    """A TPM key through the commands: made with its authorisation file, enrolled, granted, used."""
    key = f"tpm:{tmp_path}/d.tpm?auth={tmp_path}/d.auth&tcti={tpm.tcti}"
    state, trust, request = tmp_path / "state", site / "fleet" / "trust", tmp_path / "r"
    provision = ["keygen", "--trust", trust, "--key", key, "--state", state, "--request", request, "--name", "cam"]
    assert tool([*provision, "--tpm-counter", tpm.tcti, "--format", "json"]) == 0
    fingerprint = json.loads(capsys.readouterr().out)["fingerprint"]
    assert (tmp_path / "d.auth").stat().st_mode & 0o777 == 0o600
    assert len((tmp_path / "d.auth").read_text()) == 65
    assert tool(["enroll", site / "fleet", request, "--fingerprint", fingerprint]) == 0
    assert "hardware key" in capsys.readouterr().err
    bundle = tmp_path / "m.bundle"
    pack = ["pack", site / "fleet", site / "m.onnx", "--model-id", "m", "--release", "1", "--out", bundle]
    assert tool([*pack, "--min-key-class", "hardware"]) == 0
    assert tool(["grant", site / "fleet", bundle, "cam"]) == 0
    capsys.readouterr()
    shown = ["state", state, "--key", key, "--trust", trust, "--tpm-counter", tpm.tcti, "--format", "json"]
    assert run(device_cli, "edgeguard", list(map(str, shown))) == 0
    assert json.loads(capsys.readouterr().out)["undetected"] == ""
    checked = ["verify", bundle, "--trust", trust, "--key", key, "--state", state, "--tpm-counter", tpm.tcti]
    checked += ["--model-id", "m", "--format", "json"]
    assert run(device_cli, "edgeguard", list(map(str, checked))) == 0
    assert json.loads(capsys.readouterr().out)["decrypted"] is True
    tpm.stop()
    assert run(device_cli, "edgeguard", list(map(str, checked))) == 3
    assert "EG-E014" in capsys.readouterr().err


def tool(arguments: list[object]) -> int:
    return run(cli, "edgeguard-provision", [str(argument) for argument in arguments])
