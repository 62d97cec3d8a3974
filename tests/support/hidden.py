"""Models whose folders workers do not see, on the machine of a driver that has found them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import reranking.encoding
from configs.schema import Config
from reranking import chunks


class Hidden:
    """Names of a config's models that are gone when workers are asked for the first time."""

    def __init__(self, folder: Path, config: Config, monkeypatch: Any) -> None:
        assert config.rerank is not None
        named = {"rerank.model_name": config.rerank.model_name}
        if config.documents.encoder is not None:
            named["documents.encoder.model"] = config.documents.encoder.model
        self.overrides, self.links = [], []
        for key, model in named.items():
            link = folder / f"only-here-{key}"
            link.symlink_to(model)
            self.links.append(link)
            self.overrides.append(f"{key}={link}")
        for module in (chunks, reranking.encoding):
            monkeypatch.setattr(module, "what_is_asked", self._before(module.what_is_asked))

    def _before(self, what_is_asked: Any) -> Any:
        def asked(*args: Any, **options: Any) -> Any:
            made = what_is_asked(*args, **options)
            for link in self.links:
                link.unlink(missing_ok=True)
            return made

        return asked

    @property
    def are_gone(self) -> bool:
        """Whether nobody can have found them since."""
        return not any(link.exists() for link in self.links)
