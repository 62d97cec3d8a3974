"""The configured reranker: which it is, without loading it; loaded when a pair needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from configs.schema import Rerank
from reranking.models.files import ModelFiles, understood
from reranking.models.fingerprint import fingerprint_reranker
from reranking.models.folder import model_activation, resolve_max_length
from reranking.models.reranker import half_settings, score_source
from reranking.models.resolve import ModelFolder, resolve_model

if TYPE_CHECKING:
    from reranking.scoring.scorer import Scorer


class Reranker(Protocol):
    """A reranker that a Pipeline can use: what names its scores, and how it is loaded.

    `fingerprint` (16 bytes) must change whenever a score does; `dtype` is float32, bfloat16,
    float16 or served; `max_length` is None where nobody tells it; `activation` (identity or
    sigmoid) is applied when results are published.
    """

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def fingerprint(self) -> bytes: ...
    @property
    def dtype(self) -> str: ...
    @property
    def max_length(self) -> int | None: ...
    @property
    def activation(self) -> str: ...
    def load(self) -> Scorer: ...
    def is_unchanged(self) -> bool: ...


@dataclass(frozen=True)
class CrossEncoderModel:
    """A cross-encoder that exists and fits, with what names its scores."""

    settings: Rerank
    folder: ModelFolder
    fingerprint: bytes
    dtype: str
    max_length: int
    activation: str

    @property
    def name(self) -> str:
        """The model's name as the config has it."""
        return self.settings.model_name

    @property
    def revision(self) -> str | None:
        """The commit on the hub, None for a local folder."""
        return self.folder.revision

    def is_unchanged(self) -> bool:
        """Return whether the model's files still give the same fingerprint."""
        return find_cross_encoder(self.settings).fingerprint == self.fingerprint

    def load(self) -> Scorer:
        """The model on its device or devices, ready to score."""
        from reranking.scoring.devices import load_scorer

        resolved = {"max_length": self.max_length, "precision": self.dtype}
        return load_scorer(self.folder.files, self.settings.model_copy(update=resolved))


def find_reranker(settings: Rerank) -> Reranker:
    """The reranker that the settings name: a server's, or a cross-encoder that is here."""
    if settings.api is None:
        return find_cross_encoder(settings)
    from reranking.scoring.served import ServedModel

    return ServedModel(settings)


def find_cross_encoder(settings: Rerank) -> CrossEncoderModel:
    """The model's folder, fingerprint, dtype, limit and activation; no weights are loaded.

    Raises MissingPrerequisite where the model is not there, ConfigError where it is no one-label
    cross-encoder.
    """
    folder = resolve_model(
        settings.model_name,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
    )
    with understood(folder.path):
        source = score_source(folder.files, folder.chain, settings)
        dtype = _dtype(settings, folder.files)
        max_length = resolve_max_length(folder.files, settings.max_length)
        fingerprint = fingerprint_reranker(
            folder.files,
            max_length=max_length,
            dtype=dtype,
            prompt=source.prompt,
            revision=folder.revision,
            settings=source.settings | half_settings(folder.files, dtype),
        )
        activation = settings.activation or model_activation(folder.files, len(source.labels))
    return CrossEncoderModel(settings, folder, fingerprint, dtype, max_length, activation)


def need_prerequisites(settings: Rerank) -> None:
    """Raise MissingPrerequisite if a device that is named, or a server's key, is not here."""
    from reranking.scoring.scorer import resolve_device

    if settings.api is not None:
        from reranking.scoring.served import key_of

        key_of(settings.api)

    device = settings.device
    for name in [device] if isinstance(device, str) else device or ():
        resolve_device(name)


def _dtype(settings: Rerank, files: ModelFiles) -> str:
    if settings.precision != "auto":
        return settings.precision
    from reranking.scoring.scorer import resolve_dtype

    device = settings.device
    first = device if device is None or isinstance(device, str) else device[0]
    return resolve_dtype("auto", first, files)
