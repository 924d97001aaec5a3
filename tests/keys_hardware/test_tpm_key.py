"""A device key in a real TPM implementation: what stays inside, who is refused, and that nothing is left behind."""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDH, SECP256R1, generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.errors import EdgeGuardError, EnvironmentMissingError, KeyUnavailableError
from edgeguard.keys import tpm_objects
from edgeguard.keys.public_key import of_p256, parse_public_key
from edgeguard.keys.tpm import TpmKey, TpmKeyProvider, encode_key_file, parse_key_file
from edgeguard.keys.tpm_counter import TpmCounter
from edgeguard.keys.tpm_link import TpmLink
from edgeguard.trust.state import DeviceState
from edgeguard.trust.store import TrustStore

NOW_NS = 1_790_000_000_000_000_000
AUTH = b"\x01" * 32


@pytest.fixture
def key(tpm, tmp_path: Path) -> TpmKey:
    return TpmKey.create(tmp_path / "device.tpm", auth=AUTH, tcti=tpm.tcti)


def transient_handles(tcti: str) -> int:
    """How many objects and sessions are loaded now."""
    with TpmLink(tcti) as link, link.use() as esys:
        tss = link.tss
        count = 0
        for first in (tss.TPM2_HC.TRANSIENT_FIRST, tss.TPM2_HC.LOADED_SESSION_FIRST):
            _, found = esys.get_capability(tss.TPM2_CAP.HANDLES, int(first), 16)
            count += found.data.handles.count
        return int(count)


def refused(code: str, call) -> EdgeGuardError:
    with pytest.raises(EdgeGuardError) as error:
        call()
    assert error.value.code == code, error.value
    assert error.value.hint
    return error.value


def test_the_chip_computes_what_the_public_key_promises(key: TpmKey):
    """Diffie-Hellman with the point that the DER form names."""
    own = generate_private_key(SECP256R1())
    shared = key.ecdh(of_p256(own.public_key()).point)
    assert shared == own.exchange(ECDH(), parse_public_key(key.public_key()).key)
    assert key.key_class == "hardware"


def test_a_file_of_another_chip_is_refused_when_it_is_opened(key, tpm_maker, tmp_path):
    """The thief has the file, the authorisation value and a TPM of their own."""
    other = tpm_maker("other")
    refused("EG-K015", lambda: TpmKey(tmp_path / "device.tpm", auth=AUTH, tcti=other.tcti))
    lying = json.loads((tmp_path / "device.tpm").read_bytes())
    lying["parent_name"] = json.loads(_new_file(tmp_path / "other.tpm", other.tcti))["parent_name"]
    _rewrite(tmp_path / "device.tpm", lying)
    refused("EG-K015", lambda: TpmKey(tmp_path / "device.tpm", auth=AUTH, tcti=other.tcti))


def test_another_authorisation_value_opens_and_derives_nothing(key, tpm, tmp_path, statement, wrap_for):
    """Sixteen wrong ones: no lock-out, because 32 bytes are not guessed; the right one works after them."""
    wrong = TpmKeyProvider(tmp_path / "device.tpm", auth=b"\x02" * 32, tcti=tpm.tcti)
    for _ in range(8):
        refused("EG-K011", lambda: wrong.derive_secret("state"))
        refused("EG-K011", lambda: wrong.open_wrap(statement(), wrap_for(wrong)))
    assert len(key.derive_secret("state")) == 32


def test_guessing_a_short_value_locks_the_chip(tpm, tmp_path):
    """A PIN needs the TPM's lockout, and the lockout has an error of its own."""
    TpmKey.create(tmp_path / "k.tpm", auth=b"1234", tcti=tpm.tcti)
    guesser = TpmKey(tmp_path / "k.tpm", auth=b"9999", tcti=tpm.tcti)
    codes = []
    for _ in range(8):
        with pytest.raises(KeyUnavailableError) as error:
            guesser.derive_secret("state")
        codes.append(error.value.code)
    assert codes[0] == "EG-K011"
    assert codes[-1] == "EG-K012"
    right = TpmKey(tmp_path / "k.tpm", auth=b"1234", tcti=tpm.tcti)
    refused("EG-K012", lambda: right.derive_secret("state"))


def test_a_machine_in_another_state_is_refused(tpm, tmp_path, statement, wrap_for):
    """The PCR that was chosen changes: no wrap, no secret, whatever the authorisation value."""
    path = tmp_path / "k.tpm"
    key = TpmKeyProvider.generate(path, auth=AUTH, tcti=tpm.tcti, pcrs=(16, 23))
    key.open_wrap(statement(), wrap_for(key)).close()
    with TpmLink(tpm.tcti) as link, link.use() as esys:
        esys.pcr_event(link.tss.ESYS_TR.PCR16, b"another kernel")
    refused("EG-K013", lambda: key.open_wrap(statement(), wrap_for(key)))
    refused("EG-K013", lambda: key.derive_secret("state"))
    facts = json.loads(path.read_bytes())
    _rewrite(path, facts | {"pcrs": []})
    refused("EG-K015", lambda: TpmKey(path, auth=AUTH, tcti=tpm.tcti))
    _rewrite(path, facts | {"pcrs": [23]})
    narrowed = TpmKey(path, auth=AUTH, tcti=tpm.tcti)
    refused("EG-K013", lambda: narrowed.derive_secret("state"))


