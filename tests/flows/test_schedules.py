"""Deployments are named after their config and run when it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.load import ConfigFault, load_config
from flows.commands.schedules import deployments_for
from tests.conftest import REPOSITORY
from tests.support import tiny


def written(folder: Path, model: Path, name: str) -> Path:
    config = tiny.write_config(folder, model)
    return config.rename(folder / f"{name}.yaml")


def test_each_config_has_deployments_of_its_own(tmp_path: Path, cross_encoder: Path) -> None:
    file = written(tmp_path, cross_encoder, "shop")
    config = load_config(file, ["schedule.rescore=30 4 * * *", "schedule.timezone=Europe/Berlin"])
    made = deployments_for(config, file, REPOSITORY / "prefect.yaml")["deployments"]
    by_flow = {Path(d["entrypoint"].split(":")[0]).stem: d for d in made}
    assert by_flow["rescore"]["name"] == "nightly-shop"
    assert by_flow["rescore"]["schedules"] == [
        {"cron": "30 4 * * *", "timezone": "Europe/Berlin", "slug": "rescore"}
    ]
    assert "schedules" not in by_flow["watch"]  # none unless the config gives one
    for deployment in made:
        assert "rescore-config:shop" in deployment["tags"]
        assert deployment["parameters"]["config"]["preset"] == str(file)
    named = load_config(file, ["name=other"])
    names = {
        d["name"] for d in deployments_for(named, file, REPOSITORY / "prefect.yaml")["deployments"]
    }
    assert "nightly-other" in names and not names & {d["name"] for d in made}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("schedule.rescore=at two", "is no cron expression"),
        ("schedule.timezone=Mars/Base", "is no time zone"),
        ("name=a b", "name"),
    ],
)
def test_faults_of_a_schedule_are_faults_of_the_config(
    tmp_path: Path, cross_encoder: Path, change: str, message: str
) -> None:
    with pytest.raises(ConfigFault, match=message):
        load_config(written(tmp_path, cross_encoder, "shop"), [change])
