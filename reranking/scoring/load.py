"""Loading a reranker: the fastest engine that gives the stock model's scores, checked or known."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reranking.errors import ConfigError, MissingPrerequisite, RescoreError
from reranking.models.files import ModelFiles
from reranking.models.reranker import PACKED, ScoreSource
from reranking.scoring.answers import answering_modules, check_template
from reranking.scoring.engines import PairAssembler, Pairs
from reranking.scoring.fast_bert import CONFIG_KEYS, fast_architecture
from reranking.scoring.generic import GenericEngine, build_assembler
from reranking.scoring.missing import complete_weights
from reranking.scoring.sample import SPOT, score_sample
from reranking.scoring.tokens import find_template
from reranking.scoring.verdicts import saved_model, saved_weights, say_checking, verdict_of

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from sentence_transformers import CrossEncoder

    from reranking.scoring.engines import Engine
    from reranking.scoring.fast import FastEngine
    from reranking.scoring.machine import Record

logger = logging.getLogger(__name__)

EXACT = 1e-4  # most that a float32 logit may differ from the stock model's
HALF = 0.05  # the same for half precision, where the stock model itself is not further off


def load_engine(
    files: ModelFiles,
    device: str,
    dtype: str,
    max_length: int,
    trust_remote_code: bool,
    source: ScoreSource,
    fast_path: bool = True,
) -> Engine:
    """The engine for the model, on `device`, in `dtype`; the stock modules without a `fast_path`.

    Only a model that may be packed is loaded in float32 first: its float32 logits are what the
    packed forward is compared with. Any other is scored by the stock modules themselves, so it is
    loaded in `dtype` from the start, and the whole of it in float32 never exists.
    """
    import torch

    wanted: torch.dtype = getattr(torch, dtype)
    if torch.device(device).type == "cpu" and dtype != "float32":
        _warn_if_slow(dtype)
    verdict = None
    if fast_path and not trust_remote_code and fast_architecture(files):
        verdict = verdict_of(
            "reranker", files, device, dtype=dtype, max_length=max_length, source=asdict(source)
        )
        if remembered := _remembered(verdict, files, device, wanted, max_length):
            return remembered
        say_checking(files)
    exact_first = dtype == "float32" or may_be_packed(files)
    loaded = "float32" if exact_first else dtype
    model = load_stock(files, device, max_length, trust_remote_code, source, loaded)
    assembler = build_assembler(model, max_length)
    generic = GenericEngine(model, assembler, source.column)
    fast = _fast_engine(model, assembler, wanted) if exact_first and fast_path else None
    if fast is None and dtype != "float16":
        cast(model, wanted)
        return generic
    sample = score_sample(max_length)
    expected = _logits(generic, sample, len(sample)) if exact_first else None
    cast(model, wanted)
    if dtype == "float16":
        _check_range(files, _logits(generic, sample, len(sample)), expected)
    if fast is None or expected is None:
        return generic
    bound = EXACT if dtype == "float32" else _half_bound(generic, sample, expected)
    gap = _gap(fast, sample, expected)
    if gap <= bound:
        logger.info("the fast path is within %.1e of the stock model", gap)
        if verdict is not None:
            answer = _answer(model, fast) | {"bound": bound, "spot": expected[SPOT].tolist()}
            # What later loads make of the files alone must have passed too.
            again = _from_files(answer, files, device, wanted, max_length)
            if again is not None and _gap(again, sample, expected) <= bound:
                verdict.store(answer)
        return fast
    logger.warning(
        "the fast path %s is off by %.1e on the built-in sample, allowed is %.1e: "
        "scoring with the stock model instead",
        fast.path,
        gap,
        bound,
    )
    return generic


def _remembered(
    verdict: Record, files: ModelFiles, device: str, dtype: torch.dtype, max_length: int
) -> FastEngine | None:
    """The fast engine, if it has passed the check on this machine before."""
    answer = verdict.read()
    engine = None if answer is None else _from_files(answer, files, device, dtype, max_length)
    if answer is None or engine is None or engine.path != answer["path"]:
        return None
    logger.info("the fast path was checked before: %s", verdict.path)
    return engine


def _answer(model: CrossEncoder, fast: FastEngine) -> dict[str, Any]:
    """What the fast path needs beside the weights, as JSON."""
    stock: Any = model.transformers_model
    return {
        "path": fast.path,
        "layout": fast.layout,
        "config": {key: getattr(stock.config, key) for key in CONFIG_KEYS},
        "tokenizer": fast.assembler.tokenizer.to_str(),
        "types": list(fast.assembler.template.types),
        "prompt": fast.assembler.prompt,
    }


def _from_files(
    answer: Mapping[str, Any], files: ModelFiles, device: str, dtype: torch.dtype, max_length: int
) -> FastEngine | None:
    """The fast engine made of the files and a verdict's answer, without the stock model.

    None if that does not go, which is told. Raises RuntimeFailure if the files were changed.
    """
    from tokenizers import Tokenizer

    from reranking.scoring.fast import FastEngine

    try:
        tokenizer = Tokenizer.from_str(answer["tokenizer"])
        template = find_template(tokenizer)
        if template is None:
            raise ValueError("the tokenizer has no template for pairs")
        template = replace(template, types=tuple(answer["types"]))
        assembler = PairAssembler(tokenizer, template, max_length, answer["prompt"])
        with saved_weights(files) as weights:
            model = saved_model(weights, answer["config"], device)
            engine = FastEngine(model, answer["layout"], assembler, dtype)
        short = [score_sample(max_length)[i] for i in SPOT]
        gap = _gap(engine, short, np.array(answer["spot"], np.float32))
        if gap > answer["bound"]:
            raise ValueError(f"off by {gap:.1e} for the shortest built-in pairs")
        return engine
    except RescoreError:
        raise
    except Exception as error:  # the stock model is loaded instead
        logger.info("not loaded from the files alone: %s: %s", type(error).__name__, error)
        return None


def _fast_engine(
    model: CrossEncoder, assembler: PairAssembler | None, dtype: torch.dtype
) -> FastEngine | None:
    """The fast engine if the model has its layout and it can be built here."""
    from reranking.scoring.fast import FastEngine, fast_layout

    try:
        layout = fast_layout(model)
        if layout is None or assembler is None:
            return None
        return FastEngine(model, layout, assembler, dtype)
    except Exception as error:  # whatever fails there, the stock model still scores
        logger.warning("no fast path on %s: %s: %s", model.device, type(error).__name__, error)
        return None


def _warn_if_slow(dtype: str) -> None:
    """Say if this processor lacks instructions for the half type."""
    import torch

    from reranking.scoring.cpu.linears import half_slowdown

    slowdown = half_slowdown(getattr(torch, dtype))
    if slowdown > 1:
        logger.warning(
            "%s is %.1f times as slow as float32 on this processor; set precision: float32",
            dtype,
            slowdown,
        )


def may_be_packed(files: ModelFiles) -> bool:
    """Whether the model's config names a type that has a packed forward."""
    return files.object("config.json").get("model_type") in PACKED


def cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Bring the weights into the type, as loading them in it does.

    Module.to would round the frequencies of rotary positions too, which are no weights.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _check_range(
    files: ModelFiles, half: NDArray[np.float32], exact: NDArray[np.float32] | None
) -> None:
    """Raise ConfigError if the model overflows in float16 on pairs that float32 scores.

    What float32 would give is not known (None) of a model that was never loaded in it.
    """
    if (exact is None or np.isfinite(exact).all()) and not np.isfinite(half).all():
        doubt = "" if exact is not None else " (if that does not help, its weights are broken)"
        raise ConfigError(
            f"the model in {files.folder} leaves the range of float16: "
            f"{(~np.isfinite(half)).sum()} of {len(half)} built-in pairs have no finite score; "
            f"set precision: bfloat16{doubt}"
        )


def _half_bound(
    stock: GenericEngine, sample: list[tuple[str, str]], expected: NDArray[np.float32]
) -> float:
    """Half precision may be twice as far from float32 as the stock model in half is."""
    return max(HALF, 2 * float(np.abs(_logits(stock, sample, len(sample)) - expected).max()))


def _gap(engine: Engine, sample: list[tuple[str, str]], expected: NDArray[np.float32]) -> float:
    """Largest difference from the expected logits, in one mixed batch and pair by pair."""
    try:
        runs = [_logits(engine, sample, size) for size in (len(sample), 1)]
    except Exception as error:  # of any kind: a torch that changed a signature raises TypeError
        logger.warning("the fast path failed: %s: %s", type(error).__name__, error)
        return float("inf")
    with np.errstate(invalid="ignore"):  # infinite logits are told apart below
        gaps = [float(np.abs(logits - expected).max()) for logits in runs]
    return max(gaps) if np.isfinite(gaps).all() else float("inf")


