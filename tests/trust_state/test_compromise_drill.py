"""The compromise drill, end to end, by the commands a person types; and a running pipeline that is told to stop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeguard.bundle.recheck import LOOK_EVERY_NS, ModelWatch
from edgeguard.cli.main import run
from edgeguard.clock import ManualClock
from edgeguard.config import Config
from edgeguard.errors import EdgeGuardError, TrustError
from edgeguard.infer.adapter import ImageModel
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.ticks import periodic_ticks
from edgeguard.sim.memory_source import MemorySource
from edgeguard.types import CAMERA, Image, ModelAnswer, SourceInfo, Verdict
from firmware_tools.cli import cli
from firmware_tools.revoke import identity_of

NOW_NS = 1_790_000_000_000_000_000
DAY_NS = 86_400 * 10**9
MODEL_ID = "road-objects"


def provision(capsys, *arguments: object) -> dict:
    """Type one command; it must succeed."""
    capsys.readouterr()
    code = run(cli, "edgeguard-provision", [*map(str, arguments), "--format", "json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out)


@pytest.fixture
def today(device, monkeypatch) -> None:
    """The commands ask the machine for the time; it is the time of these tests."""
    monkeypatch.setattr("edgeguard.clock.SystemClock.wall_ns", lambda self: NOW_NS)


def test_a_stolen_release_key_costs_a_rotation_and_no_device(device, device_maker, capsys, today):
    """Rotate, sign the same bytes again, revoke; running devices run on; an offline device recovers from one stick."""
    fleet = device.fleet.folder
    online, offline = device, device_maker(device.root, "cam-2", device.fleet)
    bundle = online.pack("1", counter=(0, 1))
    provision(capsys, "grant", fleet, bundle, "cam-2")
    for one in (online, offline):
        one.install(bundle)
    stolen = device.root / "stolen"  # what lies around: the old bundle with the old signature
    shutil.copytree(bundle, stolen)
    forged = online.pack("666", counter=(0, 1))  # what the thief releases with it, wrapped for both devices
    provision(capsys, "grant", fleet, forged, "cam-2")
    thief = device.fleet.signers("release", 1)[0]
    keyid, identity = thief.public_key().keyid, identity_of(bundle)

    # 1. new keys; 2. the same bytes under them; 3. the old key is worth nothing.
    rotated = provision(capsys, "rotate", fleet, "release")
    assert rotated["targets"] == 2
    signed = provision(capsys, "resign", fleet, bundle)
    assert signed[str(bundle)] == identity
    listed = provision(capsys, "revoke", fleet, "--signer", keyid, "--into", bundle)
    assert (listed["list"], listed["signers"]) == ("0:2", 1)

    # The online device gets the trust folder: what it runs goes on, under the new signature.
    online.bring_trust()
    assert online.open(bundle).identity.hex() == identity
    assert online.state.installed(MODEL_ID) == (identity, (0, 1))
    online.refused_signature(stolen)

    # The offline device has the old folder. The thief's release still verifies there, until the stick arrives.
    offline.open(forged)
    stick = device.root / "stick"
    shutil.copytree(fleet / "trust", stick / "trust")
    shutil.copytree(bundle, stick / "model")
    shutil.rmtree(offline.trust_folder)
    shutil.copytree(stick / "trust", offline.trust_folder)
    assert offline.open(stick / "model").identity.hex() == identity
    for old in (stolen, forged):
        offline.refused_signature(old)
    assert offline.state.revocation.revokes_signer(keyid, bytes.fromhex(identity))
    next_release = online.pack("2", counter=(0, 2))
    provision(capsys, "grant", fleet, next_release, "cam-2")
    for one in (online, offline):
        one.install(next_release)


def test_a_list_alone_stops_a_stolen_key_where_the_trust_folder_is_still_old(device, capsys, today):
    """The list travels in any bundle; the offline keys need not be at hand."""
    bundle = device.pack("1")
    device.install(bundle)
    keyid = device.fleet.signers("release", 1)[0].public_key().keyid
    carrier = Path(shutil.copytree(bundle, device.root / "carrier"))
    provision(capsys, "revoke", device.fleet.folder, "--signer", keyid, "--into", carrier)
    device.refused("EG-T024", carrier)
    device.refused("EG-T024", bundle)


def test_revoke_takes_names_paths_and_numbers_as_people_have_them(device, capsys, today):
    """Bundles by folder or identity, keys by file, devices by name, floors by counter; --except by bundle."""
    fleet, bundle = device.fleet.folder, device.pack("1")
    pem = next((fleet / "public").glob("release-*.pem"))
    made = provision(
        capsys, "revoke", fleet, "--bundle", "ab" * 32, "--bundle", bundle, "--signer", pem, "--except", bundle,
        "--device", "cam-1", "--floor", "lanes=4", "--floor", f"{MODEL_ID}=0:3",
    )  # fmt: skip
    assert made == {"list": "0:2", "bundles": 2, "signers": 1, "devices": 1, "floors": 2}
    content = json.loads((fleet / "trust" / "revocation-list.json").read_bytes())
    assert content["devices"] == [device.key.kid]
    assert content["signers"][0]["except"] == [identity_of(bundle)]
    assert content["floors"]["lanes"] == {"epoch": "0", "number": "4"}


@pytest.mark.parametrize(
    "wrong",
    [
        ["--floor", "lanes"], ["--floor", "a/b=1"], ["--floor", "m=99999999999"], ["--signer", "nowhere.pem"],
        ["--device", "nobody"], ["--except", "ab" * 32], ["--bundle", "nowhere"],
    ],
    ids=lambda words: " ".join(words)[:20],
)  # fmt: skip
def test_a_wrong_entry_changes_no_list(device, capsys, today, wrong):
    """Refused as a whole, with a code."""
    before = (device.fleet.trust_folder / "revocation-list.json").read_bytes()
    assert run(cli, "edgeguard-provision", ["revoke", str(device.fleet.folder), *wrong]) in (2, 4)
    assert "[EG-" in capsys.readouterr().err
    assert (device.fleet.trust_folder / "revocation-list.json").read_bytes() == before


# --- a model that runs ---


class CountingSession:
    """A session with onnxruntime's calls that counts its runs; what runs is not the point here."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, names, feeds):
        self.runs += 1
        return [np.zeros((1, 1), np.float32)]

    def get_inputs(self):
        return [Port("x", [1, 3, 8, 8])]

    def get_outputs(self):
        return [Port("y", [1, 1])]


