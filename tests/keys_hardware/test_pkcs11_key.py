"""A device key on a real PKCS#11 token (SoftHSM): which module, whose objects, which attributes, which PIN."""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDH, SECP256R1, generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.errors import ConfigError, EdgeGuardError
from edgeguard.keys import token_link
from edgeguard.keys.open_key import open_key
from edgeguard.keys.pkcs11 import Pkcs11Key, Pkcs11KeyProvider
from edgeguard.keys.pkcs11_uri import Pkcs11Uri, parse_pkcs11_uri
from edgeguard.keys.public_key import of_p256, parse_public_key
from edgeguard.keys.token_link import TokenLink, trusted_module

PIN = b"4711-pin"
MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
OUR_PKCS11 = pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed: pip install edgeguard[pkcs11]")


@pytest.fixture
def uri(softhsm, tmp_path) -> Pkcs11Uri:
    """An address of a label that nothing has yet, and nobody logged in."""
    gc.collect()  # keys of other tests that nobody holds any more
    return softhsm(label=f"key-{tmp_path.name}")


def pin() -> bytes:
    return PIN


def refused(code: str, call) -> EdgeGuardError:
    with pytest.raises(EdgeGuardError) as error:
        call()
    assert error.value.code == code, error.value
    assert error.value.hint
    assert PIN.decode() not in f"{error.value} {error.value.hint}"
    return error.value


def test_a_wrong_pin_opens_nothing_and_the_right_one_still_does(uri):
    """One error for wrong, too short and empty; the message never has the PIN."""
    Pkcs11Key.create(uri, pin).close()
    for wrong in (b"0000", b"1", b"\xff\xfe", b"x" * 300):
        refused("EG-K011", lambda wrong=wrong: Pkcs11Key(uri, lambda: wrong))
    assert len(Pkcs11KeyProvider(uri, pin).derive_secret("state")) == 32


@pytest.mark.parametrize(
    ("raised", "code"),
    [("PinLocked", "EG-K012"), ("PinExpired", "EG-K012"), ("TokenNotPresent", "EG-E016"), ("DeviceRemoved", "EG-E016"),
     ("SessionCount", "EG-K014"), ("DeviceError", "EG-K001")],
)  # fmt: skip
def test_every_refusal_of_a_token_has_a_code_and_a_hint(raised, code):
    """What SoftHSM never answers, by the library's own exceptions."""
    error = token_link.refusal(getattr(OUR_PKCS11, raised)())
    assert error.code == code
    assert error.hint


def test_the_pin_is_asked_for_once_in_a_process(uri):
    """A login belongs to the process; the last one who lets go logs out."""
    first = Pkcs11Key.create(uri, pin)
    second = Pkcs11Key(uri, lambda: pytest.fail("asked again"))
    first.close()
    assert len(second.derive_secret("state")) == 32
    second.close()
    refused("EG-K011", lambda: Pkcs11Key(uri, lambda: b"9999"))
    refused("EG-K014", lambda: second.derive_secret("state"))


def test_nothing_can_be_read_out_of_the_token(uri):
    """Neither key has a value to read, and no session object is left after fifty operations."""
    key = Pkcs11Key.create(uri, pin)
    attribute = OUR_PKCS11.Attribute
    for _ in range(50):
        key.derive_secret("state").close()
        key.ecdh(parse_public_key(key.public_key()).point)
    with TokenLink(uri, pin) as link, link.use() as session:
        for item in (key._agreement, key._derivation):
            with pytest.raises(OUR_PKCS11.PKCS11Error):
                item[attribute.VALUE]
        assert list(session.get_objects({attribute.TOKEN: False})) == []


