"""calibration.json: what it holds, whom it is believed from, and what hostile bytes do to its reader."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeguard.checks.calibration_file import (
    MAX_BINS,
    MAX_FILE_BYTES,
    SCHEMA,
    Bin,
    Calibration,
    FleetSignature,
    HeldOut,
    Made,
    Monitor,
    Rig,
    SensorSection,
    attach,
    open_calibration,
    read_calibration,
    seal,
    signed_message,
    write_section,
)
from edgeguard.cli.main import run
from edgeguard.errors import CalibrationError, EdgeGuardError, ProvisioningError
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.store import RELEASE, TrustStore
from edgeguard.trust.strict_json import canonical
from firmware_tools.cli import cli as host_cli
from firmware_tools.fleet import Fleet
from firmware_tools.sign_calibration import sign_calibration

NOW_NS = 1_790_000_000_000_000_000


def one_bin(**changes: Any) -> Bin:
    """A bin as a fit gives it."""
    facts = {
        "from_m_s": 0.0, "to_m_s": None, "location": 0.25, "sigma": 0.5, "samples": 420, "clean_s": 42.0,
        "cusum_h": 12.5, "decorrelation_samples": 3.0, "basis": "data",
    }  # fmt: skip
    return Bin(**(facts | changes))


def section(**monitors: tuple[Bin, ...]) -> SensorSection:
    """A sensor section of a small rig."""
    return SensorSection(
        Rig({"camera": "Image", "lidar": "PointCloud"}, "ab" * 32),
        Made("drive.mcap", 0.0, 60.0, 24.0, 0),
        HeldOut(18.0, 0, 599.0),
        {name: Monitor("0+-1m both gate 6x3 k 0.5", bins) for name, bins in (monitors or {"X1": (one_bin(),)}).items()},
    )


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> FileKeyProvider:
    """A device's key."""
    return FileKeyProvider.generate(tmp_path_factory.mktemp("key") / "device.pem")


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> FileKeyProvider:
    """Another device's."""
    return FileKeyProvider.generate(tmp_path_factory.mktemp("other") / "device.pem")


def refused(raw: bytes, key: FileKeyProvider | None, trust: TrustStore | None = None) -> str:
    """The code with which a file is refused."""
    with pytest.raises(CalibrationError) as caught:
        open_calibration(raw, key=key, trust=trust)
    assert caught.value.hint
    return caught.value.code


def test_what_is_written_is_what_is_read(tmp_path: Path, key: FileKeyProvider) -> None:
    """Fits, speeds and definitions survive the file; the file is canonical JSON."""
    made = section(A=(one_bin(to_m_s=3.0, sigma=0.1), one_bin(from_m_s=3.0, sigma=0.9)), B=(one_bin(),))
    write_section(tmp_path / "c.json", key, sensors=made)
    read = read_calibration(tmp_path / "c.json", key=key)
    assert read.sensors == made
    fits = made.fits()
    assert sorted(fits) == ["A", "B"]
    assert fits.get("A", 2.0).sigma == 0.1  # type: ignore[union-attr]
    assert fits.get("A", 200.0).sigma == 0.9  # type: ignore[union-attr]
    assert fits.definitions["B"] == made.monitors["B"].definition
    raw = (tmp_path / "c.json").read_bytes()
    assert raw == canonical(json.loads(raw))


def test_rewriting_one_section_keeps_the_other(tmp_path: Path, key: FileKeyProvider) -> None:
    """In both directions, and what `inputs` holds is not looked into."""
    path = tmp_path / "c.json"
    inputs = {"detector": {"threshold": 1.5, "names": ["a", "b"], "none": None}}
    write_section(path, key, sensors=section())
    write_section(path, key, inputs=inputs)
    assert read_calibration(path, key=key).sensors == section()
    write_section(path, key, sensors=section(Z=(one_bin(),)))
    read = read_calibration(path, key=key)
    assert read.inputs == inputs
    assert read.sensors == section(Z=(one_bin(),))
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]


def test_a_file_that_is_not_authentic_is_not_written_over(
    tmp_path: Path, key: FileKeyProvider, other_key: FileKeyProvider
) -> None:
    """Its other section would be signed along with ours."""
    path = tmp_path / "c.json"
    write_section(path, other_key, inputs={"wide": "open"})
    before = path.read_bytes()
    with pytest.raises(CalibrationError, match="EG-L002"):
        write_section(path, key, sensors=section())
    assert path.read_bytes() == before


