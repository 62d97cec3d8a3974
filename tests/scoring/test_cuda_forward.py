"""The CUDA forwards on fake tensors: device and type of every value, no waiting for the device."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.nn.attention.varlen")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from reranking.scoring import fast, fast_modernbert, generic  # noqa: E402
from reranking.scoring.load import cast  # noqa: E402
from reranking.scoring.packing import pack  # noqa: E402
from reranking.scoring.tokens import Segments  # noqa: E402
from tests.support.model_zoo import (  # noqa: E402
    bert,
    decoder_classifier,
    dense_chain,
    electra,
    logit_score,
    modernbert,
    roberta,
)

CUDA = torch.device("cuda:0")
SEGMENTS = Segments(
    np.array([[0, 3, 1, 6, 2]] * 4),
    np.array([[1, 2, 1, 20, 1], [1, 2, 1, 9, 1], [1, 2, 1, 9, 1], [1, 0, 1, 0, 1]]),
)
# These make the host wait until the device has computed a value.
WAITING = ("_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero", "masked_select")


class Indexing(TorchFunctionMode):
    """x[i], copy_, contiguous and pinned memory ask for a CUDA driver even of fake tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func is torch.Tensor.copy_:
            return torch.ops.aten.copy_(*args)
        if func is torch.Tensor.contiguous:
            return torch.ops.aten.clone(args[0], memory_format=torch.contiguous_format)
        if func is torch.Tensor.__getitem__:
            return self._item(*args)
        return func(*args, **(kwargs or {}))

    def _item(self, x: Any, at: Any) -> Any:
        if isinstance(at, torch.Tensor):
            return torch.ops.aten.index(x, [at])
        if isinstance(at, tuple) and all(isinstance(part, torch.Tensor) for part in at):
            return torch.ops.aten.index(x, list(at))
        dimension, parts = 0, at if isinstance(at, tuple) else (at,)
        for i, part in enumerate(parts):
            if part is Ellipsis:
                dimension = x.dim() - sum(p is not None for p in parts[i + 1 :])
                continue
            if isinstance(part, int):
                x = torch.ops.aten.select(x, dimension, part)
                continue
            if part is None:
                x = x.unsqueeze(dimension)
            else:
                assert isinstance(part, slice), at
                x = torch.ops.aten.slice(x, dimension, part.start, part.stop, part.step or 1)
            dimension += 1
        return x


class Watch(TorchDispatchMode):
    """Every operation's name, and the device and type of what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, torch.device, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func).split(".")[1]
        assert name not in WAITING, f"{func} waits for the device"
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.seen.append((name, tensor.device, tensor.dtype))
        return out


def on_cuda(model: Any) -> Any:
    """The model as its forward reads it, with fake parameters on a CUDA device."""
    for module in model.modules():
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                if value is not None:
                    fake = torch.empty(value.shape, dtype=value.dtype, device=CUDA)
                    values[name] = (
                        torch.nn.Parameter(fake, False) if values is (module._parameters) else fake
                    )
    return model


class OnCuda:
    """A CrossEncoder whose device is said to be CUDA."""

    def __init__(self, model: Any) -> None:
        self._model, self.device = model, CUDA
        self.transformers_model = model.transformers_model

    def __len__(self) -> int:
        return len(self._model)

    def __iter__(self) -> Any:
        return iter(self._model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("save", [bert, electra, roberta, modernbert, dense_chain])
def test_everything_stays_on_the_device_in_its_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Any, dtype: Any
) -> None:
    from sentence_transformers import CrossEncoder

    same = SimpleNamespace(deepcopy=lambda modules: modules)  # fakes have no storage to copy
    monkeypatch.setattr(fast_modernbert, "copy", same)
    narrow = {"local_attention": 8, "num_hidden_layers": 4}
    settings = narrow if save in (modernbert, dense_chain) else {}
    folder = save(tmp_path / "model", **settings)
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True).eval()
    with Indexing(), FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        cuda: Any = OnCuda(on_cuda(model))
        layout = fast.fast_layout(cuda)
        assembler: Any = SimpleNamespace()
        engine = fast.FastEngine(cuda, str(layout), assembler, dtype)
        assert engine.path.endswith("/cuda")
        pool = torch.arange(40, dtype=torch.int32).to(CUDA)
        types = torch.tensor([0, 0, 0, 1, 1]).to(CUDA)
        with Watch() as packing:
            packed = pack(pool, types, SEGMENTS)
        with Watch() as forward:
            logits = engine.forward(packed)
    assert (tuple(logits.shape), logits.dtype, logits.device) == ((4,), torch.float32, CUDA)
    uploads = [name for name, device, _ in packing.seen if device != CUDA]
    assert set(uploads) <= {"lift_fresh", "detach", "alias"}  # numpy's arrays, on their way
    assert {device for _, device, _ in forward.seen} == {CUDA}
    matrices = [kind for name, _, kind in forward.seen if name == "linear"]
    behind = sum(kind == torch.float32 for kind in matrices) if dtype != torch.float32 else 0
    assert behind in (0, 2)  # the head alone is in float32
    kernels = [name for name, _, _ in forward.seen if "attn" in name or "attention" in name]
    expected = "_varlen_attn" if dtype != torch.float32 else "scaled_dot_product"
    assert kernels and all(expected in name for name in kernels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("save", [decoder_classifier, logit_score])
def test_a_decoder_stays_on_the_device_in_its_type(tmp_path: Path, save: Any, dtype: Any) -> None:
    """The stock modules in a padded batch, features on the device as `forward` puts them.

    What fakes cannot show: of real tensors transformers asks once a batch whether any is padding.
    """
    from sentence_transformers import CrossEncoder

    folder = save(tmp_path / "model")
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True).eval()
    model.transformers_model.config.pad_token_id = 0
    cast(model, dtype)
    stock = generic.stock_features(model, [("river", "stone")])
    others = {k: v for k, v in stock.items() if not isinstance(v, torch.Tensor)}
    with Indexing(), FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        on_cuda(model)
        names = ("input_ids", "attention_mask")
        moved = {n: torch.ones((4, 24), dtype=torch.int64, device=CUDA) for n in names}
        with Watch() as seen:
            scores = model(others | moved)["scores"]
    assert tuple(scores.shape) == (4, 1)
    assert (scores.dtype, scores.device) == (dtype, CUDA)
    assert {device for _, device, _ in seen.seen} == {CUDA}
    assert {kind for name, _, kind in seen.seen if name in ("mm", "linear", "bmm")} <= {
        dtype,
        torch.float32,  # the angles of rotary positions
    }
