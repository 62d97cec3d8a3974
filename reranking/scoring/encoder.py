"""The embedding model behind one small interface; loaded when the first text needs it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from configs.documents import Encoder
from reranking.errors import MissingPrerequisite, RescoreError
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
        from reranking.scoring.missing import complete_weights

        files, trusted = self.folder.files, self.settings.trust_remote_code
        with _LOADING, files.staged(with_code=trusted) as staged:
            try:
                with complete_weights(files):
                    model = SentenceTransformer(
                        str(staged),
                        device=self.settings.device,
                        truncate_dim=self.settings.truncate_dim,
                        trust_remote_code=trusted,
                        local_files_only=True,
                        model_kwargs={"use_safetensors": True},
                    )
            except (KeyboardInterrupt, SystemExit, RescoreError):
                raise
            except BaseException as error:  # each library has its own kind, tokenizers a panic
                raise MissingPrerequisite(not_loaded(files, staged, error)) from error
            own_weights(model)
        return model

    @cached_property
    def _fast(self) -> FastEncoder | None:
        """The fast path; the stock model is loaded only if this machine has not checked it yet."""
        from reranking.scoring import fast_encoder as fast
        from reranking.scoring.scorer import resolve_device
        from reranking.scoring.verdicts import say_checking, verdict_of

        files, settings = self.folder.files, self.settings
        if settings.truncate_dim:
            return None
        known = fast.is_known_chain(self.folder) and not settings.trust_remote_code
        if not known or resolve_device(settings.device) != "cpu":
            return fast.fast_encoder(self._model)
        verdict = verdict_of("encoder", files, "cpu")
        encoder = fast.remembered_encoder(verdict, self.folder)
        if encoder is None:
            say_checking(files)
            encoder = fast.fast_encoder(self._model)
            if encoder is not None:
                fast.remember_encoder(verdict, self.folder, self._model)
        return encoder

    @property
    def dimension(self) -> int:
        """Numbers per vector."""
        if self.settings.truncate_dim:
            return self.settings.truncate_dim
        fast = self._fast
        return int(self._model.get_embedding_dimension()) if fast is None else fast.dimension

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, dimension) vectors of documents."""
        return self._encode("document", texts, self.settings.prompt)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, dimension) vectors of queries."""
        return self._encode("query", texts, self.settings.query_prompt)

    def _encode(self, kind: str, texts: Sequence[str], prompt: str | None) -> NDArray[np.float32]:
        fast = None if prompt is not None else self._fast
        if fast is not None and not _prompted(kind, fast.prompts, fast.default_prompt):
            try:
                return fast.encode(texts)
            except Exception as error:  # whatever fails there, the stock model still encodes
                log.warning(
                    "the fast encoder failed: %s: %s; encoding with the stock model from here on",
                    *(type(error).__name__, error),
                )
                self.__dict__["_fast"] = None
        vectors = getattr(self._model, f"encode_{kind}")(
            list(texts),
            prompt=prompt,
            batch_size=self.settings.batch_size,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, np.float32)


def _prompted(kind: str, prompts: Mapping[str, str], default: str | None) -> bool:
    """Whether the model itself puts something before texts of this kind."""
    names = [kind, "passage", "corpus"] if kind == "document" else [kind]
    return default is not None or any(prompts.get(name) for name in names)
