"""What a hostile repository, a hostile network and a thief of keys can do to a device: delay it, and nothing else."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, MetaFile, Root, Targets

from edgeguard.errors import EdgeGuardError, TrustError, UpdateError
from edgeguard.update.tuf_client import MAX_TIMESTAMP_BYTES
from firmware_tools.publish import refresh
from firmware_tools.rotate import rotate
from firmware_tools.trust_metadata import signed_metadata

DAY_NS = 86_400 * 10**9
_SPEC = importlib.util.spec_from_file_location(
    "repository_simulator", Path(__file__).with_name("repository_simulator.py")
)
simulator = importlib.util.module_from_spec(_SPEC)
sys.modules["repository_simulator"] = simulator
_SPEC.loader.exec_module(simulator)
RepositorySimulator = simulator.RepositorySimulator


@pytest.fixture
def running(site):
    """A device that runs release 1, and the simulator of what is published now."""
    site.upgrade()
    return site


def snapshot_of(site) -> RepositorySimulator:
    return RepositorySimulator.of(site.repository)


def refused(code: str | tuple[str, ...], work, *arguments, **named) -> EdgeGuardError:
    with pytest.raises(EdgeGuardError) as error:
        work(*arguments, **named)
    assert error.value.code in ((code,) if isinstance(code, str) else code), error.value
    return error.value


def unchanged(site, work) -> None:
    """Do `work`; what runs, the floors and the time floor are as before."""
    before = (site.state.floor("road-objects"), site.state.time_floor_ns, site.slots.record, site.trust.targets_version)
    work()
    after = (site.state.floor("road-objects"), site.state.time_floor_ns, site.slots.record, site.trust.targets_version)
    assert after == before
    assert site.start().value.counter == (0, 1)


def test_a_frozen_repository_is_seen_when_its_timestamp_expires_to_the_second(running):
    """An old genuine copy is taken until the second it expires, not after; what is installed keeps running."""
    frozen = snapshot_of(running)
    expires_ns = running.now_ns + 30 * DAY_NS
    running.now_ns = expires_ns - 10**9
    running.refresh(frozen)
    running.now_ns = expires_ns
    unchanged(running, lambda: refused("EG-T051", running.refresh, frozen))


def test_a_dead_clock_does_not_make_an_expired_stick_fresh_once_the_fleet_has_signed_a_later_time(running):
    """1970: effective time is the newest signed time, and the stick's timestamp expired before that."""
    stick = snapshot_of(running)
    running.now_ns += 40 * DAY_NS
    running.revoke()
    running.publish()
    running.refresh()
    shutil.rmtree(running.root / "store/tuf")
    running.now_ns = 0
    refused(("EG-T051", "EG-T052"), running.refresh, stick)


def test_a_clock_of_2106_refuses_and_is_forgotten_when_it_is_right_again(running):
    """A spoofed clock stops updates while it lasts; no time floor keeps it."""
    running.now_ns += 20 * 365 * DAY_NS
    refused(("EG-T004", "EG-T051"), running.refresh)
    running.now_ns -= 20 * 365 * DAY_NS
    unchanged(running, running.refresh)


def test_an_expired_index_installs_nothing_and_stops_nothing_and_a_refresh_with_online_keys_cures_it(running):
    """Install freshness and run validity are two things; there is no switch to ignore either."""
    running.publish(running.pack("2", counter=(0, 2)))
    running.now_ns += 31 * DAY_NS
    unchanged(running, lambda: refused("EG-T051", running.install))
    for path in (running.root / "fleet/keys").glob("*.pem"):
        if not path.name.startswith(("snapshot", "timestamp")):
            path.unlink()
    refresh(running.fleet, running.repository, wall_ns=running.now_ns)
    assert running.upgrade().counter == (0, 2)


def test_an_older_repository_is_refused_with_the_cache_and_without_it(running):
    """Rollback: the TUF client's cache notices, and the device state notices when the cache is gone."""
    old = snapshot_of(running)
    running.publish(running.pack("2", counter=(0, 2)))
    running.refresh()
    unchanged(running, lambda: refused("EG-T050", running.refresh, old))
    shutil.rmtree(running.root / "store/tuf")
    unchanged(running, lambda: refused("EG-T052", running.refresh, old))


