"""Any file as a config: it is read, or its faults are said; nothing else is raised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.load import PRESETS, ConfigFault, load_config

pytestmark = pytest.mark.slow

TEXT = (PRESETS / "nightly.yaml").read_text("utf-8")
KEYS = sorted({word.strip(" -:{}[],") for line in TEXT.splitlines() for word in line.split()})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


def is_answered(content: bytes, folder: Path, *overrides: str) -> None:
    path = folder / "config.yaml"
    path.write_bytes(content)
    try:
        load_config(path, overrides)
    except ConfigFault as fault:
        assert str(fault)


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode()))
def test_any_bytes(content: bytes, tmp_path: Path) -> None:
    is_answered(content, tmp_path)


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(value=VALUES)
def test_any_values_under_known_keys(value: Any, tmp_path: Path) -> None:
    is_answered(yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "replace"), tmp_path)


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(start=st.integers(0, len(TEXT)), length=st.integers(0, 40), new=st.text(max_size=20))
def test_a_config_with_a_piece_exchanged(start: int, length: int, new: str, tmp_path: Path) -> None:
    text = TEXT[:start] + new + TEXT[start + length :]
    is_answered(text.encode("utf-8", "surrogatepass"), tmp_path)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(override=st.text(max_size=40))
def test_any_override(override: str, tmp_path: Path) -> None:
    is_answered(TEXT.encode(), tmp_path, override)
