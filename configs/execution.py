"""Where the work of a job is done, and by how many."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from configs.part import Part
from configs.source import Place


class Scale(Part):
    min: int = Field(1, ge=0, description="workers without which a job is not begun")
    max: int = Field(ge=1, description="workers that a job uses at most")

    @model_validator(mode="after")
    def _in_order(self) -> Scale:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class Execution(Part):
    commit_seconds: float = Field(30.0, gt=0, description="work that a kill may lose")
    max_seconds: float | None = Field(
        None, gt=0, description="then work ends at a commit, exit code 8; the next start goes on"
    )
    max_pairs: int | None = Field(
        None, ge=1, description="the same after so many pairs were scored, by all workers together"
    )
    runner: Literal["threads", "processes", "ray", "dask"] = Field(
        "threads", description="what several workers are"
    )
    workers: int | Scale | None = Field(
        None,
        description="N or {min, max}; None: this process alone, with an address all of the cluster",
    )
    gpus_per_worker: int = Field(1, ge=0, description="reserved for a worker, not used on CPU")
    resources: dict[str, float] = Field(
        {}, description="what else a worker of a Ray or Dask cluster needs, as its nodes offer it"
    )
    address: Place | None = Field(
        None, description="of a Ray or Dask cluster; None: one is started on this machine"
    )

    @property
    def alone(self) -> bool:
        """Whether this process does the work."""
        return self.address is None and self.most == 1

    @property
    def most(self) -> int:
        """The workers that are started here, or used at most if their number is given."""
        given = self.workers
        return given.max if isinstance(given, Scale) else given or 1

    @property
    def least(self) -> int:
        """The workers without which a job is not begun."""
        return self.workers.min if isinstance(self.workers, Scale) else 1

    @model_validator(mode="after")
    def _has_cluster(self) -> Execution:
        if isinstance(self.workers, int) and self.workers < 1:
            raise ValueError(f"workers is {self.workers}, expected 1 or more")
        if self.runner not in ("ray", "dask"):
            if self.address is not None:
                raise ValueError(
                    "address is that of a Ray or Dask cluster: set runner to ray or dask"
                )
            if self.resources:
                raise ValueError("resources are a Ray or Dask worker's: set runner to ray or dask")
        if self.address is not None and "@" in self.address:
            raise ValueError("an address with a user or a password would be stored with every run")
        return self
