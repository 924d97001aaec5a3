"""From publish to a model that runs: the whole way, over a folder and over a web server."""

from __future__ import annotations

import shutil

import pytest

from edgeguard.errors import KeyUnavailableError, TrustError


def test_a_published_bundle_is_installed_tried_and_committed(site):
    """publish, refresh, download, verify, trial, mark-good: the floor rises at the end and not before."""
    installed = site.install()
    assert (installed.slot, installed.release, installed.already_there) == ("a", "1", False)
    assert site.slots.record.a.status == "trial"
    assert site.state.floor("road-objects") == (0, 0)
    started = site.start()
    assert started.on_trial
    assert site.state.floor("road-objects") == (0, 0)
    site.slots.mark_good(started.value)
    assert site.state.floor("road-objects") == (0, 1)
    assert not site.start().on_trial


def test_an_update_goes_into_the_other_slot_and_the_old_one_stays(site):
    """A, then B, then A again."""
    first = site.upgrade()
    site.publish(site.pack("2", counter=(0, 2)))
    second = site.upgrade()
    record = site.slots.record
    assert (record.active, record.a.identity, record.b.identity) == ("b", first.identity.hex(), second.identity.hex())
    site.publish(site.pack("3", counter=(0, 3)))
    third = site.upgrade()
    assert site.slots.record.active == "a"
    assert site.slots.record.a.identity == third.identity.hex()
    assert site.slots.record.b.identity == second.identity.hex()


def test_what_is_there_is_not_fetched_again(site):
    """Installing twice fetches nothing the second time."""
    site.upgrade()
    again = site.install()
    assert again.already_there
    assert again.fetched_bytes == 0


def test_a_new_list_and_new_targets_reach_the_device(site):
    """What was rotated and revoked on the host is in the state after one refresh."""
    from firmware_tools.rotate import rotate

    site.refresh()
    site.revoke(floors={"road-objects": (0, 1)})
    rotate(site.fleet, "root", wall_ns=site.now_ns)
    site.publish()
    index = site.refresh()
    assert index.trust.root_version == 2
    assert site.state.revocation.place == (0, 2)
    assert site.state.floor("road-objects") == (0, 1)
    assert site.trust.root_version == 2


def test_a_device_that_was_not_granted_is_told_before_anything_is_fetched(site):
    """EG-K003, and the slots are as they were."""
    site.upgrade()
    site.publish(site.pack("2", counter=(0, 2), grant_it=False))
    before = site.slots.record
    with pytest.raises(KeyUnavailableError) as error:
        site.install()
    assert error.value.code == "EG-K003"
    assert site.slots.record == before


def test_a_stick_of_another_fleet_is_refused(site, site_maker, tmp_path):
    """Another root is another fleet."""
    other = site_maker(tmp_path / "other")
    other.publish(other.pack("9"))
    shutil.rmtree(site.repository)
    shutil.copytree(other.repository, site.repository)
    with pytest.raises(TrustError) as error:
        site.refresh()
    assert error.value.code == "EG-T050"
