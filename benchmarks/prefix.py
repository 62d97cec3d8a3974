"""What it would gain to compute a query's common prefix once for all pairs of a decoder.

    python -m benchmarks.prefix --documents 60 150 300 --rounds 3

Random weights, one core, in CPU time: system prompt, instruction and query (the prefix) are
computed in every pair, or once with their keys and values handed on to the documents. Both logits
are compared. docs/models.md has the figures and why the engine does without.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

VOCABULARY = 1000  # the logits of one position are computed: their number hardly counts
# name: pairs of one query, sizes of the model
LAYOUTS = {
    "small": (16, {"hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 1024}),
    "Qwen3-0.6B, 4 of 28 layers": (
        8,
        {"hidden_size": 1024, "num_hidden_layers": 4, "intermediate_size": 3072},
    ),
}
_HEADS = {"small": (8, 4, 32), "Qwen3-0.6B, 4 of 28 layers": (16, 8, 128)}


def model_of(name: str) -> Qwen3ForCausalLM:
    """A decoder of the layout with random weights."""
    heads, shared, width = _HEADS[name]
    torch.manual_seed(0)
    config = Qwen3Config(
        **LAYOUTS[name][1],
        vocab_size=VOCABULARY,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        head_dim=width,
    )
    model = Qwen3ForCausalLM(config)
    model.eval()
    return model


def each(model: Qwen3ForCausalLM, prefix: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Logits with the prefix in every pair."""
    pairs = torch.cat([prefix.expand(len(documents), -1), documents], 1)
    return model(input_ids=pairs, use_cache=False, logits_to_keep=1).logits[:, 0]


def once(model: Qwen3ForCausalLM, prefix: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Logits with the prefix computed once."""
    known = model(input_ids=prefix, use_cache=True, logits_to_keep=1).past_key_values
    known.batch_repeat_interleave(len(documents))
    return model(input_ids=documents, past_key_values=known, logits_to_keep=1).logits[:, 0]


def seconds(work: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """CPU seconds, and what the work gave."""
    begun = time.process_time()
    result = work()
    return time.process_time() - begun, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", type=int, default=80)
    parser.add_argument("--documents", type=int, nargs="+", default=[60, 150, 300])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"prefix of {args.prefix} tokens, torch {torch.__version__}, one core, {args.rounds} rounds"
    )
    for name, (pairs, _) in LAYOUTS.items():
        model = model_of(name)
        for length in args.documents:
            prefix = torch.randint(VOCABULARY, (1, args.prefix))
            documents = torch.randint(VOCABULARY, (pairs, length))
            gains, gap = [], 0.0
            with torch.inference_mode():
                once(model, prefix, documents)  # the first call of a shape costs more
                for _ in range(args.rounds):
                    plain, expected = seconds(lambda: each(model, prefix, documents))  # noqa: B023
                    shared, found = seconds(lambda: once(model, prefix, documents))  # noqa: B023
                    gains.append(plain / shared)
                    gap = max(gap, float((found - expected).abs().max()))
            times = f"{median(gains):.2f} ({min(gains):.2f} to {max(gains):.2f}) times as fast"
            print(f"{name}: {pairs} documents of {length} tokens: {times}, logits within {gap:.0e}")


if __name__ == "__main__":
    main()
