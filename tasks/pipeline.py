"""Which runs are nights of the same pipeline."""

from __future__ import annotations

from configs.schema import Config
from reranking.fingerprints import canonical, fingerprint


def pipeline_of(config: Config) -> str:
    """What stays the same from night to night: what decides results, sources for contents.

    Knobs of the machine, and what is done with finished results, make no other pipeline.
    """
    machine = {"device", "batch_size", "batch_tokens", "window_rows", "commit_seconds"}

    def kept(value: object) -> object:
        if isinstance(value, dict):
            return {k: kept(v) for k, v in value.items() if k not in machine}
        return [kept(v) for v in value] if isinstance(value, list | tuple) else value

    later = {"results", "judgments", "comparison", "gates", "labels", "training", "keep"}
    # without defaults: a newer release's new keys must not end a pipeline
    values = config.model_dump(
        mode="json", exclude_defaults=True, exclude={"database", "execution", *later}
    )
    return fingerprint(canonical(kept(values)))