def test_the_policy_cannot_be_passed_by_with_the_authorisation_value_alone(tpm, tmp_path):
    """Asked directly, past this package, the TPM itself refuses."""
    from edgeguard.keys import tpm as module

    path = tmp_path / "k.tpm"
    key = TpmKey.create(path, auth=AUTH, tcti=tpm.tcti, pcrs=(16,))
    with key._operation() as use, key._loaded(use, key._file.derivation) as loaded:
        with pytest.raises(use.tss.TSS2_Exception):
            use.esys.hmac(loaded, b"m", use.tss.TPM2_ALG.SHA256, session1=use.session)
        with module._session(use.tss, use.esys, use.parent, use.tss.TPM2_SE.POLICY) as session:
            use.esys.policy_auth_value(session)
            with pytest.raises(use.tss.TSS2_Exception):
                use.esys.hmac(loaded, b"m", use.tss.TPM2_ALG.SHA256, session1=session)


def test_a_key_that_was_imported_is_not_one_that_was_made_inside(key, tpm, tmp_path):
    """Attack 1 with the TPM at hand: an HMAC key of known value, wrapped by the TPM itself, in the key file."""
    facts = json.loads((tmp_path / "device.tpm").read_bytes())
    with key._operation() as use:
        tss = use.tss
        area = tpm_objects.derivation_area(b"", tpm_objects.NO_DA, b"\0" * 32)
        imported = area[:4] + (tpm_objects.attributes_of(area) & ~0x32).to_bytes(4, "big") + area[8:]
        private, public = _software_object(tss, imported, b"\x42" * 32)
        none = tss.TPMT_SYM_DEF_OBJECT(algorithm=tss.TPM2_ALG.NULL)
        bound = use.esys.import_(use.parent, b"", public, private, b"", none, session1=use.session)
    honest = {"private": bytes(bound).hex(), "public": public.marshal()[2:].hex()}
    _rewrite(tmp_path / "device.tpm", facts | {"derivation": honest})
    refused("EG-K015", lambda: TpmKey(tmp_path / "device.tpm", auth=AUTH, tcti=tpm.tcti))
    claims = bytes.fromhex(honest["public"])
    lying = honest | {"public": (claims[:4] + area[4:8] + claims[8:]).hex()}
    _rewrite(tmp_path / "device.tpm", facts | {"derivation": lying})
    refused("EG-K015", lambda: TpmKey(tmp_path / "device.tpm", auth=AUTH, tcti=tpm.tcti))


def _software_object(tss, area: bytes, value: bytes):
    """TPM2B_PRIVATE in clear, as TPM2_Import takes it, and its public area."""
    import hashlib

    seed = b"\x24" * 32
    area = area[:-32] + hashlib.sha256(seed + value).digest()
    sensitive = b"\x00\x08" + b"\x00\x00" + b"\x00\x20" + seed + b"\x00\x20" + value
    public, _ = tss.TPM2B_PUBLIC.unmarshal(len(area).to_bytes(2, "big") + area)
    return tss.TPM2B_PRIVATE(len(sensitive).to_bytes(2, "big") + sensitive), public


def test_nothing_stays_in_the_chip(key, tpm, tmp_path, statement, wrap_for):
    """A TPM has three places: twelve operations, failing ones among them, leave none taken."""
    provider = TpmKeyProvider(tmp_path / "device.tpm", auth=AUTH, tcti=tpm.tcti)
    wrong = TpmKeyProvider(tmp_path / "device.tpm", auth=b"x" * 32, tcti=tpm.tcti)
    for _ in range(4):
        provider.open_wrap(statement(), wrap_for(provider)).close()
        provider.derive_secret("state").close()
        refused("EG-K011", lambda: wrong.derive_secret("state"))
    assert transient_handles(tpm.tcti) == 0


def test_a_chip_without_room_says_so_and_works_again(key, tpm):
    """Somebody else has left three objects in it."""
    with TpmLink(tpm.tcti) as link, link.use() as esys:
        left = [esys.create_primary(None)[0] for _ in range(3)]
        refused("EG-K014", lambda: key.derive_secret("state"))
        for handle in left:
            esys.flush_context(handle)
    assert len(key.derive_secret("state")) == 32


