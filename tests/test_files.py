"""Files and folders appear whole or not at all, at places where a file may be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from reranking.errors import ConfigError, MissingPrerequisite
from reranking.files import check_out, need_links, whole_file, whole_folder, write_text


def test_a_file_is_written_whole_and_keeps_the_mode_of_the_one_it_replaces(tmp_path: Path) -> None:
    out = tmp_path / "a.txt"
    write_text(out, ["one\n", "zwölf\n"])
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(out.stat().st_mode) == 0o666 & ~mask
    out.chmod(0o640)
    write_text(out, ["two"])
    assert out.read_text("utf-8") == "two" and stat.S_IMODE(out.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    out = write_text(tmp_path / "a.txt", ["old"])
    with pytest.raises(ZeroDivisionError), whole_file(out) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert out.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_through_a_link_the_file_behind_it_is_written(tmp_path: Path) -> None:
    behind = tmp_path / "real.txt"
    (tmp_path / "link").symlink_to(behind)
    for text in ("new", "again"):
        write_text(tmp_path / "link", [text])
        assert (tmp_path / "link").is_symlink() and behind.read_text() == text


def test_a_waiting_link_of_the_temporary_name_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr("secrets.token_hex", lambda _: "known")
    (tmp_path / ".known.partial").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "a.txt", ["x"])
    assert victim.read_text() == "precious" and not (tmp_path / "a.txt").exists()


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "long", "nowhere", "loop", "nul"])
def test_places_where_no_file_may_be_are_refused(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "x"
    if kind == "folder":
        out.mkdir()
    elif kind == "fifo":
        os.mkfifo(out)
    elif kind == "loop":
        out.symlink_to(out)
    else:
        named = {"device": "/dev/null", "long": "n" * 300, "nowhere": "a/b", "nul": "a\0b"}
        out = tmp_path / named[kind]
    with pytest.raises(ConfigError) as raised:
        check_out(out)
    assert len(str(raised.value)) < 500
    with pytest.raises(ConfigError), whole_file(out):
        raise AssertionError
    if kind == "fifo":
        assert stat.S_ISFIFO(out.stat().st_mode)
    if kind == "device":
        assert stat.S_ISCHR(out.stat().st_mode)


def test_a_pipe_without_a_name_and_the_sign_for_stdout_are_refused() -> None:
    reading, writing = os.pipe()
    for out in (Path(f"/proc/self/fd/{writing}"), Path("-")):
        with pytest.raises(ConfigError, match="name (a file|one)$"):
            check_out(out)
    os.close(reading)
    os.close(writing)


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    assert write_text(tmp_path / ("n" * longest), ["x"]).read_text() == "x"


def test_a_folder_replaces_a_folder_whole(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with pytest.raises(ZeroDivisionError), whole_folder(folder) as part:
        (part / "half").touch()
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []  # the half-made parents went as well
    for name in ("one", "two"):
        with whole_folder(folder) as part:
            (part / name).touch()
        assert os.listdir(folder) == [name] and os.listdir(folder.parent) == ["b"]
    with pytest.raises(ZeroDivisionError), whole_folder(folder):
        raise ZeroDivisionError
    assert os.listdir(folder) == ["two"]
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(ConfigError, match="no folder"), whole_folder(tmp_path / name):
            raise AssertionError


def test_a_disk_without_hard_links_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_links(tmp_path / "a" / "db.lancedb")

    def refused(first: Path, second: Path) -> None:
        raise PermissionError(1, "Operation not permitted")  # as vfat and SMB shares answer

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(MissingPrerequisite, match=f"{tmp_path} is on a file system without hard"):
        need_links(tmp_path / "a" / "db.lancedb")
    assert os.listdir(tmp_path) == []
