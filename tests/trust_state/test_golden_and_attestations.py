"""What a model brings for its health check, and what others must have said about it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeguard.bundle.attestations import attestation_payload
from edgeguard.bundle.dsse import STATEMENT_TYPE, pae
from edgeguard.bundle.golden import Golden, encode_golden, golden_check, parse_golden
from edgeguard.bundle.model import open_model
from edgeguard.bundle.signature import encode_signed
from edgeguard.cli.main import run
from edgeguard.errors import BundleFormatError, InferenceError, ProvisioningError, TrustError
from edgeguard.infer.session import InferenceSession
from edgeguard.keys.file import FileKeyProvider
from firmware_tools import attest
from firmware_tools.attest import read_golden, read_predicate
from firmware_tools.cli import cli
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant
from firmware_tools.pack import Release, pack_model

NOW_NS = 1_790_000_000_000_000_000
MODEL_ID = "road-objects"
BOM = "https://cyclonedx.org/bom"
SCAN = "https://in-toto.io/attestation/vulns/v0.2"
MARK = np.frombuffer(b"GOLDEN-IN-THE-CLEAR-GOLDEN-IN-TH", dtype=np.float32).reshape(1, 8)
WEIGHTS = np.arange(8, dtype=np.float32).reshape(1, 8)


def golden(change: float = 0.0) -> Golden:
    expected = MARK + WEIGHTS
    return Golden({"x": MARK}, {"y": (expected + change * np.abs(expected)).astype(np.float32)})


def pack(device, name: str = "g", **how: object) -> Path:
    out = device.root / f"{name}.bundle"
    pack_model(device.fleet, device.root / "m.onnx", out, release=Release(MODEL_ID, name), wall_ns=NOW_NS, **how)  # type: ignore[arg-type]
    grant(device.fleet, out, device.key.kid, wall_ns=NOW_NS)
    return out


def checked(device, bundle: Path):
    """Open, check as an updater does, and commit when it passes."""
    model = open_model(
        bundle, trust=device.trust, key=device.key, expect_model=MODEL_ID, wall_ns=NOW_NS, state=device.state
    )
    assert model.golden is not None
    data = parse_golden(model.golden)
    with InferenceSession(model) as session:
        names = [port.name for port in session.get_outputs()]
        result = golden_check(lambda feeds: dict(zip(names, session.run(names, feeds), strict=True)), data)
        if result.passed:
            device.state.commit(session.statement)
    return result


def test_a_model_that_computes_what_was_released_passes_its_check_and_is_committed(device):
    """The real runtime on the real bundle; the golden data survives the model's memory."""
    result = checked(device, pack(device, golden=encode_golden(golden())))
    assert result.passed
    assert result.worst < 0.1
    assert device.state.installed(MODEL_ID)[0]


def test_a_model_that_computes_something_else_fails_and_is_not_committed(device):
    """One per cent off is ten times more than allowed."""
    result = checked(device, pack(device, golden=encode_golden(golden(0.01))))
    assert not result.passed
    assert result.worst == pytest.approx(10.0, rel=0.05)
    assert "'y'" in result.reason
    assert device.state.installed(MODEL_ID) == ("", None)


def test_no_golden_value_lies_in_the_clear(device):
    """Encrypted like the weights: not in any file of the bundle."""
    bundle = pack(device, golden=encode_golden(golden()))
    assert [p["role"] for p in json.loads((bundle / "manifest.json").read_bytes())["payloads"]][-1] == "golden"
    for path in bundle.rglob("*"):
        if path.is_file():
            assert b"GOLDEN-IN-THE-CLEAR" not in path.read_bytes(), path


def test_golden_data_is_wiped_with_the_model(device):
    """A view that is still held reads zeros."""
    bundle = pack(device, golden=encode_golden(golden()))
    with open_model(
        bundle, trust=device.trust, key=device.key, expect_model=MODEL_ID, wall_ns=NOW_NS, state=device.state
    ) as model:
        view = model.golden
        assert b"GOLDEN-IN-THE-CLEAR" in bytes(view)
    assert not any(bytes(view))


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"y": np.zeros((1, 7), np.float32)},
        {"y": np.zeros((1, 8), np.float64)},
        {"y": np.full((1, 8), np.nan, np.float32)},
        {"y": np.full((1, 8), np.inf, np.float32)},
        {"z": np.zeros((1, 8), np.float32)},
    ],
    ids=["none", "shape", "type", "nan", "inf", "name"],
)
def test_an_output_that_is_not_there_or_not_a_number_fails(outputs):
    """Never a pass by absence."""
    result = golden_check(lambda _: outputs, golden())
    assert (result.passed, result.worst) == (False, float("inf"))


def test_a_model_that_crashes_has_failed_its_check():
    """Whatever it raises; an exception of ours gives its code, another its type, neither its text."""

    def fails(error):
        def run_it(_):
            raise error

        return run_it

    ours = golden_check(fails(InferenceError("secret", code="EG-I003")), golden())
    foreign = golden_check(fails(ValueError("secret")), golden())
    assert (ours.passed, foreign.passed) == (False, False)
    assert ours.reason.endswith("EG-I003")
    assert foreign.reason.endswith("ValueError")