def test_every_changed_byte_is_refused(key: FileKeyProvider) -> None:
    """Whichever byte it is and whatever it becomes."""
    raw = seal(Calibration(SCHEMA, key.kid, "", section(), None), key)
    open_calibration(raw, key=key)
    for place in range(len(raw)):
        for flip in (1, 2, 16):
            changed = raw[:place] + bytes([raw[place] ^ flip]) + raw[place + 1 :]
            assert refused(changed, key) in {"EG-L001", "EG-L002", "EG-L003"}


def test_another_device_s_file_is_refused_and_so_is_one_that_claims_to_be_ours(
    key: FileKeyProvider, other_key: FileKeyProvider
) -> None:
    """The MAC binds the key id, and needs the private key."""
    assert refused(seal(Calibration(SCHEMA, other_key.kid, "", section(), None), other_key), key) == "EG-L002"
    assert refused(seal(Calibration(SCHEMA, key.kid, "", section(), None), other_key), key) == "EG-L002"
    assert refused(seal(Calibration(SCHEMA, other_key.kid, "", section(), None), key), key) == "EG-L002"
    assert refused(seal(Calibration(SCHEMA, key.kid, "", section(), None), key), None) == "EG-L002"


def test_another_version_of_the_format_is_told_from_damage(key: FileKeyProvider) -> None:
    """An authentic file of tomorrow gives its own code."""
    tree = json.loads(seal(Calibration(SCHEMA, key.kid, "", section(), None), key))
    tree["calibration"]["schema"] = "edgeguard/calibration/v2"
    assert refused(canonical(tree), key) == "EG-L003"
    tree["calibration"]["schema"] = "edgeguard/device-state/v1"
    assert refused(canonical(tree), key) == "EG-L001"


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("monitors", "X1", "bins", 0, "sigma"), 0.0),
        (("monitors", "X1", "bins", 0, "sigma"), -1.0),
        (("monitors", "X1", "bins", 0, "sigma"), 1e19),
        (("monitors", "X1", "bins", 0, "sigma"), "1"),
        (("monitors", "X1", "bins", 0, "cusum_h"), 0.5),
        (("monitors", "X1", "bins", 0, "decorrelation_samples"), 0.0),
        (("monitors", "X1", "bins", 0, "to_m_s"), 0.0),
        (("monitors", "X1", "bins", 0, "from_m_s"), -1.0),
        (("monitors", "X1", "bins", 0, "basis"), "hope"),
        (("monitors", "X1", "bins", 0, "gate"), 100.0),
        (("monitors", "X1", "bins"), []),
        (("monitors", "X1", "definition"), "x" * 257),
        (("rig", "sensors"), {}),
        (("rig", "geometry"), "ab"),
        (("made", "hours_between_alarms"), 0.0),
        (("held_out", "alarms"), -1),
    ],
)
def test_values_out_of_bounds_are_refused_though_the_device_itself_wrote_them(
    key: FileKeyProvider, where: tuple[str | int, ...], value: Any
) -> None:
    """A sealed file is held against the schema like any other."""
    tree: Any = json.loads(seal(Calibration(SCHEMA, key.kid, "", section(), None), key))
    inner = tree["calibration"]["sensors"]
    for step in where[:-1]:
        inner = inner[step]
    inner[where[-1]] = value
    assert refused(canonical(tree), key) == "EG-L001"


def test_bins_overlap_nowhere_and_are_not_endless() -> None:
    """Neither out of order, nor one after an open end, nor too many."""
    for bins in (
        (one_bin(to_m_s=5.0), one_bin(from_m_s=4.0)),
        (one_bin(), one_bin(from_m_s=4.0)),
        (one_bin(from_m_s=4.0, to_m_s=5.0), one_bin(to_m_s=4.0)),
    ):
        with pytest.raises(ValueError, match="sorted"):
            Monitor("", bins)
    many = tuple(one_bin(from_m_s=float(i), to_m_s=i + 1.0) for i in range(MAX_BINS + 1))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(msgspec.to_builtins(section(X=many)), SensorSection)


def test_too_large_missing_and_unreadable_files_are_errors_of_ours(tmp_path: Path, key: FileKeyProvider) -> None:
    """A folder, a link, nothing, and more than is read."""
    assert refused(b" " * (MAX_FILE_BYTES + 1), key) == "EG-L001"
    real = tmp_path / "real.json"
    write_section(real, key, sensors=section())
    (tmp_path / "link.json").symlink_to(real)
    for path in (tmp_path, tmp_path / "none.json", tmp_path / "link.json", Path("a\0b")):
        with pytest.raises(CalibrationError, match="EG-L005"):
            read_calibration(path, key=key)
    with pytest.raises(CalibrationError, match="EG-L005"):
        write_section(tmp_path / "no" / "c.json", key, sensors=section())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(raw=st.binary(max_size=300) | json_values.map(lambda v: json.dumps(v).encode()))
