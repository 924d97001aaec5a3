"""The bytes of a revocation list: what the host writes the device reads, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.errors import EdgeGuardError, ProvisioningError, TrustError
from edgeguard.trust.revocation import LIST_FILE, METADATA_FILE, parse_list, verified_list
from edgeguard.trust.store import TrustStore
from edgeguard.trust.strict_json import canonical
from firmware_tools.fleet import Fleet
from firmware_tools.revocation_list import Entries, empty_list, list_bytes

NOW_NS = 1_790_000_000_000_000_000
FLEET_ID = "ab" * 32
hex_64 = st.binary(min_size=32, max_size=32).map(bytes.hex)
hex_32 = st.binary(min_size=16, max_size=16).map(bytes.hex)
numbers = st.integers(0, 10**18 - 1)
names = st.from_regex(r"\A[a-z][a-z0-9-]{0,20}\Z")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    fleet = Fleet.create(tmp_path_factory.mktemp("f") / "fleet", name="test", wall_ns=NOW_NS)
    return fleet.trust_folder


@given(
    st.frozensets(hex_64, max_size=5),
    st.dictionaries(hex_64, st.frozensets(hex_64, max_size=3), max_size=3),
    st.frozensets(hex_32, max_size=5),
    st.dictionaries(names, st.tuples(numbers, numbers), max_size=4),
    st.tuples(numbers, st.integers(1, 10**18 - 1)),
)
def test_what_is_written_is_read(bundles, signers, devices, floors, place):
    """Every entry, and nothing added."""
    entries = Entries(bundles, signers, devices, floors)
    content = list_bytes(FLEET_ID, place, NOW_NS, entries)
    read = parse_list(content, fleet_id=FLEET_ID, expires_ns=1)
    assert Entries.of(read) == entries
    assert (read.place, read.issued_ns, read.content) == (place, NOW_NS, content)
    for keyid, still_good in signers.items():
        assert read.revokes_signer(keyid, bytes(32)) == ("00" * 32 not in still_good)
        assert not any(read.revokes_signer(keyid, bytes.fromhex(one)) for one in still_good)


@given(data=st.data())
def test_any_edit_of_either_file_is_refused(folder, data):
    """Flip, cut, insert: TrustError or the very same list; never a foreign error."""
    trust = TrustStore.load(folder, NOW_NS)
    files = [(folder / METADATA_FILE).read_bytes(), (folder / LIST_FILE).read_bytes()]
    which = data.draw(st.integers(0, 1))
    raw = files[which]
    start = data.draw(st.integers(0, len(raw)))
    files[which] = raw[:start] + data.draw(st.binary(max_size=5)) + raw[start + data.draw(st.integers(0, 5)) :]
    code = ""
    try:
        assert verified_list(trust, *files) == trust.revocation
    except TrustError as error:
        code = error.code
    assert code in ("", "EG-T021", "EG-T010")


@given(st.binary(max_size=300))
def test_junk_raises_only_errors_of_ours(raw):
    """Any bytes at all."""
    with pytest.raises(EdgeGuardError) as error:
        parse_list(raw, fleet_id=FLEET_ID, expires_ns=0)
    assert error.value.code == "EG-T021"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", "edgeguard/revocation/v2"),
        ("version", "0"),
        ("version", 1),
        ("version", "01"),
        ("epoch", str(2**63)),
        ("issued", "2026-02-30T00:00:00Z"),
        ("bundles", ["ab" * 32, "ab" * 32]),
        ("bundles", ["cd" * 32, "ab" * 32]),
        ("bundles", ["AB" * 32]),
        ("devices", ["ab" * 32]),
        ("signers", [{"keyid": "ab" * 32, "except": ["cd" * 32, "ab" * 32]}]),
        ("signers", [{"keyid": "ab" * 32, "unless": []}]),
        ("floors", {"m": {"epoch": "0", "number": "9223372036854775808"}}),
        ("floors", {"../m": {"epoch": "0", "number": "1"}}),
        ("more", []),
    ],
)
def test_a_list_that_could_be_read_in_two_ways_is_refused(field, value):
    """Unknown fields, doubles, other spellings, unsorted: nothing is guessed."""
    fields = json.loads(empty_list(FLEET_ID, NOW_NS)) | {field: value}
    with pytest.raises(TrustError) as error:
        parse_list(canonical(fields), fleet_id=FLEET_ID, expires_ns=0)
    assert error.value.code == "EG-T021"


def test_a_list_in_other_spelling_is_refused():
    """Canonical JSON or nothing, duplicate keys included."""
    raw = empty_list(FLEET_ID, NOW_NS)
    for other in (raw + b"\n", raw.replace(b":", b": ", 1), raw.replace(b'{"b', b'{"bundles":[],"b', 1), b"[" * 40):
        with pytest.raises(TrustError):
            parse_list(other, fleet_id=FLEET_ID, expires_ns=0)


def test_an_entry_that_cannot_be_written_is_a_provisioning_error():
    """Before anything is signed."""
    for entries in (
        Entries(bundles=frozenset({"x"})),
        Entries(floors={"m": (0, 2**63)}),
        Entries(floors={"/": (0, 1)}),
    ):
        with pytest.raises(ProvisioningError) as error:
            list_bytes(FLEET_ID, (0, 1), NOW_NS, entries)
        assert error.value.code == "EG-P003"


@pytest.mark.parametrize("missing", [METADATA_FILE, LIST_FILE])
def test_half_a_list_is_no_list_and_says_so(folder, tmp_path, missing):
    """One of the two files deleted."""
    copy = Path(shutil.copytree(folder, tmp_path / "t"))
    (copy / missing).unlink()
    trust = TrustStore.load(copy, NOW_NS)
    assert trust.revocation is None
    assert "missing" in trust.revocation_refusal
