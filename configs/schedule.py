"""When deployed flows run by themselves."""

from __future__ import annotations

from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field

from configs.part import Part


def _cron(value: str) -> str:
    """Check the form; what the fields may hold is the server's to say."""
    if len(value.split()) != 5:
        raise ValueError(
            f"{value!r} is no cron expression: expected five fields, minute hour day month weekday"
        )
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"{value!r} is no time zone; expected one as Europe/Berlin") from error
    return value


Cron = Annotated[str, AfterValidator(_cron)]


class Schedule(Part):
    ingest: Cron | None = Field("0 1 * * *", description="cron of the ingest; null: never")
    rescore: Cron | None = Field("0 2 * * *", description="cron of the main job; null: never")
    label: Cron | None = Field(None, description="cron of labelling; null: never")
    maintain: Cron | None = Field("0 6 * * 0", description="cron of maintenance; null: never")
    watch: Cron | None = Field(None, description="cron of looking for changed models; null: never")
    timezone: Annotated[str, AfterValidator(_zone)] = Field("UTC", description="of all of them")