def test_arbitrary_bytes_raise_nothing_foreign(raw: bytes) -> None:
    """Without any key, whatever is fed."""
    with pytest.raises(EdgeGuardError):
        open_calibration(raw)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=json_values)
def test_arbitrary_values_anywhere_in_a_file_are_refused(key: FileKeyProvider, data: st.DataObject, value: Any) -> None:
    """Any node of the tree replaced by anything: never accepted, never a foreign exception."""
    raw = seal(Calibration(SCHEMA, key.kid, "", section(), {"a": [1]}), key)
    tree: Any = json.loads(raw)
    node, inner = tree, tree
    while isinstance(inner, (dict, list)) and inner and data.draw(st.booleans()):
        node = inner
        step = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        inner = node[step]
    if node is inner:
        tree = value
    else:
        node[step] = value
    changed = canonical(tree)
    if changed != raw:
        refused(changed, key)


finite = st.floats(-1e17, 1e17)
bins = st.builds(
    Bin,
    from_m_s=st.just(0.0),
    to_m_s=st.none() | st.floats(0.01, 1000.0),
    location=finite,
    sigma=st.floats(1e-12, 1e17),
    samples=st.integers(0, 2**53),
    clean_s=st.floats(0.0, 1e8),
    cusum_h=st.floats(1.0, 1e6),
    decorrelation_samples=st.floats(1.0, 1e6),
    basis=st.sampled_from(["data", "prior"]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.dictionaries(st.text(min_size=1, max_size=20), bins.map(lambda b: (b,)), max_size=4))
def test_any_fits_survive_the_file(key: FileKeyProvider, made: dict[str, tuple[Bin, ...]]) -> None:
    """Every float and every name comes back as it was."""
    calibration = Calibration(SCHEMA, key.kid, "", section(**(made or {"X": (one_bin(),)})), None)
    assert open_calibration(seal(calibration, key), key=key) == calibration


@dataclass(frozen=True)
class SignedFleet:
    """A fleet and its trust."""

    fleet: Fleet
    trust: TrustStore

    def sign(self, calibration: Calibration, role: str = RELEASE) -> bytes:
        """A fleet's file, signed by one key of a role."""
        import base64

        signer = self.fleet.signers(role, 1)[0]
        signature = base64.b64encode(signer.sign(signed_message(calibration))).decode()
        return attach(calibration, [FleetSignature(signer.public_key().keyid, signature)])


def make_fleet(root: Path) -> SignedFleet:
    """A classical fleet with one release key."""
    fleet = Fleet.create(root / "fleet", name="test", wall_ns=NOW_NS - 10**9, device_state="optional")
    return SignedFleet(fleet, fleet.trust(NOW_NS))


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> SignedFleet:
    """A fleet."""
    return make_fleet(tmp_path_factory.mktemp("fleet"))


def test_a_fleet_s_calibration_is_believed_from_its_release_keys(signed: SignedFleet, key: FileKeyProvider) -> None:
    """By every device that trusts the fleet, with no key at hand; a device's key does not make one."""
    calibration = Calibration(SCHEMA, "", signed.trust.fleet_id, section(), None)
    raw = signed.sign(calibration)
    assert open_calibration(raw, trust=signed.trust) == calibration
    assert refused(raw, key) == "EG-L002"
    assert refused(signed.sign(calibration, "revocation"), None, signed.trust) == "EG-L002"
    foreign = Calibration(SCHEMA, "", "0" * 64, section(), None)
    assert refused(signed.sign(foreign), None, signed.trust) == "EG-L002"
    ours = Calibration(SCHEMA, key.kid, "", section(), None)
    assert refused(signed.sign(ours), None, signed.trust) == "EG-L002"


def test_another_fleet_or_another_payload_is_refused(tmp_path: Path, signed: SignedFleet) -> None:
    """Signatures of one fleet say nothing to another; a signature over one calibration is none over the next."""
    calibration = Calibration(SCHEMA, "", signed.trust.fleet_id, section(), None)
    raw = signed.sign(calibration)
    assert refused(raw, None, make_fleet(tmp_path).trust) == "EG-L002"
    tree = json.loads(raw)
    tree["calibration"]["sensors"]["monitors"]["X1"]["bins"][0]["sigma"] = 50.0
    assert refused(canonical(tree), None, signed.trust) == "EG-L002"
    tree["signatures"][0]["signature"] = "!"
    assert refused(canonical(tree), None, signed.trust) == "EG-L002"


def test_a_signer_turns_a_device_s_file_into_the_fleet_s(signed: SignedFleet, key: FileKeyProvider) -> None:
    """After seeing the numbers; every device of the fleet then accepts them, and nothing else has changed."""
    raw = seal(Calibration(SCHEMA, key.kid, "", section(), {"a": 1}), key)
    signer = signed.fleet.signers(RELEASE, 1)[0]
    seen: list[Calibration] = []
    made = sign_calibration(raw, signed.trust, signer, confirm=lambda shown: seen.append(shown) is None)
    assert made.missing == ()
    opened = open_calibration(made.content, trust=signed.trust)
    assert seen == [opened]
    assert (opened.sensors, opened.inputs, opened.device) == (section(), {"a": 1}, "")
    again = sign_calibration(made.content, signed.trust, signer, confirm=lambda _: True)
    assert len(json.loads(again.content)["signatures"]) == 1


def test_a_signer_refuses_what_is_not_his_to_sign(tmp_path: Path, signed: SignedFleet, key: FileKeyProvider) -> None:
    """No release key, no confirmation, another fleet's file, a signature that does not verify."""
    raw = seal(Calibration(SCHEMA, key.kid, "", section(), None), key)
    release, other = signed.fleet.signers(RELEASE, 1)[0], signed.fleet.signers("revocation", 1)[0]
    fleet_file = sign_calibration(raw, signed.trust, release, confirm=lambda _: True).content
    tree = json.loads(fleet_file)
    tree["calibration"]["sensors"]["held_out"]["alarms"] = 7
    foreign = make_fleet(tmp_path)
    for code, content, trust, signer, answer in (
        ("EG-P060", raw, signed.trust, other, True),
        ("EG-P061", raw, signed.trust, release, False),
        ("EG-P064", canonical(tree), signed.trust, release, True),
        ("EG-P064", fleet_file, foreign.trust, foreign.fleet.signers(RELEASE, 1)[0], True),
    ):
        with pytest.raises(ProvisioningError, match=code):
            sign_calibration(content, trust, signer, confirm=lambda _, answer=answer: answer)


def test_a_fleet_with_two_thresholds_waits_for_both_signers(tmp_path: Path, key: FileKeyProvider) -> None:
    """One signature is not enough; the second one is added to the first."""
    fleet = Fleet.create(
        tmp_path / "fleet", name="two", wall_ns=NOW_NS - 10**9, device_state="optional",
        release_keys=2, release_threshold=2,
    )  # fmt: skip
    trust = fleet.trust(NOW_NS)
    raw = seal(Calibration(SCHEMA, key.kid, "", section(), None), key)
    signers = fleet.signers(RELEASE, 2)
    first = sign_calibration(raw, trust, signers[0], confirm=lambda _: True)
    assert [missing.count for missing in first.missing] == [1]
    assert refused(first.content, None, trust) == "EG-L002"
    second = sign_calibration(first.content, trust, signers[1], confirm=lambda _: True)
    assert second.missing == ()
    assert open_calibration(second.content, trust=trust).sensors == section()


def test_the_host_s_verb_signs_for_the_fleet(tmp_path: Path, key: FileKeyProvider) -> None:
    """On the command line: the numbers on stderr, the file where asked, and --yes for machines."""
    fleet = Fleet.create(tmp_path / "fleet", name="verb", wall_ns=time.time_ns(), device_state="optional")
    source, out = tmp_path / "c.json", tmp_path / "fleet.json"
    source.write_bytes(seal(Calibration(SCHEMA, key.kid, "", section(), None), key))
    release = next((tmp_path / "fleet" / "keys").rglob("release*"))
    folders = ["--trust", str(fleet.trust_folder), "--key", str(release), "--out", str(out)]
    verb = ["sign-calibration", str(source), *folders]
    assert run(host_cli, "edgeguard-provision", verb) == 2
    assert run(host_cli, "edgeguard-provision", [*verb, "--yes"]) == 0
    trust = fleet.trust(time.time_ns())
    assert read_calibration(out, trust=trust).fleet == trust.fleet_id


def test_a_file_belongs_to_a_device_or_to_a_fleet() -> None:
    """Not to both, and not to nobody."""
    for device, fleet in (("", ""), ("0" * 32, "0" * 64)):
        with pytest.raises(ValueError, match="either"):
            Calibration(SCHEMA, device, fleet, None, None)
    assert math.isinf(section().fits().bins("X1")[0].to_m_s)
