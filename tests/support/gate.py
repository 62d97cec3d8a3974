"""Work as real workers do it, which says what it does and dies where a test wants it to.

A `Gate` is shipped to the workers in place of the functions that a driver hands to them. Each
line of its record is one event in one process: a load, a batch, a commit.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reranking import chunks, encoding
from reranking.runs.run import Run
from reranking.workers import presence
from tests.support.engines import MARK

WORK, FAULT, ENCODE = chunks.work_here, presence.fault_of_worker, encoding.encode_texts


@dataclass(frozen=True)
class Gate:
    """What happens to workers: who dies when, and what GPUs they believe to have."""

    folder: str
    dies: str | None = (
        None  # in its "first" batch, "middle": after a commit, or at the "last" chunk
    )
    deaths: int = 1
    deadly: int | None = None  # a chunk that every worker dies of
    slow: float = 0.0  # seconds a batch
    together: int = 1  # workers that must have scored a batch before any scores a second one
    gpus: int = 0
    version: str | None = None  # of rescore, that workers claim to have

    def work_here(
        self, job: str, asked: presence.Asked, run: Run, chunk: int, again: bool = False
    ) -> Any:
        """Search and score one chunk."""
        self._patch()
        _now.update(chunk=chunk, last=chunk == run.chunks[-1], batches=0)
        return WORK(job, asked, run, chunk, again)

    def fault_of_worker(self, asked: presence.Asked) -> str | presence.Lacks | None:
        """Whether this worker can do the job."""
        self._patch()
        return FAULT(asked)

    def encode_texts(self, job: str, asked: presence.Asked, texts: list[str]) -> Any:
        """Encode texts."""
        self.note("encode", pairs=len(texts))
        return ENCODE(job, asked, texts)

    def install(self, monkeypatch: Any) -> Gate:
        """Have the driver in this process hand out these functions."""
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(chunks, "work_here", self.work_here)
        monkeypatch.setattr(chunks, "fault_of_worker", self.fault_of_worker)
        monkeypatch.setattr(encoding, "encode_texts", self.encode_texts)
        return self

    # In the worker ----------------------------------------------------------------------------

    def note(self, event: str, **more: Any) -> None:
        """Write a line of the record; one write, so that lines of processes do not mix."""
        line = {
            "event": event,
            "pid": os.getpid(),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "cluster": os.environ.get(MARK),
            "prefect": "prefect" in sys.modules,
            **more,
        }
        with (Path(self.folder) / "record.jsonl").open("a") as record:
            record.write(json.dumps(line) + "\n")

    def _patch(self) -> None:
        if _gates:  # a worker that stays from job to job
            if _gates[0].folder != self.folder:
                _now["commits"] = 0
            _gates[0] = self
            return
        _gates.append(self)
        from reranking.runs.pairs import PairScores
        from reranking.scoring.crossencoder import CrossEncoderModel

        load, commit = CrossEncoderModel.load, PairScores._commit

        def loaded(model: CrossEncoderModel) -> Any:
            _gates[0].note("load", device=str(model.settings.device))
            scorer = load(_on_cpu(model) if _gates[0].gpus else model)
            batches = scorer.batches

            def watched(*args: Any) -> Iterator[Any]:
                for batch in batches(*args):
                    _gates[0].seen(len(batch[0]))
                    yield batch

            scorer.batches = watched  # type: ignore[method-assign]
            return scorer

        def committed(store: PairScores, pairs: Any, epoch: int) -> None:
            commit(store, pairs, epoch)
            _now["commits"] += 1
            _gates[0].note("commit", pairs=len(pairs), chunk=_now["chunk"])

        CrossEncoderModel.load = loaded  # type: ignore[method-assign]
        PairScores._commit = committed  # type: ignore[method-assign]
        if self.gpus:
            _fake_gpus(self.gpus)
        version = presence.version
        presence.version = lambda name: _gates[0].version or version(name)  # type: ignore[assignment]

    def seen(self, pairs: int) -> None:
        """Take note of a batch that was scored and is not committed, and die if it is time."""
        _now["batches"] += 1
        self.note("batch", pairs=pairs, chunk=_now["chunk"])
        time.sleep(self.slow)
        while len(self.pids()) < self.together:
            time.sleep(0.05)
        moments = {
            "first": _now["commits"] == 0,
            "middle": _now["commits"] > 0 and _now["batches"] > 1 and not _now["last"],
            "last": _now["last"],
        }
        if _now["chunk"] == self.deadly or (moments.get(self.dies or "") and self._my_turn()):
            self.note("death", chunk=_now["chunk"])
            os.kill(os.getpid(), signal.SIGKILL)

    def _my_turn(self) -> bool:
        for number in range(self.deaths):
            try:
                (Path(self.folder) / f"death-{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False

    # In the test ------------------------------------------------------------------------------

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """The lines of these kinds."""
        record = Path(self.folder) / "record.jsonl"
        lines = record.read_text().splitlines() if record.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [line for line in found if line["event"] in kinds]

    def pids(self, kind: str = "batch") -> set[int]:
        """The processes that did something."""
        return {line["pid"] for line in self.events(kind)}

    def scored(self) -> int:
        """Pairs that went through a model, those included that were lost."""
        return sum(line["pairs"] for line in self.events("batch"))


_gates: list[Gate] = []
_now: dict[str, Any] = {"chunk": None, "last": False, "batches": 0, "commits": 0}


def _on_cpu(model: Any) -> Any:
    """The same model where there is no GPU."""
    from dataclasses import replace

    cpu = model.settings.model_copy(update={"device": "cpu"})
    return replace(model, settings=cpu)


def _fake_gpus(count: int) -> None:
    """Have this process believe in GPUs: as many as it may see of `count`."""
    import torch

    from reranking.scoring import scorer

    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = count if seen is None else len([n for n in seen.split(",") if n])
    torch.cuda.is_available = lambda: count > 0
    torch.cuda.device_count = lambda: count
    torch.cuda.is_bf16_supported = lambda *_, **__: True  # type: ignore[assignment]
    torch.cuda.mem_get_info = lambda *_: (8_000_000_000, 8_000_000_000)  # type: ignore[assignment]
    torch.cuda.get_device_name = lambda *_: "a stand-in"  # type: ignore[assignment]
    scorer.surely_no_gpu = lambda: False  # type: ignore[assignment]
    chunks._device = lambda config: "cpu"
