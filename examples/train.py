"""Train a reranker of your own from exported labels, and use its folder as `rerank.model_name`.

Needs the extra `train`. `rescore model builtin:minilm-reranker --out start` gives a folder to start
from, `rescore export-training CONFIG --format labeled-pair --out training` the rows.
"""

from __future__ import annotations

from pathlib import Path


def main(start: Path, training: Path, out: Path, steps: int = -1) -> Path:
    """Train on the Parquet files of `training`; the folder of the trained model."""
    from datasets import load_dataset
    from sentence_transformers.cross_encoder import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    rows = load_dataset("parquet", data_files={"train": str(training / "train*.parquet")})["train"]
    rows = rows.select_columns(["query", "document", "label"])
    rows = rows.map(lambda row: {"label": float(row["label"])})
    model = CrossEncoder(str(start))
    arguments = CrossEncoderTrainingArguments(
        str(out / "checkpoints"), max_steps=steps, save_strategy="no", report_to="none", seed=1
    )
    CrossEncoderTrainer(model, arguments, rows, loss=BinaryCrossEntropyLoss(model)).train()
    model.save_pretrained(str(out / "model"))
    return out / "model"
