"""The log of a command: what reaches stderr and the file, and what is left behind: nothing."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from flows.commands.log import logged
from reranking.errors import ConfigError

LOG = logging.getLogger("reranking.somewhere")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def said(
    stream: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    *,
    verbose: bool = False,
    quiet: bool = False,
    file: Path | None = None,
) -> list[str]:
    monkeypatch.setattr(sys, "stderr", stream)
    with logged(verbose=verbose, quiet=quiet, file=file):
        LOG.debug("detail")
        LOG.info("stage")
        LOG.warning("warned")
    return stream.getvalue().splitlines()


def test_a_terminal_has_bars_and_a_pipe_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(Terminal(), monkeypatch) == ["warned"]
    assert said(io.StringIO(), monkeypatch) == ["stage", "warned"]


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_verbose_and_quiet(stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(stream(), monkeypatch, verbose=True) == ["detail", "stage", "warned"]
    assert said(stream(), monkeypatch, quiet=True) == ["warned"]
    with pytest.raises(ConfigError, match="either"):
        said(stream(), monkeypatch, verbose=True, quiet=True)


def test_a_file_gets_the_lines_with_times_behind_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "log"
    file.write_text("before\n")
    said(Terminal(), monkeypatch, quiet=True, file=file)
    lines = file.read_text().splitlines()
    assert lines[0] == "before"
    assert [line.split(maxsplit=2)[2] for line in lines[1:]] == ["INFO stage", "WARNING warned"]
    with pytest.raises(ConfigError, match="--log-file"):
        said(Terminal(), monkeypatch, file=tmp_path)


def test_controls_and_secrets_do_not_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with logged(verbose=False, quiet=False, file=tmp_path / "log"):
        LOG.info("query %s at %s", "\x1b[2J", "s3://key:secret@bucket/x")
    for text in (stream.getvalue(), (tmp_path / "log").read_text()):
        assert "\x1b" not in text and "secret" not in text and "bucket" in text


def test_loggers_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger("reranking")
    before = root.level, root.propagate, list(root.handlers)
    said(io.StringIO(), monkeypatch, verbose=True)
    assert (root.level, root.propagate, root.handlers) == before
