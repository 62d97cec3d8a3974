"""Deployments: every entrypoint of prefect.yaml loads from a foreign folder, with its preset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.deploy import resolve
from configs.load import ConfigFault
from configs.schema import Config
from tests.conftest import REPOSITORY

DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())[
    "deployments"
]


def name(deployment: dict[str, Any]) -> str:
    return f"{deployment['entrypoint'].rpartition(':')[2]}/{deployment['name']}"


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=name)
def test_an_entrypoint_loads_and_takes_its_parameters(
    deployment: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.flows import load_flow_from_entrypoint

    monkeypatch.chdir(tmp_path)
    entrypoint = f"{REPOSITORY}/{deployment['entrypoint']}"
    flow = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    assert flow.name == deployment["entrypoint"].rpartition(":")[2]
    preset = str(REPOSITORY / "configs" / "nightly.yaml")
    text = json.dumps(deployment["parameters"]).replace("{{ $RESCORE_CONFIG }}", preset)
    given = flow.validate_parameters(json.loads(text))
    assert isinstance(given["config"], Config)


def test_each_flow_that_runs_by_itself_is_deployed() -> None:
    found = {d["entrypoint"].rpartition(":")[2] for d in DEPLOYMENTS}
    assert found == {"ingest", "rescore", "reevaluate", "label", "maintain", "watch"}
    assert len({name(d) for d in DEPLOYMENTS}) == len(DEPLOYMENTS)


def test_overrides_are_values_of_any_kind() -> None:
    preset = str(REPOSITORY / "configs" / "nightly.yaml")
    changes = {"search.limit": 7, "search.query_types": ["fts"], "rerank": None}
    changes |= {"search.where": {"kind": "it's: [odd] # text"}, "documents.table": "yes"}
    config = resolve({"preset": preset, "set": changes})
    assert config.search.limit == 7
    assert config.search.query_types == ("fts",)
    assert config.rerank is None
    assert config.search.where == {"kind": "it's: [odd] # text"}
    assert config.documents.table == "yes"


def test_what_is_wrong_with_a_preset_is_said() -> None:
    preset = str(REPOSITORY / "configs" / "nightly.yaml")
    with pytest.raises(ValueError, match="a preset takes `set` for overrides, and nothing else"):
        resolve({"preset": preset, "override": {}})
    with pytest.raises(ConfigFault, match="no such config file"):
        resolve({"preset": "nowhere.yaml"})
    with pytest.raises(ConfigFault, match="unknown key"):
        resolve({"preset": preset, "set": {"serach.limit": 3}})
