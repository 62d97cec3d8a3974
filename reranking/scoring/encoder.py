"""The embedding model behind one small interface; loaded when the first text needs it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from configs.documents import Encoder
from reranking.errors import MissingPrerequisite
from reranking.models.builtin import is_published
from reranking.models.files import understood
from reranking.models.fingerprint import fingerprint_encoder
from reranking.models.folder import own_settings
from reranking.models.resolve import resolve_model

if TYPE_CHECKING:
    from reranking.scoring.fast_encoder import FastEncoder

log = logging.getLogger(__name__)
_LOADING = threading.Lock()


class SentenceEncoder:
    """A sentence-transformers model: texts in, float32 vectors out."""

    def __init__(self, settings: Encoder) -> None:
        """Resolve the model and its fingerprint; raises MissingPrerequisite where it is not there.

        The model itself is not loaded: a run that has nothing to encode never pays for it.
        """
        self.settings = settings
        self.folder = resolve_model(
            settings.model,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
        )
        files = self.folder.files
        with understood(self.folder.path):
            own = {} if is_published(files) else own_settings(files, self.folder.chain)
        self.fingerprint = self._fingerprint(own)
        # What earlier versions called this encoder, which did not look at its own settings.
        self.former_fingerprint = self._fingerprint({}) if own else None

    def _fingerprint(self, own: dict[str, object]) -> str:
        settings = self.settings
        prompts = [settings.prompt, settings.query_prompt, settings.truncate_dim]
        return fingerprint_encoder(
            self.folder.files,
            prompt=None if prompts == [None, None, None] else repr(prompts),
            max_length=0,
            dtype="float32",
            revision=self.folder.revision,
            settings=own,
        ).hex()

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer

        from reranking.scoring.load import not_loaded, own_weights

        files, trusted = self.folder.files, self.settings.trust_remote_code
        with _LOADING, files.staged(with_code=trusted) as staged:
            try:
                model = SentenceTransformer(
                    str(staged),
                    device=self.settings.device,
                    truncate_dim=self.settings.truncate_dim,
                    trust_remote_code=trusted,
                    local_files_only=True,
                    model_kwargs={"use_safetensors": True},
                )
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # each library has its own kind, tokenizers a panic
                raise MissingPrerequisite(not_loaded(files, staged, error)) from error
            own_weights(model)
        return model

    @cached_property
    def _fast(self) -> FastEncoder | None:
        from reranking.scoring.fast_encoder import fast_encoder

        return None if self.settings.truncate_dim else fast_encoder(self._model)

    @property
    def dimension(self) -> int:
        """Numbers per vector."""
        return int(self.settings.truncate_dim or self._model.get_embedding_dimension())

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, dimension) vectors of documents."""
        return self._encode("document", texts, self.settings.prompt)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, dimension) vectors of queries."""
        return self._encode("query", texts, self.settings.query_prompt)

    def _encode(self, kind: str, texts: Sequence[str], prompt: str | None) -> NDArray[np.float32]:
        if prompt is None and not self._own_prompt(kind) and self._fast is not None:
            return self._fast.encode(texts)
        vectors = getattr(self._model, f"encode_{kind}")(
            list(texts),
            prompt=prompt,
            batch_size=self.settings.batch_size,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, np.float32)

    def _own_prompt(self, kind: str) -> bool:
        """Whether the model itself puts something before texts of this kind."""
        names = [kind, "passage", "corpus"] if kind == "document" else [kind]
        named = self._model.default_prompt_name is not None
        return named or any(self._model.prompts.get(name) for name in names)
