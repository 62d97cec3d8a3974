"""Let no one in: no pickle, no evaluated text, no SQL from strings, no code from model folders."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from configs.documents import Encoder
from configs.load import load_config
from configs.schema import Rerank
from reranking.errors import ConfigError, MissingPrerequisite
from reranking.models.files import read_model_files
from reranking.models.resolve import resolve_model
from reranking.runs.listing import find_run
from reranking.scoring.crossencoder import find_cross_encoder
from reranking.scoring.load import load_stock
from tests.conftest import REPOSITORY
from tests.support import tiny
from tests.support.sources import source
from tests.support.walk import database_of, walk

PACKAGES = ("flows", "tasks", "reranking", "configs", "benchmarks")
FILES = [p for name in PACKAGES for p in sorted((REPOSITORY / name).rglob("*.py"))]
PICKLERS = {"pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib", "jsonpickle"}
EVALUATORS = {"eval", "exec", "compile", "__import__"}
UNSAFE = {
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("torch", "load"),
    ("torch", "save"),
    ("os", "system"),
    ("os", "popen"),
}
CONDITIONS = {"where", "delete", "filter", "count_rows", "merge", "when_matched_update_all", "sql"}


def nodes(kind: type[Any], *packages: str) -> Iterator[tuple[str, Any]]:
    """(place, node) of every node of that kind in the packages."""
    for path in FILES:
        name = path.relative_to(REPOSITORY)
        if not packages or name.parts[0] in packages:
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, kind):
                    yield f"{name}:{getattr(node, 'lineno', 0)}", node


def dotted(node: ast.expr) -> tuple[str, ...]:
    """("a", "b") of the expression a.b; what stands before a call is left out."""
    if isinstance(node, ast.Attribute):
        return (*dotted(node.value), node.attr)
    return (node.id,) if isinstance(node, ast.Name) else ()


def is_built(node: ast.AST) -> bool:
    """Whether the expression puts a text together: f-string, format, %, +, join.

    A column's name, as in polars' `col(f"...")`, is no condition and not looked at.
    """
    columns = [
        c for c in ast.walk(node) if isinstance(c, ast.Call) and dotted(c.func) == ("pl", "col")
    ]
    names = {id(n) for c in columns for a in c.args for n in ast.walk(a)}
    for inner in (n for n in ast.walk(node) if id(n) not in names):
        if isinstance(inner, ast.JoinedStr):
            return True
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
            constant = isinstance(inner.func.value, ast.Constant)  # frames have a join too
            if inner.func.attr == "format" or (inner.func.attr == "join" and constant):
                return True
        if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Mod | ast.Add):
            texts = (inner.left, inner.right)
            if any(isinstance(t, ast.Constant) and isinstance(t.value, str) for t in texts):
                return True
    return False


# The code ---------------------------------------------------------------------------------------


def test_nothing_is_pickled() -> None:
    for place, node in nodes(ast.Import):
        assert not {a.name.partition(".")[0] for a in node.names} & PICKLERS, place
    for place, node in nodes(ast.ImportFrom):
        assert (node.module or "").partition(".")[0] not in PICKLERS, place
    for place, node in nodes(ast.keyword):
        if node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False", place
        if node.arg in ("result_serializer", "serializer"):
            assert ast.unparse(node.value) == "'json'", place


def test_nothing_is_evaluated() -> None:
    for place, node in nodes(ast.Call):
        name = dotted(node.func)
        assert not (len(name) == 1 and name[0] in EVALUATORS), place
        assert name[-2:] not in UNSAFE, place
        for keyword in node.keywords:
            if keyword.arg == "shell":
                assert ast.unparse(keyword.value) == "False", place


def test_no_condition_is_built_from_texts() -> None:
    seen = 0
    for place, node in nodes(ast.Call, "reranking", "tasks"):
        if dotted(node.func)[-1:] and dotted(node.func)[-1] in CONDITIONS:
            seen += 1
            for argument in [*node.args, *(k.value for k in node.keywords)]:
                # the first argument of our own store's methods is the table's name
                assert not is_built(argument) or argument is node.args[0], place
                if dotted(node.func)[-1] in ("where", "filter", "sql"):
                    assert not is_built(argument), place
    assert seen > 10


def test_what_the_condition_check_finds() -> None:
    for built in ("f'a = {x}'", "'a = ' + x", "'a = %s' % x", "'a = {}'.format(x)", "' '.join(x)"):
        assert is_built(ast.parse(f"t.where({built})"))
    assert not is_built(ast.parse("t.where(col('a') == lit(x))"))


def test_tasks_keep_nothing_in_prefect() -> None:
    """Data stays in Lance: no task's result is cached or stored by Prefect."""
    count = 0
    for place, call in nodes(ast.Call, "tasks", "flows"):
        count += _is_kept_nowhere(place, call)
    assert count >= 2  # the one way in which steps become tasks, and the event


def _is_kept_nowhere(place: str, call: ast.Call) -> bool:
    """Whether the call makes a task, which then is neither cached nor stored."""
    if dotted(call.func)[-1:] != ("task",):
        return False
    options = {k.arg: ast.unparse(k.value) for k in call.keywords}
    assert options.get("cache_policy") == "NO_CACHE", place
    assert options.get("persist_result", "False") == "False", place
    assert "cache_key_fn" not in options, place
    return True