def _logits(engine: Engine, sample: list[tuple[str, str]], size: int) -> NDArray[np.float32]:
    """The sample's logits in batches of `size` pairs."""
    import torch

    count = np.arange(len(sample))
    pairs = Pairs([q for q, _ in sample], [d for _, d in sample], count, count)
    with torch.inference_mode():
        job = engine.prepare(pairs)
        parts = [job.run(count[i : i + size]).cpu() for i in range(0, len(sample), size)]
        return torch.cat(parts).numpy()


def load_stock(
    files: ModelFiles,
    device: str,
    max_length: int,
    trust_remote_code: bool,
    source: ScoreSource | None = None,
    dtype: str = "float32",
) -> CrossEncoder:
    """The model's CrossEncoder in `dtype`, ready for inference.

    Raises MissingPrerequisite if the model cannot be loaded, RuntimeFailure if its files were
    changed meanwhile.
    """
    with files.staged(with_code=trust_remote_code) as staged:
        try:
            with complete_weights(files):
                model = _cross_encoder(staged, device, max_length, trust_remote_code, source, dtype)
        except (KeyboardInterrupt, SystemExit, RescoreError):
            raise
        except BaseException as error:  # each library has its own kind, tokenizers a panic
            raise MissingPrerequisite(not_loaded(files, staged, error)) from error
        own_weights(model)
    model.eval()
    if any(type(module).__name__ == "LogitScore" for module in model):
        check_template(files, model, max_length)
    return model


def _cross_encoder(
    staged: Path,
    device: str,
    max_length: int,
    trust_remote_code: bool,
    source: ScoreSource | None,
    dtype: str,
) -> CrossEncoder:
    import torch
    from sentence_transformers import CrossEncoder

    settings: dict[str, Any] = {
        "device": device,
        "activation_fn": torch.nn.Identity(),  # the one that the config names is not imported
    }
    if source is not None and source.prompt is not None:
        settings |= {"prompts": {"rescore": source.prompt}, "default_prompt_name": "rescore"}
    if source is not None and source.answers is not None:
        modules = answering_modules(staged, max_length, source.answers, dtype)
        return CrossEncoder(modules=modules, **settings)
    model: CrossEncoder = CrossEncoder(
        str(staged),
        max_length=max_length,
        trust_remote_code=trust_remote_code,
        local_files_only=True,
        model_kwargs={"dtype": getattr(torch, dtype), "use_safetensors": True},
        **settings,
    )
    config, tokenizer = model.config, model.tokenizer
    if config is not None and getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = getattr(tokenizer, "pad_token_id", None)
    return model


def not_loaded(files: ModelFiles, staged: Path, error: BaseException) -> str:
    """What to say of a model whose loading failed; names the folder that the user gave."""
    said = " ".join(str(error).replace(str(staged), str(files.folder)).split())[:400]
    for words, meaning in _SAID.items():
        if words in said:
            kind = files.object("config.json").get("model_type")
            return f"the model in {files.folder} could not be loaded: {meaning.format(kind=kind)}"
    return (
        f"the model in {files.folder} could not be loaded ({type(error).__name__}: {said}); "
        "check that the folder is complete, and set trust_remote_code if the model brings code"
    )


# What transformers says of a folder's commonest faults, and what that means.
_SAID = {
    "does not recognize this architecture": "the installed transformers knows no model_type "
    "{kind!r}, which config.json names; correct it, or install a transformers that does",
    "ignore_mismatched_sizes": "config.json says other sizes than the weights have, so the two do "
    "not belong together; restore the model folder",
    "Unrecognized processing class": "its tokenizer cannot be read; restore tokenizer.json and "
    "tokenizer_config.json",
}


def own_weights(model: torch.nn.Module) -> None:
    """Copy weights that are views of a mapped file: a writer of the file would change them."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
