"""Configuration: strict, with errors that name the key."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.config import MAX_CONFIG_BYTES, Config, load_config, parse_toml
from edgeguard.errors import ConfigError


def refused(raw: bytes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_toml(raw, Config, origin="test.toml")
    return caught.value


def test_without_a_file_the_defaults_hold() -> None:
    """A newcomer needs no configuration."""
    assert load_config() == Config()


def test_a_value_reaches_its_struct(tmp_path: Path) -> None:
    """What is written is what runs."""
    path = tmp_path / "edgeguard.toml"
    path.write_text("[guard]\nrelax_after_clean_ticks = 3\n[restore]\nchain = ['impulse-median']\n")

    config = load_config(path)

    assert config.guard.relax_after_clean_ticks == 3
    assert config.restore.chain == ("impulse-median",)


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    """A typing error must not silently leave a guard at its default."""
    error = refused(b"[guard]\nrelax_after_clean_tick = 3\n")
    assert error.code == "EG-C003"
    assert "guard.relax_after_clean_ticks" in error.hint


def test_an_unknown_section_is_refused() -> None:
    """Sections are keys too."""
    assert refused(b"[gard]\n").hint == "did you mean guard?"


@pytest.mark.parametrize(
    "raw",
    [b"[pipeline]\ntick_ms = 'soon'\n", b"[pipeline]\ntick_ms = 0\n", b"[restore]\nmax_removed_share = 0.9\n",
     b"guard = 3\n", b"[guard]\nstop_after_hold_ticks = 0\n"],
)  # fmt: skip
def test_a_wrong_type_or_value_is_refused(raw: bytes) -> None:
    """Bounds are part of the schema."""
    assert refused(raw).code == "EG-C004"


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"[", b"a = " + b"[" * 5000])
def test_what_is_not_toml_is_refused(raw: bytes) -> None:
    """Broken text, broken encoding and absurd nesting give one error."""
    assert refused(raw).code == "EG-C002"


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    """Both are wrong paths, told apart by message."""
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none.toml")
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load_config(huge)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_config_error(raw: bytes) -> None:
    """The parser is a border."""
    with suppress(ConfigError):
        assert isinstance(parse_toml(raw, Config, origin="fuzz"), Config)