def test_prefect_would_store_json() -> None:
    script = (
        "from flows.commands.console import calm_libraries; calm_libraries();"
        "from prefect.settings import get_current_settings as s;"
        "r = s().results; print(r.default_serializer, r.persist_by_default)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_RESULTS")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["json", "False"]


def test_code_of_models_is_never_run_by_default() -> None:
    for kind in (Encoder, Rerank):
        assert kind.model_fields["trust_remote_code"].default is False
    assert Rerank(model_name="m").trust_remote_code is False
    assert Encoder(model="m").trust_remote_code is False
    for place, node in nodes(ast.keyword):
        if node.arg == "trust_remote_code" and isinstance(node.value, ast.Constant):
            assert node.value.value is False, place


# Model folders ----------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path, cross_encoder: Path) -> Path:
    """A copy of the tiny cross-encoder that a test may spoil."""
    return shutil.copytree(cross_encoder, tmp_path / "model")


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pkl"])
def test_weights_that_may_run_code_are_refused(name: str, model: Path) -> None:
    (model / "model.safetensors").rename(model / name)
    with pytest.raises(MissingPrerequisite, match=r"no model\.safetensors; it holds") as caught:
        resolve_model(str(model))
    assert "safe_serialization" in str(caught.value)
    assert name in str(caught.value)


def evil(model: Path) -> Path:
    """Make the model a folder that brings code of its own; what the code would create if run."""
    trace = model / "was_run"
    code = f"open({str(trace)!r}, 'w').close()\n"
    classes = "class Config: pass\nclass Model: pass\n"
    (model / "own.py").write_text(code + classes)
    change(
        model / "config.json",
        model_type="own-type",
        auto_map={
            "AutoConfig": "own.Config",
            "AutoModelForSequenceClassification": "own.Model",
        },
    )
    return trace


def test_a_model_with_code_of_its_own_is_refused(model: Path) -> None:
    trace = evil(model)
    with pytest.raises(ConfigError, match="brings code of its own") as caught:
        find_cross_encoder(Rerank(model_name=str(model)))
    assert "trust_remote_code: true" in str(caught.value)
    assert find_cross_encoder(Rerank(model_name=str(model), trust_remote_code=True))
    with pytest.raises(MissingPrerequisite, match="trust_remote_code"):
        load_stock(read_model_files(model), "cpu", 48, trust_remote_code=False)
    assert not trace.exists()


def test_a_module_of_its_own_is_refused(model: Path) -> None:
    modules = [{"idx": 0, "name": "0", "path": "", "type": "own.Module"}]
    (model / "modules.json").write_text(json.dumps(modules))
    (model / "own.py").write_text("raise SystemExit('was run')\n")
    with pytest.raises(ConfigError, match=r"brings code of its own \(own\.Module\)"):
        resolve_model(str(model))
    assert resolve_model(str(model), trust_remote_code=True).path == model


def test_a_known_model_type_is_loaded_by_transformers_own_code(model: Path) -> None:
    (model / "own.py").write_text("raise SystemExit('was run')\n")
    change(model / "config.json", auto_map={"AutoConfig": "own.Config"})
    assert find_cross_encoder(Rerank(model_name=str(model)))
    load_stock(read_model_files(model), "cpu", 48, trust_remote_code=False)


def test_code_changes_the_fingerprint(model: Path) -> None:
    evil(model)
    settings = Rerank(model_name=str(model), trust_remote_code=True)
    first = find_cross_encoder(settings).fingerprint
    (model / "own.py").write_text("class Config: pass\n")
    assert find_cross_encoder(settings).fingerprint != first


def test_a_run_records_that_code_was_trusted(tmp_path: Path, cross_encoder: Path) -> None:
    tiny.write_jsonl(tmp_path / "documents.jsonl", tiny.documents(5))
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(["river"]))
    recorded = {}
    for trusted in (False, True):
        path = tiny.write_config(
            tmp_path,
            cross_encoder,
            rerank__trust_remote_code=trusted,
            database=f"{trusted}.lancedb",
        )
        run, _ = walk(load_config(path))
        row = find_run(database_of(run), run.run_id).stored
        recorded[trusted] = json.loads(row["config_json"])["rerank"]["trust_remote_code"]
    assert recorded == {False: False, True: True}


# Paths ------------------------------------------------------------------------------------------


def test_a_run_writes_nothing_outside_its_database(tmp_path: Path, cross_encoder: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    tiny.write_jsonl(work / "documents.jsonl", tiny.documents(8))
    tiny.write_jsonl(work / "queries.jsonl", tiny.queries(["river"]))
    path = tiny.write_config(work, cross_encoder, results={"publish": "shop"})
    before = {p for p in tmp_path.rglob("*")}
    walk(load_config(path))
    made = {p for p in tmp_path.rglob("*")} - before
    assert made
    assert all(p.is_relative_to(work / "db.lancedb") for p in made)


def test_a_split_cannot_leave_its_folder(tmp_path: Path) -> None:
    from reranking.sources.open import read_judgments

    (tmp_path / "secret.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    (tmp_path / "beir" / "qrels").mkdir(parents=True)
    for split in ("../../secret", "/etc/passwd", "..", "."):
        with pytest.raises(ValidationError, match="split"):
            list(read_judgments(source("beir", str(tmp_path / "beir"), split)))