def test_objects_that_anybody_can_plant_change_nothing(uri, plant):
    """Without a PIN, before and after: public keys of our label, an HMAC key of known value."""
    foreign = b"\x04\x41" + _point()
    plant(uri, foreign)
    key = Pkcs11Key.create(uri, pin)
    assert parse_public_key(key.public_key()).point not in foreign
    own = generate_private_key(SECP256R1())
    agreed = key.ecdh(of_p256(own.public_key()).point)
    assert agreed == own.exchange(ECDH(), parse_public_key(key.public_key()).key)
    before = bytes(key.derive_secret("state").view), key.public_key()
    key.close()
    for point in (b"\x04\x41" + b"\x04" * 65, b"", b"\x04\x41" + _point()):
        plant(uri, point)
    attribute = OUR_PKCS11.Attribute
    with OUR_PKCS11.lib(str(MODULE.resolve())).get_token(token_label=uri.token).open(rw=True) as stranger:
        stranger.create_object({
            attribute.LABEL: uri.object, attribute.TOKEN: True, attribute.PRIVATE: False, attribute.SIGN: True,
            attribute.CLASS: OUR_PKCS11.ObjectClass.SECRET_KEY, attribute.VALUE: b"k" * 32,
            attribute.KEY_TYPE: OUR_PKCS11.KeyType.GENERIC_SECRET,
        })  # fmt: skip
    again = Pkcs11Key(uri, pin)
    assert (bytes(again.derive_secret("state").view), again.public_key()) == before


def _point() -> bytes:
    return of_p256(generate_private_key(SECP256R1()).public_key()).point


@pytest.mark.parametrize("flaw", ["extractable", "signs too", "imported", "missing"])
def test_a_key_that_was_not_made_for_this_is_refused(flaw, uri):
    """Made by another tool: it may leave the token, does more than it should, or came from outside."""
    attribute, p11 = OUR_PKCS11.Attribute, OUR_PKCS11
    Pkcs11Key.create(uri, pin).close()
    with TokenLink(uri, pin) as link, link.writing() as session:
        wanted = {attribute.LABEL: uri.object, attribute.CLASS: p11.ObjectClass.SECRET_KEY}
        for item in list(session.get_objects(wanted)):
            item.destroy()
        common = {attribute.SENSITIVE: True, attribute.EXTRACTABLE: flaw == "extractable", attribute.PRIVATE: True,
                  attribute.SIGN: True, attribute.DERIVE: flaw == "signs too"}  # fmt: skip
        if flaw == "imported":
            session.create_object(
                common | {attribute.CLASS: p11.ObjectClass.SECRET_KEY, attribute.TOKEN: True,
                          attribute.KEY_TYPE: p11.KeyType.GENERIC_SECRET, attribute.VALUE: b"k" * 32,
                          attribute.LABEL: uri.object}
            )  # fmt: skip
        elif flaw != "missing":
            session.generate_key(p11.KeyType.GENERIC_SECRET, 256, label=uri.object, store=True, template=common)
    refused("EG-K001" if flaw == "missing" else "EG-K015", lambda: Pkcs11Key(uri, pin))


def test_another_token_of_the_same_name_is_not_opened(softhsm, tmp_path):
    """Attack 1: all files copied, a token of that label with a PIN of the attacker's beside or instead of it."""
    ours = softhsm(token="twice", label="device")
    refused("EG-E016", lambda: Pkcs11Key.create(ours, pin))
    tokens = [slot.get_token() for slot in OUR_PKCS11.lib(str(MODULE.resolve())).get_slots(token_present=True)]
    serials = [token.serial.decode() for token in tokens if token.label == "twice"]
    assert len(serials) == 2
    addresses = [replace(ours, serial=serial) for serial in serials]
    assert sorted(_codes(address, Pkcs11Key.create) for address in addresses) == ["EG-K011", "opened"]
    assert sorted(_codes(address, Pkcs11Key) for address in addresses) == ["EG-K011", "opened"]


def _codes(uri: Pkcs11Uri, how) -> str:
    try:
        how(uri, pin).close()
    except EdgeGuardError as error:
        return error.code
    return "opened"


def test_a_module_that_others_could_write_is_not_loaded(uri, tmp_path):
    """A module is code: a copy in /tmp, one in a folder of others, another digest, none, and no module at all."""
    copy = tmp_path / "module.so"
    copy.write_bytes(MODULE.read_bytes())
    copy.chmod(0o755)
    refused("EG-K016", lambda: trusted_module(copy, uri.module_sha256))
    refused("EG-K016", lambda: trusted_module(MODULE, "0" * 64))
    refused("EG-K016", lambda: trusted_module(tmp_path / "none.so", uri.module_sha256))
    refused("EG-K016", lambda: trusted_module(Path("/usr/lib"), uri.module_sha256))
    assert trusted_module(MODULE, uri.module_sha256) == MODULE.resolve()
    link = tmp_path / "link.so"
    link.symlink_to(MODULE)  # whoever can write the link cannot write what it leads to
    assert trusted_module(link, uri.module_sha256) == MODULE.resolve()


