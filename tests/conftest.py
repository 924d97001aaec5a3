"""Fixtures every test folder shares."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# A shell starts what runs in the background with SIGINT ignored, and every child of a test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("edgeguard", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("edgeguard")


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of real recordings; tests that need it carry the marker `realdata` and skip without it."""
    folder = os.environ.get("EDGEGUARD_REALDATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("EDGEGUARD_REALDATA does not name a folder with real recordings")
    return Path(folder)