def test_parts_of_two_genuine_states_do_not_mix(running):
    """Every metadata file of the old repository under the new index, one at a time."""
    old = snapshot_of(running)
    running.revoke()
    rotate(running.fleet, "enrol", wall_ns=running.now_ns)
    running.publish(running.pack("2", counter=(0, 2)))
    new = snapshot_of(running)
    cache, before_all = running.root / "store/tuf", running.root / "before"
    shutil.copytree(cache, before_all, symlinks=True)
    for role in ("targets", "release", "revocation", "snapshot"):
        names = sorted((int(n.split("/")[1].split(".")[0]), n) for n in new.files if n.endswith(f".{role}.json"))
        before = sorted((int(n.split("/")[1].split(".")[0]), n) for n in old.files if n.endswith(f".{role}.json"))
        assert names[-1][0] > before[-1][0], role
        evil = RepositorySimulator(new.files | {names[-1][1]: old.files[before[-1][1]]})
        unchanged(running, lambda evil=evil: refused(("EG-T050", "EG-R002"), running.refresh, evil))
        shutil.rmtree(cache)  # what of the new state was genuine has been cached
        shutil.copytree(before_all, cache, symlinks=True)
    running.refresh(new)


@pytest.mark.parametrize("content", [b"", b"{", b'{"signed":{},"signatures":[]}'])
def test_a_torn_cache_is_fetched_again(running, content):
    """The TUF client does not flush what it writes: every file of its cache may be anything after a power cut."""
    running.publish(running.pack("2", counter=(0, 2)))
    cache = running.root / "store/tuf"
    torn = [p for p in cache.rglob("*") if p.is_file() and not p.is_symlink()]
    assert len(torn) >= 6
    for path in torn:
        path.write_bytes(content)
    assert running.upgrade().counter == (0, 2)


def test_endless_data_is_cut_off_at_the_limit_of_the_file(running):
    """Timestamp, snapshot, catalogue, payload: never more than the limit and one piece is taken."""
    running.publish(running.pack("2", counter=(0, 2)))
    good = snapshot_of(running)
    names = [n for n in good.files if n.startswith(("metadata/timestamp", "blobs/", "recipients/", "targets/bundles/"))]
    for name in names:
        evil = snapshot_of(running)
        evil.answers[name] = simulator.endless
        try:
            running.install(evil)
        except (UpdateError, TrustError):
            # three attempts, one piece more each
            limit = {"metadata/timestamp.json": MAX_TIMESTAMP_BYTES}.get(name, len(good.files[name]))
            limit = max(limit, 8 * 1024 * 1024 if name.startswith("blobs/") else 0)
            assert evil.fetched[name] <= 3 * (limit + 65536 + 1)
        else:
            assert name not in evil.fetched, "an endless file was taken for a good one"
    assert running.upgrade(good).counter == (0, 2)


def test_a_damaged_span_is_fetched_again_and_only_that_one(running):
    """One flipped byte on the way costs one span, not the file; always flipped is refused."""
    running.publish(running.pack("2", floats=3_000_000, counter=(0, 2)))
    repository = snapshot_of(running)
    blob = max((n for n in repository.files if n.startswith("blobs/")), key=lambda n: len(repository.files[n]))
    size = len(repository.files[blob])
    repository.answers[blob] = simulator.damaged_once()
    running.install(repository)
    assert size < repository.fetched[blob] <= size + 4 * 1024 * 1024


def test_a_download_that_breaks_off_goes_on_where_it_was(running):
    """Spans that are here and hash right are not fetched again."""
    running.publish(running.pack("2", floats=3_000_000, counter=(0, 2)))
    repository = snapshot_of(running)
    blob = max((n for n in repository.files if n.startswith("blobs/")), key=lambda n: len(repository.files[n]))

    def breaks(content: bytes, start: int, length: int | None) -> Iterator[bytes]:
        if start >= 4 * 1024 * 1024:
            raise UpdateError("the line is dead", code="EG-R001")
        yield content[start:][:length]

    repository.answers[blob] = breaks
    refused("EG-R001", running.install, repository)
    del repository.answers[blob]
    repository.fetched.clear()
    done = running.install(repository)
    assert done.kept_bytes >= 4 * 1024 * 1024
    assert repository.fetched[blob] == len(repository.files[blob]) - 4 * 1024 * 1024
    assert running.start().value.counter == (0, 2)


