"""Publishing: incremental, restartable, and careful about what it signs."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import time

import pytest

from edgeguard.cli.main import cli as device_cli
from edgeguard.cli.main import run
from edgeguard.errors import ProvisioningError, TrustError
from edgeguard.keys.file import FileKeyProvider
from firmware_tools.cli import cli as host_cli
from firmware_tools.enroll import enroll, make_request
from firmware_tools.grant import grant
from firmware_tools.publish import publish, refresh
from firmware_tools.repository import read_published
from firmware_tools.rotate import rotate


def refused(code, work, *arguments, **named) -> None:
    with pytest.raises(ProvisioningError) as error:
        work(*arguments, **named)
    assert error.value.code == code, error.value


def files_of(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_publishing_what_is_published_writes_nothing(site):
    """Neither a file nor a signature, until half of the index's time is over."""
    before = files_of(site.repository)
    again = site.publish()
    assert (again.files_written, again.signed) == (0, ())
    assert files_of(site.repository) == before
    site.now_ns += 16 * 86_400 * 10**9
    assert site.publish().signed == ("snapshot", "timestamp")


def test_a_dry_run_says_what_would_be_and_writes_nothing(site):
    """The same numbers as the run that follows, for what is copied."""
    bundle = site.pack("2", counter=(0, 2))
    before = files_of(site.root)
    planned = site.publish(bundle, dry_run=True)
    assert files_of(site.root) == before
    done = site.publish(bundle)
    assert planned.signed == done.signed == ("release", "snapshot", "timestamp")
    assert planned.bundles == done.bundles


def test_after_a_further_grant_only_the_new_wrap_is_written(site):
    """Catalogue, index and blobs stay: wraps are outside what is signed."""
    key = FileKeyProvider.generate(site.root / "other.pem")
    (site.root / "r2").write_bytes(make_request(key, site.fleet.trust(site.now_ns), device_name="cam-2", board="rpi5"))
    enroll(site.fleet, site.root / "r2", confirm=lambda _: True, wall_ns=site.now_ns)
    bundle = site.root / "1.bundle"
    grant(site.fleet, bundle, "cam-2", wall_ns=site.now_ns)
    before = files_of(site.repository)
    done = site.publish(bundle)
    assert (done.files_written, done.signed) == (1, ())
    new = set(files_of(site.repository)) - set(before)
    assert [name.rpartition("/")[2] for name in new] == [f"{key.kid}.hpke"]


