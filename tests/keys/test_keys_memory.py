"""Memory for secrets: zero after use, not dumped, empty in a forked child."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from edgeguard.errors import EnvironmentMissingError
from edgeguard.harden import memory


def smaps_flags(mapping) -> str:
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    for block in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        start, end = (int(x, 16) for x in block.split(" ", 1)[0].split("-"))
        if start <= address < end:
            return block.partition("VmFlags:")[2]
    return ""


def test_a_private_mapping_is_left_out_of_core_dumps_and_forks():
    """The kernel's own flags: dd is do-not-dump, wf is wipe-on-fork."""
    mapping = memory.private_mapping(10_000)
    flags = smaps_flags(mapping).split()
    assert "dd" in flags
    assert "wf" in flags
    assert "sh" not in flags


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # 3.12 warns when other tests left threads
def test_a_forked_child_reads_zeros():
    """A child does not inherit the secret."""
    mapping = memory.private_mapping(4096)
    mapping[:3] = b"abc"
    child = os.fork()
    if child == 0:
        os._exit(0 if mapping[:3] == b"\0\0\0" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert mapping[:3] == b"abc"


def test_wipe_zeroes_under_views_and_may_be_called_twice():
    """A view that is still held keeps the mapping, not the content."""
    mapping = memory.private_mapping(100_000)
    mapping[:] = b"x" * 100_000
    held = memoryview(mapping)
    memory.wipe(mapping)
    assert not any(held)
    held.release()
    memory.wipe(mapping)
    memory.wipe(mapping)
    assert mapping.closed


def test_a_locked_mapping_shows_as_locked():
    """lo in the kernel's flags says that lock told the truth."""
    mapping = memory.private_mapping(4096)
    assert memory.lock(mapping) == ("lo" in smaps_flags(mapping).split())


@pytest.mark.parametrize("size", [0, -1, 1 << 62, 1 << 80])
def test_memory_that_cannot_be_had_is_our_error(size):
    """No OverflowError or OSError crosses the border."""
    with pytest.raises(EnvironmentMissingError) as error:
        memory.private_mapping(size)
    assert error.value.code == "EG-E011"


def test_a_secret_is_zero_after_an_error_inside_the_block():
    """The context manager wipes on the way out of an exception as well."""
    secret = memory.SecretBuffer.copy_of(b"top secret")
    held = memoryview(secret._mapping)
    with pytest.raises(RuntimeError), secret:
        raise RuntimeError
    assert not any(held)
    assert len(secret) == 10
    assert "secret" not in repr(secret)