def test_a_chip_that_is_not_there_or_goes_away_is_an_environment_error(key, tpm, tmp_path):
    """No device, a closed port, nonsense, and a TPM that stops between two operations."""
    for nowhere in ("device:/dev/nowhere", "swtpm:host=127.0.0.1,port=1", "nonsense"):
        refused("EG-E014", lambda tcti=nowhere: TpmKey(tmp_path / "device.tpm", auth=AUTH, tcti=tcti))
    tpm.stop()
    error = refused("EG-E014", lambda: key.derive_secret("state"))
    assert isinstance(error, EnvironmentMissingError)


def test_without_the_package_the_error_names_the_extra(monkeypatch, tmp_path):
    """tpm2-pytss is not on every machine."""
    monkeypatch.setitem(sys.modules, "tpm2_pytss", None)
    error = refused("EG-E013", lambda: TpmKey.create(tmp_path / "k.tpm", auth=AUTH))
    assert "edgeguard[tpm]" in error.hint


def test_the_key_survives_a_restart_of_the_machine(key, tpm, tmp_path):
    """Startup clear: primary keys are made again, and the file still opens."""
    before = bytes(key.derive_secret("state").view)
    tpm.stop()
    tpm.start()
    again = TpmKey(tmp_path / "device.tpm", auth=AUTH, tcti=tpm.tcti)
    assert bytes(again.derive_secret("state").view) == before


def test_key_counter_and_state_share_one_tpm(key, tpm, tmp_path, site):
    """A TPM that takes one connection: the counter stays open while the key works, and nobody waits for ever."""
    provider = TpmKeyProvider(tmp_path / "device.tpm", auth=AUTH, tcti=tpm.tcti)
    trust = TrustStore.load(site / "fleet" / "trust", NOW_NS)
    with TpmCounter.create(provider, tcti=provider.tcti) as counter:
        DeviceState.create(site / "state", key=provider, trust=trust, counter=counter)
        before = counter.read()
        DeviceState.open(site / "state", key=provider, fleet_id=trust.fleet_id, counter=counter)
    with TpmCounter(provider, tcti=provider.tcti) as counter:
        assert counter.read() == before
        assert DeviceState.open(site / "state", key=provider, fleet_id=trust.fleet_id, counter=counter).undetected == ""
    assert transient_handles(tpm.tcti) == 0


def test_threads_take_turns(key):
    """Eight threads on one connection get the right answers."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: bytes(key.derive_secret(f"label-{n % 4}").view), range(32)))
    assert len(set(found)) == 4
    assert all(found[n] == found[n % 4] for n in range(32))


FORK = """
import os, sys
from edgeguard.errors import KeyUnavailableError
from edgeguard.keys.tpm import TpmKey
from edgeguard.keys.tpm_link import TpmLink, _connections

def opened():
    return TpmKey(sys.argv[1], auth=b"\\x01" * 32, tcti=sys.argv[2])

def code_of(use):
    try:
        use()
    except KeyUnavailableError as error:
        return error.code
    return "worked"