class Port:
    def __init__(self, name: str, shape: list[int]) -> None:
        self.name, self.shape, self.type = name, shape, "tensor(float)"


class Detecting(ImageModel):
    """Runs the session on each frame, as a detector would."""

    def ask(self, image: Image):
        self.run(image)
        return ModelAnswer(detections=())


@pytest.fixture
def running(device):
    """A committed model, a clock, and the watch over it."""
    bundle = device.pack("1", counter=(0, 1), expires_ns=NOW_NS + 100 * DAY_NS)
    statement = device.install(bundle)
    clock = ManualClock(wall_start_ns=NOW_NS)
    watch = ModelWatch(
        device.trust_folder, device.trust, statement, kid=device.key.kid, clock=clock, state=device.state
    )
    return statement, clock, watch


def later(clock: ManualClock, ns: int = LOOK_EVERY_NS) -> None:
    clock.wait_until_ns(clock.now_ns() + ns)


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        (lambda s, d: {"bundles": frozenset({s.identity.hex()})}, "EG-T023"),
        (lambda s, d: {"signers": {s.signers[0]: frozenset()}}, "EG-T024"),
        (lambda s, d: {"devices": frozenset({d.key.kid})}, "EG-T025"),
        (lambda s, d: {"floors": {MODEL_ID: (0, 2)}}, "EG-T015"),
        (lambda s, d: {"signers": {s.signers[0]: frozenset({s.identity.hex()})}}, ""),
        (lambda s, d: {"bundles": frozenset({"ab" * 32})}, ""),
    ],
    ids=["bundle", "signer", "device", "floor", "signer-but-vouched", "another-bundle"],
)
def test_a_running_model_stops_within_a_second_of_the_list_that_concerns_it(device, running, entries, code):
    """And not before the list arrives, and not for somebody else's."""
    statement, clock, watch = running
    watch.recheck()
    device.revoke(**entries(statement, device))
    later(clock)
    watch.recheck()
    device.bring_trust()
    later(clock)
    for _ in range(2):
        if code:
            with pytest.raises(TrustError) as error:
                watch.recheck()
            assert error.value.code == code
        else:
            watch.recheck()
    assert device.state.revocation.place == (0, 2), "the running process has put the list into the state"


def test_a_running_model_expires_while_it_runs(device, running):
    """By the clock alone, no list needed; a moment before it still runs."""
    _, clock, watch = running
    later(clock, 100 * DAY_NS - 1)
    watch.recheck()
    later(clock, 1)
    with pytest.raises(TrustError) as error:
        watch.recheck()
    assert error.value.code == "EG-T014"


def test_a_rotated_key_stops_nothing_that_runs(device, running, capsys, today):
    """Rotation is not revocation: the drill keeps running devices running."""
    _, clock, watch = running
    provision(capsys, "rotate", device.fleet.folder, "release")
    device.bring_trust()
    later(clock)
    watch.recheck()


@pytest.mark.parametrize("damage", ["missing", "half", "older"])
def test_a_trust_folder_that_is_being_copied_or_put_back_teaches_nothing(device, running, damage):
    """What was known stays in force, and what was revoked stays revoked."""
    statement, clock, watch = running
    older = shutil.copytree(device.trust_folder, device.root / "older")
    device.revoke(bundles=frozenset({"ab" * 32}))
    device.bring_trust()
    later(clock)
    watch.recheck()
    if damage == "missing":
        shutil.rmtree(device.trust_folder)
    elif damage == "half":
        path = device.trust_folder / "targets.json"
        path.write_bytes(path.read_bytes()[:100])
    else:
        shutil.rmtree(device.trust_folder)
        shutil.copytree(older, device.trust_folder)
    later(clock)
    watch.recheck()
    assert device.state.revocation.place == (0, 2)
    device.revoke(bundles=frozenset({statement.identity.hex()}))
    shutil.rmtree(device.trust_folder, ignore_errors=True)
    shutil.copytree(device.fleet.trust_folder, device.trust_folder)
    later(clock)
    with pytest.raises(TrustError) as error:
        watch.recheck()
    assert error.value.code == "EG-T023"


