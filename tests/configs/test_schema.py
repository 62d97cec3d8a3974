"""Configs: every fault in one message, paths beside the config file, nothing evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from configs.load import PRESETS, ConfigFault, load_config, parse_config
from configs.schema import Config
from reranking.errors import ConfigError
from reranking.store import Database
from tests.support.loaded import SMALL, faults, load, small

EXAMPLE = """
database: scifact.lancedb                # folder or s3://bucket/prefix
documents:
  source: {format: beir, path: DATA/scifact}   # beir | jsonl | parquet | csv | lance | ...
  encoder: {model: builtin:all-MiniLM-L6-v2}
queries:
  query_set: scifact-test
  source: {format: beir, path: DATA/scifact, split: test}
search:
  query_types: [vector, fts, hybrid]
  limit: 50                              # per leg, as LanceDB's limit
rerank:
  model_name: builtin:minilm-reranker
  return_score: all                      # relevance | all
judgments:
  judgment_list: scifact-test
  source: {format: beir, path: DATA/scifact, split: test}
"""


# What is accepted -------------------------------------------------------------------------------


def test_the_example_is_accepted_and_its_paths_lie_beside_it(tmp_path: Path) -> None:
    config = load(tmp_path, EXAMPLE)
    data = str(tmp_path / "DATA" / "scifact")
    assert config.database == str(tmp_path / "scifact.lancedb")
    assert config.documents.source is not None
    assert config.queries.source is not None
    assert config.judgments is not None
    assert config.judgments.source is not None
    assert config.documents.source.path == data
    assert config.queries.source.path == data
    assert config.judgments.source.path == data
    assert config.documents.encoder is not None
    assert config.documents.encoder.model == "builtin:all-MiniLM-L6-v2"
    assert config.rerank is not None
    assert config.rerank.return_score == "all"


@pytest.mark.parametrize("preset", sorted(p.name for p in PRESETS.glob("*.yaml")))
def test_each_preset_is_accepted(preset: str) -> None:
    assert load_config(PRESETS / preset).queries.query_set


def test_paths_are_relative_to_the_file_not_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there" / "model").mkdir(parents=True)
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    text = SMALL + "rerank: {model_name: model}\n"
    config = load(tmp_path / "there", text, "documents.source.path=../d.jsonl")
    assert config.documents.source is not None
    assert Path(str(config.documents.source.path)).resolve() == tmp_path / "d.jsonl"
    assert config.rerank is not None
    assert config.rerank.model_name == str(tmp_path / "there" / "model")
    assert load(tmp_path, SMALL, "database=/elsewhere/db").database == "/elsewhere/db"
    assert load(tmp_path, SMALL, "database=~/db").database == str(tmp_path / "home" / "db")


@pytest.mark.parametrize(
    "value", ["s3://bucket/prefix", "gs://bucket/p", "az://c/p", "s3://b/p@1", "abfss://c/p"]
)
def test_uris_stay_as_they_are(value: str, tmp_path: Path) -> None:
    assert load(tmp_path, SMALL, f"database={value}").database == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("db://mine", "LanceDB Cloud and Enterprise .* not supported: a run streams whole tables"),
        ("memory://", "ends with each connection"),
        ("hf://datasets/a/b", "hf:// is no store of LanceDB tables: expected a folder, or a URI"),
    ],
)
@pytest.mark.parametrize("key", ["database", "documents.database", "results.publish"])
def test_stores_that_no_run_could_work_in_are_refused(
    key: str, value: str, words: str, tmp_path: Path
) -> None:
    given = f"{{table: t, database: '{value}'}}" if key == "results.publish" else value
    with pytest.raises(ConfigFault, match=words):
        load(tmp_path, SMALL, f"{key}={given}")
    with pytest.raises(ConfigError, match=words):
        Database(value)


def test_a_hub_id_stays_unless_there_is_a_folder_of_that_name(tmp_path: Path) -> None:
    text = SMALL + "rerank: {model_name: org/model}\n"
    first = load(tmp_path, text).rerank
    (tmp_path / "org" / "model").mkdir(parents=True)
    second = load(tmp_path, text).rerank
    assert first is not None
    assert second is not None
    assert first.model_name == "org/model"
    assert second.model_name == str(tmp_path / "org" / "model")


def test_no_reranking_is_not_the_default_reranking(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL + "rerank: null\n").rerank is None
    assert load(tmp_path, SMALL).rerank is not None


def test_a_config_cannot_be_changed(tmp_path: Path) -> None:
    config = load(tmp_path, SMALL)
    with pytest.raises(ValidationError):
        config.search.limit = 3


def test_a_config_survives_json(tmp_path: Path) -> None:
    config = load(tmp_path, EXAMPLE, "search.where={a: 1, b: [true], c: {lt: 1.5}, d: x}")
    again = Config.model_validate_json(config.model_dump_json())
    assert again == config
    assert [type(v) for v in again.search.where.values()] == [int, list, dict, str]


# Faults -----------------------------------------------------------------------------------------


def test_all_faults_are_in_one_message(tmp_path: Path) -> None:
    text = """