def test_whoever_has_all_online_keys_can_freeze_and_nothing_more(running):
    """Old or missing roles, forged catalogues, targets of his own, very high versions, far expiries."""
    fleet = running.fleet
    good = snapshot_of(running)
    forged = [s for role in ("snapshot", "timestamp") for s in fleet.signers(role, 1)]
    cache, genuine = running.root / "store/tuf", running.root / "genuine"
    shutil.copytree(cache, genuine, symlinks=True)

    def lists_release_of_his_own(evil: RepositorySimulator) -> None:
        name = next(n for n in evil.files if n.endswith(".release.json"))
        release: Targets = Metadata.from_bytes(evil.files[name]).signed
        release.version += 1
        evil.files[f"metadata/{release.version}.release.json"] = signed_metadata(release, forged)
        evil.forge_online(fleet, lambda meta: meta.update({"release.json": MetaFile(release.version)}))

    def lists_targets_of_his_own(evil: RepositorySimulator) -> None:
        name = next(n for n in evil.files if n.endswith("1.targets.json"))
        targets: Targets = Metadata.from_bytes(evil.files[name]).signed
        targets.version += 1
        evil.files[f"metadata/{targets.version}.targets.json"] = signed_metadata(targets, forged)
        evil.forge_online(fleet, lambda meta: meta.update({"targets.json": MetaFile(targets.version)}))

    def drops(role: str):
        return lambda evil: evil.forge_online(fleet, lambda meta: meta.pop(f"{role}.json") and None)

    def root_of_his_own(evil: RepositorySimulator) -> None:
        root: Root = Metadata.from_bytes(evil.files["metadata/1.root.json"]).signed
        root.version = 2
        evil.files["metadata/2.root.json"] = signed_metadata(root, forged)

    for attack in (
        lists_release_of_his_own, lists_targets_of_his_own, drops("release"), drops("revocation"), drops("targets"),
        root_of_his_own,
    ):  # fmt: skip
        evil = RepositorySimulator(good.files)
        attack(evil)
        shutil.rmtree(cache)
        unchanged(running, lambda evil=evil: refused("EG-T050", running.refresh, evil))
        shutil.rmtree(cache)
        shutil.copytree(genuine, cache, symlinks=True)
        unchanged(running, lambda evil=evil: refused("EG-T050", running.refresh, evil))


def test_very_high_versions_by_a_thief_are_left_behind_by_new_online_keys(running):
    """Fast-forward: the thief's index is taken, the fleet's is then older; rotating the two online keys recovers."""
    evil = snapshot_of(running)
    evil.forge_online(running.fleet, version=2**52)
    unchanged(running, lambda: running.refresh(evil))
    running.publish(running.pack("2", counter=(0, 2)))
    unchanged(running, lambda: refused(("EG-T050", "EG-T052"), running.refresh))
    rotate(running.fleet, "snapshot", wall_ns=running.now_ns)
    rotate(running.fleet, "timestamp", wall_ns=running.now_ns)
    running.publish()
    assert running.upgrade().counter == (0, 2)


def test_a_device_that_slept_through_rotations_of_every_role_follows_from_one_stick(running):
    """Three years, every role rotated: root chain, list, catalogue and bundle from one folder."""
    running.now_ns += 3 * 365 * DAY_NS
    for role in ("root", "snapshot", "timestamp", "targets", "release", "revocation"):
        rotate(running.fleet, role, wall_ns=running.now_ns)
    running.publish(running.pack("2", counter=(0, 2)))
    assert running.upgrade(RepositorySimulator.of(running.repository)).counter == (0, 2)
    assert running.trust.root_version == 5


def test_a_stick_without_one_root_of_the_chain_is_refused(running):
    """The links before and after do not make up for it; what runs goes on."""
    for role in ("root", "timestamp", "root"):
        rotate(running.fleet, role, wall_ns=running.now_ns)
    running.publish(running.pack("2", counter=(0, 2)))
    stick = snapshot_of(running)
    del stick.files["metadata/3.root.json"]
    unchanged(running, lambda: refused("EG-T050", running.refresh, stick))