def test_a_run_cannot_change_the_golden_inputs():
    """Each check starts from what was signed."""
    data = golden()

    def scribbles(feeds):
        feeds["x"][:] = 0
        return {"y": MARK + WEIGHTS}

    assert golden_check(scribbles, data).passed
    assert np.array_equal(data.inputs["x"], MARK)


finite = hnp.arrays(
    st.sampled_from([np.dtype(t) for t in ("f4", "f2", "f8", "u1", "i1", "i4", "i8", "?")]),
    hnp.array_shapes(max_dims=3, max_side=4),
    elements={"allow_nan": False, "allow_infinity": False},
)
named = st.dictionaries(st.text(min_size=1, max_size=8).filter(str.isprintable), finite, min_size=1, max_size=3)


@given(named, named)
def test_golden_data_survives_the_round_trip(inputs, outputs):
    """Names, types, shapes and values."""
    read = parse_golden(memoryview(encode_golden(Golden(inputs, outputs))))
    for wanted, got in ((inputs, read.inputs), (outputs, read.outputs)):
        assert list(got) == sorted(wanted)
        for name, value in wanted.items():
            assert got[name].dtype == value.dtype
            assert np.array_equal(got[name], value)


@given(data=st.data())
def test_edited_golden_data_is_read_or_refused_by_an_error_of_ours(data):
    """Cut, flipped, grown."""
    raw = encode_golden(golden())
    start = data.draw(st.integers(0, len(raw)))
    edited = raw[:start] + data.draw(st.binary(max_size=5)) + raw[start + data.draw(st.integers(0, 5)) :]
    code = ""
    try:
        parse_golden(memoryview(edited))
    except BundleFormatError as error:
        code = error.code
    assert code in ("", "EG-B008")
    if len(edited) != len(raw):
        assert code == "EG-B008"


@pytest.mark.parametrize("value", [np.full((1, 8), np.nan, np.float32), np.zeros((1, 8), np.complex64)])
def test_golden_data_that_could_never_be_met_is_not_packed(value):
    """NaN compares with nothing, and the format knows no such type."""
    with pytest.raises(BundleFormatError) as error:
        encode_golden(Golden({"x": MARK}, {"y": value}))
    assert error.value.code == "EG-B008"


def test_pack_reads_golden_data_and_predicates_from_files(device, capsys, monkeypatch):
    """--golden FILE.npz and --attest TYPE=FILE, by command."""
    monkeypatch.setattr("edgeguard.clock.SystemClock.wall_ns", lambda self: NOW_NS)
    np.savez(device.root / "g.npz", **{"input.x": MARK, "output.y": MARK + WEIGHTS, "rtol": 0.01})
    (device.root / "bom.json").write_text('{"bomFormat": "CycloneDX", "specVersion": "1.7"}')
    out = device.root / "c.bundle"
    words = [
        "pack",
        device.fleet.folder,
        device.root / "m.onnx",
        "--model-id",
        MODEL_ID,
        "--release",
        "c",
        "--out",
        out,
    ]
    words += ["--golden", device.root / "g.npz", "--attest", f"{BOM}={device.root / 'bom.json'}"]
    assert run(cli, "edgeguard-provision", [str(word) for word in words]) == 0, capsys.readouterr().err
    grant(device.fleet, out, device.key.kid, wall_ns=NOW_NS)
    assert checked(device, out).passed
    assert [p.name for p in (out / "attestations").iterdir()] == ["00-00.json"]


@pytest.mark.parametrize("kind", ["missing", "text", "pickle", "names", "nan"])
def test_files_that_hold_no_golden_data_are_refused(tmp_path, kind):
    """With a code, and nothing is unpickled."""
    path = tmp_path / "g.npz"
    if kind == "text":
        path.write_text("no")
    elif kind == "pickle":
        np.savez(path, **{"input.x": np.array([print], dtype=object), "output.y": MARK})
    elif kind == "names":
        np.savez(path, x=MARK, y=MARK)
    elif kind == "nan":
        np.savez(path, **{"input.x": MARK * np.nan, "output.y": MARK})
    with pytest.raises(ProvisioningError) as error:
        read_golden(path)
    assert error.value.code == "EG-P025"


@pytest.mark.parametrize("content", [None, b"[]", b'{"a":1,"a":2}', b'{"a":' + b"[" * 40, b"{" + b" " * 600_000 + b"}"])
def test_files_that_hold_no_predicate_are_refused(tmp_path, content):
    """A JSON object, strictly read and bounded."""
    if content is not None:
        (tmp_path / "p.json").write_bytes(content)
    with pytest.raises(ProvisioningError) as error:
        read_predicate(tmp_path / "p.json")
    assert error.value.code == "EG-P024"


# --- attestations ---


@pytest.fixture(scope="module")
def strict_template(device_maker, tmp_path_factory) -> Path:
    """A fleet whose policy asks for a bill of materials and a scan; two of three attest keys sign."""
    root = tmp_path_factory.mktemp("strict") / "site"
    root.mkdir()
    device_maker(root, "cam-1", required_attestations=(BOM, SCAN), roles={"attest": (3, 2)})
    return root


