"""Loading a reranker: the stock model first, then the fastest engine that gives its scores."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from reranking.errors import MissingPrerequisite
from reranking.scoring.generic import GenericEngine, build_assembler

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

    from reranking.scoring.engines import Engine

logger = logging.getLogger(__name__)


def load_engine(
    folder: Path, device: str, dtype: str, max_length: int, trust_remote_code: bool
) -> Engine:
    """The engine for the model in `folder`, on `device`, in `dtype`."""
    import torch

    model = load_stock(folder, device, max_length, trust_remote_code)
    assembler = build_assembler(model, max_length)
    model.to(getattr(torch, dtype))
    return GenericEngine(model, assembler)


def load_stock(folder: Path, device: str, max_length: int, trust_remote_code: bool) -> CrossEncoder:
    """The folder's CrossEncoder in float32, ready for inference."""
    import torch
    from sentence_transformers import CrossEncoder

    try:
        model: CrossEncoder = CrossEncoder(
            str(folder),
            device=device,
            max_length=max_length,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32},
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise MissingPrerequisite(
            f"the model in {folder} could not be loaded ({type(error).__name__}: {error}); "
            "check that the folder is complete, and set trust_remote_code if the model brings code"
        ) from error
    model.eval()
    return model