def test_two_hundred_and_fifty_six_rotations_are_followed_and_one_more_is_refused(running):
    """The limit of the reference client, of the trust folder, and of this client are one."""
    signers = running.fleet.signers("root", 1)
    repository = snapshot_of(running)
    root: Root = Metadata.from_bytes(repository.files["metadata/1.root.json"]).signed
    for version in range(2, 258):
        root.version = version
        repository.files[f"metadata/{version}.root.json"] = signed_metadata(root, signers)
    assert running.refresh(repository).trust.root_version == 257
    root.version = 258
    repository.files["metadata/258.root.json"] = signed_metadata(root, signers)
    # The client stops at the limit and does not look further: the 258th is never asked for.
    assert running.refresh(repository).trust.root_version == 257
    assert "metadata/258.root.json" not in repository.fetched


def test_a_wrong_wrap_makes_a_bad_trial_and_the_old_model_stays(running):
    """Anybody can put wraps into the repository: the commitment refuses them, and the device goes on as before."""
    running.publish(running.pack("2", counter=(0, 2)))
    evil = snapshot_of(running)
    name = max(n for n in evil.files if n.startswith("recipients/") and running.key.kid in n)
    for name in [n for n in evil.files if n.startswith("recipients/")]:
        evil.files[name] = bytes(80)
    running.install(evil)
    started = running.start()
    assert started.value.counter == (0, 1)
    assert "EG-D000" in started.refusals[0][1]
    assert name.endswith(".hpke")


def test_a_revoked_bundle_goes_off_offer_and_stops_in_its_slot(running):
    """The list reaches the device with the index; the slot's bundle is refused at the next start."""
    identity = running.slots.record.a.identity
    running.revoke(bundles=frozenset({identity}))
    assert running.publish().bundles == ()
    running.refresh()
    assert "EG-T023" in refused("EG-T062", running.start).message


def test_a_hybrid_fleet_needs_both_halves_of_its_catalogue(site_maker, tmp_path):
    """Both families sign the same offers; half a catalogue, or two that differ, are refused."""
    site = site_maker(tmp_path / "hybrid", signatures="hybrid-required")
    site.publish(site.pack("1"))
    assert site.upgrade().counter == (0, 1)
    good = RepositorySimulator.of(site.repository)
    name = next(n for n in good.files if n.endswith(".release.json"))
    signers = site.fleet.signers("release", 1)
    half: Targets = Metadata.from_bytes(good.files[name]).signed
    half.targets.clear()
    half.version += 1
    evil = RepositorySimulator(good.files)
    evil.files[f"metadata/{half.version}.release.json"] = signed_metadata(half, signers)
    snapshot = evil.signed(f"{evil.snapshot_version}.snapshot.json")
    timestamp = evil.signed("timestamp.json")
    snapshot.version += 1
    timestamp.version += 1
    snapshot.meta["release.json"] = MetaFile(half.version)
    online = {r: [*site.fleet.signers(r, 1), *site.fleet.signers(f"{r}-pq", 1)] for r in ("snapshot", "timestamp")}
    evil.resign(f"{snapshot.version}.snapshot.json", snapshot, online["snapshot"])
    timestamp.snapshot_meta = MetaFile(snapshot.version)
    evil.resign("timestamp.json", timestamp, online["timestamp"])
    unchanged(site, lambda: refused("EG-T053", site.refresh, evil))


def test_a_hybrid_index_signed_by_two_keys_of_one_family_does_not_exist(site_maker, tmp_path):
    """A timestamp with its classical signature alone does not meet its threshold of two families."""
    site = site_maker(tmp_path / "hybrid", signatures="hybrid-required")
    site.publish(site.pack("1"))
    site.upgrade()
    evil = RepositorySimulator.of(site.repository)
    timestamp = evil.signed("timestamp.json")
    timestamp.version += 1
    timestamp.expires = datetime(2099, 1, 1, tzinfo=UTC)
    evil.resign("timestamp.json", timestamp, site.fleet.signers("timestamp", 1))
    unchanged(site, lambda: refused("EG-T050", site.refresh, evil))


def test_two_classical_keys_do_not_pass_for_two_families(site_maker, tmp_path):
    """One of two keys in each family: TUF counts two signatures and is content, this client counts families."""
    site = site_maker(tmp_path / "hybrid", signatures="hybrid-required", roles={"timestamp": (2, 1)})
    site.publish(site.pack("1"))
    site.upgrade()
    evil = RepositorySimulator.of(site.repository)
    timestamp = evil.signed("timestamp.json")
    timestamp.version += 1
    evil.resign("timestamp.json", timestamp, site.fleet.signers("timestamp", 2))
    unchanged(site, lambda: refused("EG-T003", site.refresh, evil))