def test_a_library_that_is_no_module_does_not_load(uri):
    """The C library of this machine, pinned correctly."""
    other = next(
        Path(line.split()[-1]) for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line
    )
    pinned = replace(uri, module_path=other, module_sha256=hashlib.sha256(other.read_bytes()).hexdigest())
    refused("EG-E016", lambda: Pkcs11Key(pinned, pin))


def test_a_token_that_is_not_there_is_an_environment_error(uri):
    """Pulled out, or a slip of the pen."""
    refused("EG-E016", lambda: Pkcs11Key(replace(uri, token="nobody"), pin))


def test_without_the_package_the_error_names_the_extra(uri, monkeypatch):
    """python-pkcs11 is not on every machine."""
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    assert "edgeguard[pkcs11]" in refused("EG-E015", lambda: Pkcs11Key(uri, pin)).hint


def test_the_pin_comes_from_file_environment_or_a_person(uri, monkeypatch, tmp_path):
    """In that order; a file that others can read gives none, and nobody there is an error."""
    Pkcs11Key.create(uri, pin).close()
    silent = replace(uri, pin_source="")
    refused("EG-K009", lambda: open_key(str(silent)))
    refused("EG-K009", lambda: open_key(str(silent), ask=lambda what: b""))
    asked: list[str] = []
    open_key(str(silent), ask=lambda what: asked.append(what) or PIN).close()  # type: ignore[func-returns-value]
    assert asked == ["PIN of token eg"]
    monkeypatch.setenv("EDGEGUARD_KEY_PIN", PIN.decode())
    open_key(str(silent)).close()
    Path(uri.pin_source).chmod(0o640)
    try:
        refused("EG-K002", lambda: open_key(str(uri)))
    finally:
        Path(uri.pin_source).chmod(0o600)
    refused("EG-K001", lambda: open_key(str(replace(uri, pin_source=str(tmp_path / "none")))))


def test_a_session_does_not_pass_to_a_forked_child(uri):
    """PKCS#11 gives a child nothing; it gets an error and not the parent's session."""
    Pkcs11Key.create(uri, pin).close()
    script = (
        "import os, sys\n"
        "from edgeguard.errors import KeyUnavailableError\n"
        "from edgeguard.keys.open_key import open_key\n"
        "key = open_key(sys.argv[1])\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try:\n"
        "        key.derive_secret('state')\n"
        "    except KeyUnavailableError as error:\n"
        "        os._exit(0 if error.code == 'EG-K014' else 2)\n"
        "    os._exit(1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or len(key.derive_secret('state')) - 32)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(uri)], timeout=30, check=False, env=dict(os.environ))
    assert done.returncode == 0


def test_a_token_in_files_does_not_call_itself_hardware(uri):
    """SoftHSM's slot has no CKF_HW_SLOT; its key is of class `file`, whatever anybody hopes."""
    assert Pkcs11KeyProvider.generate(uri, pin).key_class == "file"


text = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=20)


@given(token=text, name=text, serial=st.just("") | text, source=st.just("") | text, module=text)
def test_an_address_survives_being_written(token, name, serial, source, module):
    """Whatever labels hold."""
    uri = Pkcs11Uri(token, name, Path("/" + module.lstrip("/")), "ab" * 32, serial, source)
    assert parse_pkcs11_uri(str(uri)) == uri


@given(junk=st.text(max_size=80), cut=st.integers(0, 120))
def test_no_text_makes_the_address_parser_raise_anything_else(junk, cut):
    """A ConfigError with a code, and never a PIN in its message."""
    good = "pkcs11:token=eg;object=d?module-path=/m.so&module-sha256=" + "ab" * 32
    for hostile in (junk, "pkcs11:" + junk, good[:cut] + junk + good[cut:], good + "&pin-value=123456"):
        with suppress(ConfigError):  # and nothing else
            parsed = parse_pkcs11_uri(hostile)
            assert parse_pkcs11_uri(str(parsed)) == parsed
    with pytest.raises(ConfigError) as error:
        parse_pkcs11_uri(good + "&pin-value=123456")
    assert error.value.code == "EG-C060"
    assert "123456" not in str(error.value)