@pytest.fixture
def strict(strict_template, tmp_path, device):
    root = Path(shutil.copytree(strict_template, tmp_path / "strict"))
    return type(device)(root, Fleet.open(root / "fleet"), FileKeyProvider(root / "cam-1.pem"), "cam-1")


PREDICATES = {BOM: {"bomFormat": "CycloneDX"}, SCAN: {"scanner": {"result": []}}}


def test_a_model_with_every_required_attestation_opens(strict):
    """Two types, two signatures each."""
    bundle = pack(strict, predicates=PREDICATES)
    assert len(list((bundle / "attestations").iterdir())) == 4
    strict.open(bundle)


@pytest.mark.parametrize("missing", [BOM, SCAN])
def test_a_model_without_one_of_them_is_refused(strict, monkeypatch, missing):
    """On the host that packs, and on the device."""
    some = {k: v for k, v in PREDICATES.items() if k != missing}
    with pytest.raises(TrustError) as error:
        pack(strict, predicates=some)
    assert error.value.code == "EG-T040"
    assert missing in error.value.message
    strict.refused("EG-T040", forged(strict, monkeypatch, lambda files: {
        name: content for name, content in files.items() if name.startswith("attestations/00")
    }))  # fmt: skip


def forged(device, monkeypatch, change) -> Path:
    """A bundle whose packer does not check itself, with other attestation files."""
    import firmware_tools.pack

    honest = attest.attestation_files

    def made(fleet, trust, predicates, model_id, manifest_digest):
        files = honest(fleet, trust, PREDICATES, model_id, manifest_digest)
        made.subject = (model_id, manifest_digest)
        return change(files)

    monkeypatch.setattr(firmware_tools.pack, "attestation_files", made)
    monkeypatch.setattr(firmware_tools.pack, "_prove", lambda *_: None)
    out = device.root / "forged.bundle"
    pack_model(device.fleet, device.root / "m.onnx", out, release=Release(MODEL_ID, "f"), wall_ns=NOW_NS)
    return out


def signed_by(device, role: str, count: int, payload: bytes) -> dict[str, bytes]:
    files = {}
    for index, signer in enumerate(device.fleet.signers(role, count)):
        signature = signer.sign(pae(STATEMENT_TYPE, payload))
        content = encode_signed(payload, STATEMENT_TYPE, signer.public_key().keyid, signature)
        files[f"attestations/99-{index:02d}.json"] = content
    return files


@pytest.mark.parametrize("kind", ["release-signed", "one-signature", "same-key-twice", "another-model", "junk"])
def test_an_attestation_that_vouches_for_nothing_is_refused(strict, monkeypatch, kind):
    """Wrong role, too few, one key twice, about another manifest, not an attestation: as if it were not there."""
    scan = "attestations/01-"

    def change(files):
        kept = {name: content for name, content in files.items() if not name.startswith(scan)}
        own = [files[name] for name in sorted(files) if name.startswith(scan)]
        other = attestation_payload(SCAN, {}, model_id=MODEL_ID, manifest_digest="ab" * 32)
        same = attestation_payload(
            SCAN, {}, model_id=MODEL_ID, manifest_digest=json.loads(_payload(own[0]))["subject"][0]["digest"]["sha256"]
        )
        return (
            kept
            | {
                "release-signed": lambda: signed_by(strict, "release", 1, same),
                "one-signature": lambda: {f"{scan}00.json": own[0]},
                "same-key-twice": lambda: {f"{scan}00.json": own[0], f"{scan}01.json": own[0]},
                "another-model": lambda: signed_by(strict, "attest", 2, other),
                "junk": lambda: {f"{scan}00.json": b"{}", f"{scan}01.json": b"\xff"},
            }[kind]()
        )

    assert SCAN in strict.refused("EG-T040", forged(strict, monkeypatch, change)).message


def _payload(content: bytes) -> bytes:
    from edgeguard.bundle.signature import parse_signed

    return parse_signed(content, STATEMENT_TYPE, what="x").payload


def test_a_revoked_attest_key_vouches_no_longer(strict):
    """One of the two that signed: the other alone is too few."""
    bundle = pack(strict, predicates=PREDICATES)
    strict.revoke(signers={strict.fleet.signers("attest", 1)[0].public_key().keyid: frozenset()})
    strict.bring_trust()
    strict.refused("EG-T040", bundle)


def test_attest_keys_release_nothing(strict, monkeypatch):
    """The role that vouches cannot sign a model, even over the very same kind of envelope."""
    bundle = pack(strict, predicates=PREDICATES)
    payload = _payload((bundle / "model.sig").read_bytes())
    signer = strict.fleet.signers("attest", 1)[0]
    signature = signer.sign(pae(STATEMENT_TYPE, payload))
    (bundle / "model.sig").write_bytes(encode_signed(payload, STATEMENT_TYPE, signer.public_key().keyid, signature))
    strict.refused_signature(bundle)