def test_between_two_looks_a_recheck_reads_no_file(device, running):
    """Cheap enough for every frame: with the folder gone nothing is even noticed until the next look."""
    _, clock, watch = running
    watch.recheck()
    shutil.rmtree(device.trust_folder)
    shutil.rmtree(device.state_folder)
    for _ in range(100):
        later(clock, LOOK_EVERY_NS // 200)
        watch.recheck()


def camera(clock: ManualClock) -> MemorySource:
    """A camera that delivers a new frame of a textured scene every 100 ms."""
    source = MemorySource(SourceInfo(CAMERA, Image, 100_000_000, "test"), clock)
    rng = np.random.default_rng(3)
    due_ns = [clock.now_ns() + 50_000_000]

    def deliver(now_ns: int) -> None:
        while due_ns[0] <= now_ns:
            pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            source.put(Image(pixels, due_ns[0], CAMERA), due_ns[0])
            due_ns[0] += 100_000_000

    clock.on_advance.append(deliver)
    return source


def test_a_pipeline_stops_for_good_at_the_frame_after_its_model_was_revoked(device, running):
    """The session is not run again, the verdict latches at STOP and names the reason."""
    statement, clock, watch = running
    session = CountingSession()
    seen: list[tuple[Verdict, str, int]] = []
    sources = {CAMERA: camera(clock)}
    with Pipeline(Config(), sources, clock, model=Detecting(session), recheck=watch.recheck) as pipeline:
        for index, frame in enumerate(pipeline.run(periodic_ticks(clock.now_ns(), 100_000_000, 40))):
            seen.append((frame.verdict, frame.verdict_reason, session.runs))
            if index == 14:
                device.revoke(bundles=frozenset({statement.identity.hex()}))
                device.bring_trust()
    stopped = next(i for i, (verdict, _, _) in enumerate(seen) if verdict is Verdict.STOP)
    assert 14 < stopped <= 14 + 11
    assert "EG-T023" in seen[stopped][1]
    assert all(verdict is Verdict.STOP for verdict, _, _ in seen[stopped:])
    runs = [runs for _, _, runs in seen]
    assert runs[stopped - 1] >= 10, "the model ran on every frame until then"
    assert runs[-1] == runs[stopped - 1]


def test_failures_of_a_recheck_are_errors_of_ours(device, running):
    """Whatever happens to state and folder: an EdgeGuardError or nothing."""
    _, clock, watch = running
    (device.state_folder / "device.state").write_bytes(b"junk")
    device.revoke(floors={"lanes": (0, 2)})
    device.bring_trust()
    later(clock)
    with pytest.raises(EdgeGuardError) as error:
        watch.recheck()
    assert error.value.code == "EG-T030"


def test_a_full_disk_stops_nothing_that_runs_and_hides_no_revocation(device):
    """The list is obeyed from memory; the next opening fails on the disk."""
    statement = device.install(device.pack("1"))
    clock, state = ManualClock(wall_start_ns=NOW_NS), device.state

    def full(name: str, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    state._files.write_new = full  # type: ignore[method-assign] # the medium, not our code
    watch = ModelWatch(device.trust_folder, device.trust, statement, kid=device.key.kid, clock=clock, state=state)
    device.revoke(devices=frozenset({"ab" * 16}))
    device.bring_trust()
    watch.recheck()
    device.revoke(bundles=frozenset({statement.identity.hex()}))
    device.bring_trust()
    later(clock)
    with pytest.raises(TrustError) as error:
        watch.recheck()
    assert error.value.code == "EG-T023"
    device.refused("EG-T033", device.root / f"{MODEL_ID}-1.bundle", state=state)


def test_without_a_state_an_older_folder_put_back_lifts_no_revocation(device_maker, tmp_path):
    """The watch itself never goes back, where no state remembers for it."""
    lax = device_maker(tmp_path, "cam-1", device_state="optional")
    statement = lax.open(lax.pack("1"), state=None)
    older = shutil.copytree(lax.trust_folder, tmp_path / "older")
    clock = ManualClock(wall_start_ns=NOW_NS)
    watch = ModelWatch(lax.trust_folder, lax.trust, statement, kid=lax.key.kid, clock=clock)
    watch.recheck()
    lax.revoke(bundles=frozenset({statement.identity.hex()}))
    lax.bring_trust()
    for put_back in (False, True):
        if put_back:
            shutil.rmtree(lax.trust_folder)
            shutil.copytree(older, lax.trust_folder)
        later(clock)
        with pytest.raises(TrustError) as error:
            watch.recheck()
        assert error.value.code == "EG-T023"