database: db
documents: {source: {format: xml, path: d}, table: ../x, windows: 3}
queries: {query_set: a b, source: {format: jsonl}}
search: {limit: 0, query_types: [vector, vektor], where: {a: [], b: {like: x}, c: null, d: .nan}}
rerank: {devic: cpu, return_score: both}
results: {publish: runs}
judgments: {judgment_list: j, source: {format: beir, path: p}}
execution: {commit_seconds: -1}
extra: 1
"""
    message = faults(tmp_path, text)
    for part in (
        "documents.source.format",
        "documents.table",
        "documents: unknown key in line ",
        "queries.query_set",
        "queries.source: format jsonl needs `path`",
        "search.limit",
        "search.query_types.1",
        "a: an empty list would match nothing",
        "b: operators are eq",
        "c: expected a value",
        "d: nan can be compared with nothing",
        "rerank: unknown key in line 6; did you mean 'device'?",
        "rerank.return_score",
        "results.publish: runs is a name of rescore's own",
        "judgments.source: the judgments of a BEIR folder need a `split`",
        "execution.commit_seconds",
        "config: unknown key in line 10",
    ):
        assert part in message, part
    count = int(message.split(": ")[1].split(" ")[0])
    assert count == len(message.splitlines()) - 1 == 14


def test_unknown_keys_are_faults_in_every_part(tmp_path: Path) -> None:
    config = yaml.safe_load(EXAMPLE)
    places = [p for p in _sections(config) if p]
    assert len(places) >= 8
    for place in places:
        changed = yaml.safe_load(EXAMPLE)
        part = changed
        for name in place:
            part = part[name]
        part["surprise"] = 1
        with pytest.raises(ConfigFault, match=r"surprise: unknown key"):
            parse_config(changed, tmp_path)


def _sections(value: Any, place: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return []
    return [place] + [s for k, v in value.items() for s in _sections(v, (*place, k))]


BAD_NAMES = ["../x", "/abs", "a/b", "a\\b", "..", ".", "", "a" * 129, "x\n", "-x", "ä", "a b", "\0"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_no_name_leaves_the_database(name: str, tmp_path: Path) -> None:
    for key in ("documents__table", "queries__query_set", "results__publish", "queries__source"):
        value: Any = name
        if key == "queries__source":
            value = {"format": "beir", "path": "p", "split": name}
        with pytest.raises(ConfigFault, match="a name has letters"):
            parse_config(small(**{key: value}), tmp_path)
    with pytest.raises(ConfigFault, match="a name has letters"):
        parse_config(small(judgments={"judgment_list": name}), tmp_path)


@pytest.mark.parametrize("name", ["runs", "Runs", "results_x", "pair_scores", "DOCUMENTS"])
def test_our_own_tables_are_not_published_over(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="own"):
        parse_config(small(results__publish=name), tmp_path)
    if name.lower() != "documents":
        with pytest.raises(ConfigFault, match="own"):
            parse_config(small(documents__table=name), tmp_path)


def test_the_documents_table_is_not_published_over(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="must not be the documents table"):
        parse_config(small(documents__table="books", results__publish="Books"), tmp_path)


def test_a_table_that_is_not_managed_is_only_read(tmp_path: Path) -> None:
    foreign = {"table": "products", "managed": False, "id": "sku", "text": "body"}
    assert parse_config(small(documents=foreign), tmp_path).documents.id == "sku"
    # any table may be read, ours too
    parse_config(small(documents=foreign | {"table": "queries"}), tmp_path)
    for key, value in {
        "source": {"format": "jsonl", "path": "d"},
        "vector_index": {"type": "IVF_FLAT"},
    }.items():
        with pytest.raises(ConfigFault, match="never written"):
            parse_config(small(documents=foreign | {key: value}), tmp_path)
    with pytest.raises(ConfigFault, match=r"source\.columns"):
        parse_config(small(documents__id="sku"), tmp_path)


def test_sources_hold_what_is_read_from_them(tmp_path: Path) -> None:
    for part, format in {
        "documents": "trec",
        "queries": "python-docs",
        "judgments": "python-docs",
    }.items():
        source = {"format": format, "path": "p"}
        key = "judgment_list" if part == "judgments" else "query_set"
        section = {"source": source} | ({} if part == "documents" else {key: "x"})
        with pytest.raises(ConfigFault, match=f"format {format} holds no {part}"):
            parse_config(small(**{part: section}), tmp_path)


CREDENTIALS = [
    "s3://user:geheim@bucket/prefix",
    "s3://geheim@bucket",
    "https://x:geheim@host/p",
    "s3://KEY:geheim/RET@bucket",
    "https://user:geheim/x@host",
    "https://user:geh@eim/@host/p",
    " s3://user:geheim@bucket",
    "\ts3://user:geheim@bucket",
    "s3:/user:geheim@bucket",
    "s3:\\\\user:geheim@bucket",
    "s3: //user:geheim@bucket",
    "s3://bucket/p#secret=geheim",
    "s3://bucket/p?aws_secret_access_key=geheim",
]


@pytest.mark.parametrize("uri", CREDENTIALS)
def test_credentials_in_uris_are_refused_and_not_repeated(uri: str, tmp_path: Path) -> None:
    for key in ("database", "documents__source__path", "rerank__model_name"):
        with pytest.raises(ConfigFault, match="must not hold a user") as caught:
            parse_config(small(**{key: uri}), tmp_path)
        assert "geheim" not in str(caught.value)


def test_unknown_storage_options_are_named_not_shown(tmp_path: Path) -> None:
    message = faults(tmp_path, SMALL + "storage_options: {aws_secret_access_key: geheim}\n")
    assert "config: unknown key in line 5" in message
    assert "geheim" not in message


def test_reports_go_to_a_local_folder(tmp_path: Path) -> None:
    config = load(tmp_path, SMALL + "results: {report: reports}\n")
    assert config.results.report == str(tmp_path / "reports")
    message = faults(tmp_path, SMALL + "results: {report: 's3://bucket/reports'}\n")
    assert "results.report: reports are written to a local folder" in message


def test_a_run_is_called_by_its_queries_and_models(tmp_path: Path) -> None:
    models = "rerank: {model_name: org/some-reranker}\n"
    assert load(tmp_path, SMALL + models).title == "q some-reranker"
    assert load(tmp_path, SMALL + "rerank: null\n").title == "q"