def test_a_folder_that_is_another_fleets_or_none_is_never_written(site, site_maker, tmp_path):
    """Nor one with something else in it."""
    other = site_maker(tmp_path / "other")
    other.publish(other.pack("9"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter").write_text("dear")
    for folder in (other.repository, tmp_path / "home"):
        before = files_of(folder)
        refused("EG-P070", publish, site.fleet, folder, wall_ns=site.now_ns)
        assert files_of(folder) == before


def test_an_older_fleet_folder_cannot_publish_over_a_newer_one(site):
    """Its trust is behind what was published; devices would refuse it."""
    shutil.copytree(site.fleet.trust_folder, site.root / "old-trust")
    rotate(site.fleet, "enrol", wall_ns=site.now_ns)
    site.publish()
    shutil.rmtree(site.fleet.trust_folder)
    shutil.copytree(site.root / "old-trust", site.fleet.trust_folder)
    refused("EG-P071", site.publish)


def test_whoever_can_write_the_repository_gets_nothing_signed(site):
    """The fleet's own memory says what is on offer; a planted catalogue, snapshot or blob is not believed."""
    site.publish(site.pack("2", counter=(0, 2)))
    genuine = site.publish().bundles
    for name in ("1.release.json", "2.release.json", "timestamp.json"):
        (site.repository / "metadata" / name).write_bytes(b'{"signed":{},"signatures":[]}')
    blob = max((site.repository / "blobs").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    blob.write_bytes(bytes(blob.stat().st_size))
    refused("EG-P070", refresh, site.fleet, site.repository, wall_ns=site.now_ns)
    done = site.publish(site.root / "1.bundle", site.root / "2.bundle")
    assert done.bundles == genuine
    assert site.upgrade().counter == (0, 2)


def test_a_withdrawn_bundle_is_no_longer_offered_and_a_lost_repository_is_made_again(site):
    """Versions go on rising, so that devices follow."""
    site.publish(site.pack("2", counter=(0, 2)))
    site.refresh()
    shutil.rmtree(site.repository)
    refused("EG-P072", site.publish, site.root / "2.bundle")
    identity = next(o.identity for o in read_published(site.fleet).offers if o.facts.release == "1")
    assert len(site.publish(site.root / "2.bundle", withdraw=[identity]).bundles) == 1
    assert [o.facts.release for o in site.refresh().offers] == ["2"]
    refused("EG-P003", site.publish, withdraw=["ab" * 32])


def test_a_run_that_was_killed_is_finished_by_running_it_again_and_devices_see_old_or_new(site):
    """SIGKILL at random moments, twelve times and until six have hit; the repository is whole after each."""
    rng = random.Random(3)
    site.upgrade()
    killed, number, window_s = 0, 1, 0.06
    while killed < 6 or number < 13:
        number += 1
        assert number < 60, "a publication is over before it can be killed"
        bundle = site.pack(f"{number}", counter=(0, number))
        pid = os.fork()
        if pid == 0:
            try:
                site.publish(bundle)
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.0, window_s))
        os.kill(pid, signal.SIGKILL)
        hit = os.waitpid(pid, 0)[1] & 0x7F == signal.SIGKILL
        killed += hit
        window_s *= 1.0 if hit else 0.7  # this machine is quicker than that
        newest = max(offer.facts.counter.value[1] for offer in site.refresh().offers)
        assert newest in (number - 1, number)
        site.publish(bundle)
        assert max(offer.facts.counter.value[1] for offer in site.refresh().offers) == number
    assert not [p for p in site.repository.rglob("*") if ".partial-" in p.name]
    assert site.upgrade().counter == (0, number)


def test_a_fleet_whose_list_no_device_would_obey_publishes_nothing(site):
    """Better an error on the host than a fleet that stops."""
    (site.fleet.trust_folder / "revocation.json").unlink()
    refused("EG-P072", site.publish)


def test_the_verbs_from_publish_to_rollback(site, capsys, monkeypatch):
    """Both command lines, over a folder, with machine-readable output; on the machine's own clock."""
    root = site.root / "cli"
    root.mkdir()
    provision = lambda *words: run(host_cli, "edgeguard-provision", [str(w) for w in words])  # noqa: E731
    model = lambda *words: run(device_cli, "edgeguard", ["model", *map(str, words)])  # noqa: E731
    assert provision("init", root / "fleet", "--name", "cli", "--allow-unlocked-memory") == 0
    trust, key = root / "fleet/trust", root / "device.pem"
    assert provision("keygen", "--trust", trust, "--key", key, "--request", root / "r", "--name", "cam",
                     "--state", root / "state") == 0  # fmt: skip
    fingerprint = FileKeyProvider(key).public_key()
    assert (
        provision("enroll", root / "fleet", root / "r", "--fingerprint", hashlib.sha256(fingerprint).hexdigest()) == 0
    )
    for release in ("1", "2"):
        bundle = root / release
        assert provision("pack", root / "fleet", site.root / "m8.onnx", "--model-id", "det", "--release", release,
                         "--out", bundle) == 0  # fmt: skip
        assert provision("grant", root / "fleet", bundle, "cam") == 0
    for name, value in (("STORE", root / "store"), ("STATE", root / "state"), ("KEY", key), ("TRUST", trust),
                        ("MODEL_ID", "det"), ("FORMAT", "json")):  # fmt: skip
        monkeypatch.setenv(f"EDGEGUARD_{name}", str(value))
    for release in ("1", "2"):
        assert provision("publish", root / "fleet", root / "repository", root / release) == 0
        capsys.readouterr()
        assert model("install", root / "repository") == 0
        assert json.loads(capsys.readouterr().out)["release"] == release
        assert model("mark-good") == 0
        assert json.loads(capsys.readouterr().out)["verdict"] == "good"
    assert model("status") == 0
    assert json.loads(capsys.readouterr().out)["active"] == "b"
    assert model("rollback") == 0
    assert json.loads(capsys.readouterr().out)["slot"] == "a"
    assert model("mark-bad") == 4
    assert provision("publish", root / "fleet", root / "repository", "--refresh", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["signed"] == ["snapshot", "timestamp"]
    assert provision("publish", root / "fleet", root / "repository", root / "1", "--refresh") == 2


def test_a_slot_record_about_another_model_or_out_of_shape_is_refused(site):
    """The note is authenticated, and its form is checked all the same."""
    slots = site.slots
    for text in ("{}", "x", '{"schema":"edgeguard/slots/v1","model_id":"other"}'):
        site.state.set_note(slots._note, text)
        with pytest.raises(TrustError) as error:
            _ = site.slots.record
        assert error.value.code == "EG-T060"
