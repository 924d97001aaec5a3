"""Protected models under mutated parts: a sample by default, a million and more in the long run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

_SPEC = importlib.util.spec_from_file_location("fuzz_protected", Path(__file__).with_name("fuzz_protected.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
fuzz = importlib.util.module_from_spec(_SPEC)
sys.modules["fuzz_protected"] = fuzz  # dataclasses look their module up
_SPEC.loader.exec_module(fuzz)

# Cases of about a second each on a quiet machine, and the share of the long run's million.
SAMPLE = {
    "signature": 8000, "statement": 8000, "manifest": 10_000, "payload": 1500, "recipient": 20_000, "gate": 10_000,
    "bundle": 400,
}  # fmt: skip
LONG = {
    "signature": 300_000, "statement": 150_000, "manifest": 200_000, "payload": 50_000, "recipient": 100_000,
    "gate": 250_000, "bundle": 10_000,
}  # fmt: skip


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One bundle for all targets."""
    return fuzz.Fuzzed(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("target", SAMPLE)
def test_mutated_parts_are_refused_by_our_errors_and_unchanged_ones_still_pass(target: str, fuzzed: Any) -> None:
    """No foreign exception, no damaged ciphertext or wrap opened; the mutator leaves some cases whole."""
    assert fuzzed.run(target, 1, SAMPLE[target]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("target", LONG)
def test_a_million_mutated_parts(target: str, fuzzed: Any) -> None:
    """The long run."""
    assert fuzzed.run(target, 2, LONG[target]) > 0