def in_child(work):
    child = os.fork()
    if child == 0:
        os._exit(0 if work() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

key = opened()
link = TpmLink(sys.argv[2])
inherited = in_child(lambda: not _connections and code_of(lambda: link.use().__enter__()) == "EG-K014")
link.close()
stale = in_child(lambda: code_of(lambda: key.derive_secret("state")) == "EG-K014")
fresh = in_child(lambda: len(opened().derive_secret("state")) == 32)
own = len(key.derive_secret("state")) != 32
sys.exit(inherited + 2 * stale + 4 * fresh + 8 * own)
"""


def test_a_forked_child_opens_its_own_key_and_connection(key, tpm, tmp_path):
    """Two processes on one connection would mix their commands, and the authorisation value is wiped by the fork."""
    arguments = [sys.executable, "-c", FORK, str(tmp_path / "device.tpm"), tpm.tcti]
    assert subprocess.run(arguments, timeout=30, check=False).returncode == 0


def test_an_owner_with_a_password_names_a_persistent_parent(tpm, tmp_path):
    """As on machines whose TPM somebody has taken ownership of."""
    with TpmLink(tpm.tcti) as link, link.use() as esys:
        tss = link.tss
        area = tpm_objects.primary_area()
        public, _ = tss.TPM2B_PUBLIC.unmarshal(len(area).to_bytes(2, "big") + area)
        handle, *_ = esys.create_primary(None, public)
        esys.evict_control(tss.ESYS_TR.OWNER, handle, 0x81000001)
        esys.flush_context(handle)
        esys.hierarchy_change_auth(tss.ESYS_TR.OWNER, b"taken")
    error = refused("EG-K011", lambda: TpmKey.create(tmp_path / "a.tpm", auth=AUTH, tcti=tpm.tcti))
    assert "parent=" in error.hint
    key = TpmKey.create(tmp_path / "b.tpm", auth=AUTH, tcti=tpm.tcti, parent=0x81000001)
    assert len(key.derive_secret("state")) == 32
    assert transient_handles(tpm.tcti) == 0


@pytest.mark.parametrize(
    "wrong", [{"auth": b""}, {"pcrs": (24,)}, {"pcrs": (-1,)}, {"parent": 1}, {"parent": 0x81800000}]
)
def test_wrong_arguments_are_refused_before_anything_is_made(wrong, tpm, tmp_path):
    """No authorisation value, no such PCR, no persistent handle."""
    arguments = {"auth": AUTH, "tcti": tpm.tcti} | wrong
    refused("EG-K008", lambda: TpmKey.create(tmp_path / "k.tpm", **arguments))
    assert not (tmp_path / "k.tpm").exists()


@given(data=st.data())
def test_no_key_file_makes_the_parser_raise_anything_else(data):
    """Any bytes, and any change of a real file."""
    area = tpm_objects.agreement_area(b"", 0, b"\x01" * 32, b"\x02" * 32)
    from edgeguard.keys.tpm import SCHEMA, TpmKeyFile, TpmObject

    real = encode_key_file(
        TpmKeyFile(
            SCHEMA, 0, "000b" + "11" * 32, (), TpmObject("22" * 64, area.hex()),
            TpmObject("33" * 64, tpm_objects.derivation_area(b"", 0, b"\x04" * 32).hex()),
        )
    )  # fmt: skip
    assert parse_key_file(real)[1] == b"\x01" * 32
    at = data.draw(st.integers(0, len(real) - 1))
    changed = real[:at] + bytes([real[at] ^ data.draw(st.integers(1, 255))]) + real[at + 1 :]
    for raw in (data.draw(st.binary(max_size=200)), changed, real[:at], real + b"\n"):
        with suppress(KeyUnavailableError):  # and nothing else
            facts, _, _ = parse_key_file(raw)
            assert encode_key_file(facts) == raw  # another key, but one that this module would make: the TPM decides
    with pytest.raises(KeyUnavailableError):
        parse_key_file(real[:at])


class Tap(threading.Thread):
    """Stands between a TPM and whoever uses it, on both of its ports, and records what passes."""

    def __init__(self, port: int, own: int) -> None:
        super().__init__(daemon=True)
        self._port, self.port = port, own
        self._servers = [socket.create_server(("127.0.0.1", own + offset)) for offset in range(2)]
        self._over = False
        self.seen: list[bytes] = []

    def run(self) -> None:
        with ExitStack() as stack, selectors.DefaultSelector() as waiting:
            for offset, server in enumerate(self._servers):
                waiting.register(stack.enter_context(server), selectors.EVENT_READ, (self._port + offset, None))
            while not self._over:
                for ready, _ in waiting.select(0.05):
                    port, sink = ready.data
                    if sink is None:
                        here = stack.enter_context(ready.fileobj.accept()[0])
                        there = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                        waiting.register(here, selectors.EVENT_READ, (port, there))
                        waiting.register(there, selectors.EVENT_READ, (port, here))
                    elif part := ready.fileobj.recv(4096):
                        self.seen.append(part)
                        sink.sendall(part)
                    else:
                        waiting.unregister(ready.fileobj)
                        with suppress(OSError):
                            sink.shutdown(socket.SHUT_WR)

    def stop(self) -> None:
        self._over = True
        self.join()


@pytest.fixture
def tapped(tpm, free_port) -> Iterator[tuple[str, list[bytes]]]:
    """A TCTI that leads to the TPM through a recorder, and what was recorded."""
    tap = Tap(tpm.port, free_port())
    tap.start()
    yield f"swtpm:host=127.0.0.1,port={tap.port}", tap.seen
    tap.stop()


def test_a_tap_on_the_bus_sees_no_secret(tapped, tmp_path):
    """Neither the authorisation value, nor a shared secret, nor a derived one; the public key it does see."""
    from edgeguard.keys.tpm import _auth_value

    tcti, seen = tapped
    key = TpmKey.create(tmp_path / "k.tpm", auth=AUTH, tcti=tcti)
    own = generate_private_key(SECP256R1())
    shared = key.ecdh(of_p256(own.public_key()).point)
    derived = bytes(key.derive_secret("state").view)
    traffic = b"".join(seen)
    assert parse_public_key(key.public_key()).point[1:33] in traffic
    for secret in (AUTH, _auth_value(AUTH), shared, derived):
        assert secret not in traffic


def _new_file(path: Path, tcti: str) -> bytes:
    TpmKey.create(path, auth=AUTH, tcti=tcti)
    return path.read_bytes()


def _rewrite(path: Path, facts: dict[str, object]) -> None:
    path.write_bytes(json.dumps(facts, separators=(",", ":"), sort_keys=True).encode() + b"\n")
