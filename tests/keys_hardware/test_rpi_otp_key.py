"""A key that needs a board's OTP, read through a real child process; and which programs and answers are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.errors import EdgeGuardError
from edgeguard.keys.rpi_otp import MailboxReader, OtpKeyProvider, parse_mailbox

# The example of Raspberry Pi's own documentation (Industrial use, device private key).
DOCUMENTED = (
    b"0x00000040 0x80000000 0x00030081 0x00000028 0x80000028 0x00000000 0x00000008 0xf8dbc7b0 0xa4fcfb1d 0x706e298a "
    b"0xc9d0485c 0x2226ce8d 0xf7f7596a 0xc77337bd 0x09fbe160 0x00000000\n"
)
DOCUMENTED_KEY = "f8dbc7b0a4fcfb1d706e298ac9d0485c2226ce8df7f7596ac77337bd09fbe160"


def refused(code: str, call) -> EdgeGuardError:
    with pytest.raises(EdgeGuardError) as error:
        call()
    assert error.value.code == code, error.value
    assert error.value.hint
    return error.value


def test_the_documented_answer_is_read_as_documented():
    """Word order and byte order, from the vendor's example."""
    assert parse_mailbox(DOCUMENTED).hex() == DOCUMENTED_KEY


def test_the_program_is_called_with_the_documented_request(mailbox, tmp_path):
    """One argument for each word, no shell."""
    program = mailbox(tmp_path / "vcmailbox")
    assert MailboxReader(program)().hex() == DOCUMENTED_KEY
    called = Path(f"{program}.called").read_text().split()
    assert called == ["0x00030081", "40", "40", "0", "8", *["0"] * 8]


def test_file_and_board_are_both_needed(mailbox, tmp_path):
    """Another board's secret, or another file's, gives no key; and no key of another board's file."""
    ours = MailboxReader(mailbox(tmp_path / "ours"))
    theirs = MailboxReader(mailbox(tmp_path / "theirs", [word ^ 1 for word in range(8)]))
    key = OtpKeyProvider.generate(tmp_path / "k.otp", read_otp=ours)
    assert OtpKeyProvider(tmp_path / "k.otp", read_otp=ours).kid == key.kid
    refused("EG-K017", lambda: OtpKeyProvider(tmp_path / "k.otp", read_otp=theirs))
    other = OtpKeyProvider.generate(tmp_path / "o.otp", read_otp=ours)
    assert other.kid != key.kid
    assert key.key_class == "device-bound"


def test_a_key_file_with_a_secret_of_the_attackers_choice_is_refused(mailbox, tmp_path):
    """Attack 1: without the OTP secret nobody can write the kid that comes out."""
    reader = MailboxReader(mailbox(tmp_path / "m"))
    key = OtpKeyProvider.generate(tmp_path / "k.otp", read_otp=reader)
    content = (tmp_path / "k.otp").read_text()
    secret = content.split('"secret":"')[1][:64]
    (tmp_path / "k.otp").write_text(content.replace(secret, "42" * 32))
    refused("EG-K017", lambda: OtpKeyProvider(tmp_path / "k.otp", read_otp=reader))
    assert DOCUMENTED_KEY not in content
    assert key.kid in content


@pytest.mark.parametrize("words", [[0] * 8, [0xFFFFFFFF] * 8])
def test_otp_that_was_never_written_is_refused(words, mailbox, tmp_path):
    """All zeros is every board; the hint names the tool and that it cannot be undone."""
    reader = MailboxReader(mailbox(tmp_path / "m", words))
    error = refused("EG-K018", lambda: OtpKeyProvider.generate(tmp_path / "k.otp", read_otp=reader))
    assert "undone" in error.hint
    assert not (tmp_path / "k.otp").exists()


def test_a_program_that_fails_or_that_others_can_write_gives_no_key(mailbox, tmp_path):
    """Missing, relative, world-writable, a folder, exit code 1, an error status, silence, nonsense."""
    good = mailbox(tmp_path / "good")
    good.chmod(0o777)
    silent, nonsense = tmp_path / "silent", tmp_path / "nonsense"
    silent.write_text("#!/bin/sh\nexit 0\n")
    nonsense.write_text("#!/bin/sh\necho hello\n")
    for program in (silent, nonsense):
        program.chmod(0o755)
    for program in (
        tmp_path / "none", Path("vcmailbox"), good, tmp_path, mailbox(tmp_path / "fails", code=1),
        mailbox(tmp_path / "status", status=0x80000001), silent, nonsense,
    ):  # fmt: skip
        refused("EG-E017", MailboxReader(program))


def test_a_program_sees_none_of_our_environment(tmp_path, monkeypatch):
    """PINs and credentials are in it."""
    monkeypatch.setenv("EDGEGUARD_KEY_PIN", "1234")
    program = tmp_path / "m"
    program.write_text(f'#!/bin/sh\n/usr/bin/env > "{tmp_path}/env"\n')
    program.chmod(0o755)
    refused("EG-E017", MailboxReader(program))
    assert "1234" not in (tmp_path / "env").read_text()


WORDS = st.lists(st.integers(0, 2**33), max_size=20).map(lambda words: " ".join(map(hex, words)).encode())


@given(output=st.binary(max_size=300) | WORDS)
def test_no_answer_makes_the_parser_raise_anything_else(output):
    """Bytes, or words of any size and number."""
    try:
        assert len(parse_mailbox(output)) == 32
    except ValueError:
        return


@given(data=st.data())
def test_no_key_file_makes_the_provider_raise_anything_else(tmp_path_factory, data):
    """Any change of a real file."""
    folder = tmp_path_factory.mktemp("otp")
    OtpKeyProvider.generate(folder / "k.otp", read_otp=lambda: bytes(range(32)))
    raw = (folder / "k.otp").read_bytes()
    at = data.draw(st.integers(0, len(raw) - 1))
    for changed in (raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :], raw[:at], raw * 2):
        (folder / "k.otp").write_bytes(changed)
        with pytest.raises(EdgeGuardError) as error:
            OtpKeyProvider(folder / "k.otp", read_otp=lambda: bytes(range(32)))
        assert error.value.code in {"EG-K001", "EG-K017"}
    os.unlink(folder / "k.otp")
