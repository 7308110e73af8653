"""Replaced files and folders are whole; no pipe is waited for; names take one line."""

import os
import socket

import pytest

from nepa_keras.files import open_regular, printable, replacing
from nepa_keras.tables import mean_and_std, text_table

pytestmark = pytest.mark.once


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("first", "second"):
        (tmp_path / "unfinished-a.txt").write_text("half of an earlier write")
        with replacing(path) as unfinished:
            assert not unfinished.exists()
            unfinished.write_text(text)
        assert path.read_text() == text and names(tmp_path) == ["a.txt"]
    with pytest.raises(OSError, match="no room"), replacing(path) as unfinished:
        unfinished.write_text("third")
        raise OSError("no room")
    assert path.read_text() == "second" and names(tmp_path) == ["a.txt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "best"
    for text in ("first", "second"):
        (tmp_path / "old-best").mkdir()
        with replacing(path) as unfinished:
            unfinished.mkdir()
            (unfinished / text).touch()
        assert names(path) == [text] and names(tmp_path) == ["best"]
    with pytest.raises(KeyboardInterrupt), replacing(path) as unfinished:
        unfinished.mkdir()
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError), replacing(path):
        pass  # nothing was written
    assert names(path) == ["second"] and names(tmp_path) == ["best"]


def test_a_file_takes_the_place_of_no_folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    refusal = pytest.raises(IsADirectoryError, match=r"left as it is; name a file.*pictures")
    with refusal, replacing(tmp_path / "pictures") as unfinished:
        unfinished.write_text("rows")
    assert names(tmp_path) == ["pictures"] and names(tmp_path / "pictures") == ["a.png"]


def test_columns_are_aligned():
    rows = [("name", "count"), ("a long name", "1,234"), ("short",)]
    assert text_table(rows).splitlines() == ["name         count", "a long name  1,234", "short"]


def test_a_mean_has_the_sample_deviation_of_several_values():
    assert mean_and_std([1.0, 2.0]) == "1.5 ± 0.7"
    assert mean_and_std([2.0], sign="+", digits=2) == "+2.00"
    assert mean_and_std([]) == "-"


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder.jpg").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket.jpg"))
    names = [str(file) for file in tmp_path.iterdir()]
    for path in [*names, "/dev/zero", "/dev/random", "/dev/tty", "/dev/stdin/x"]:
        with pytest.raises(OSError):
            open_regular(path)
    listening.close()
    (tmp_path / "file").write_bytes(b"here")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"here"


@pytest.mark.parametrize(
    "name, shown",
    [
        ("plain café 猫.png", "plain café 猫.png"),
        (os.fsdecode(b"caf\xe9.png"), r"caf\xe9.png"),
        ("a\nb\r\tc.png", r"a\nb\r\tc.png"),
        ("\u2028 \x85 \x1b[31m \ud800", r"\u2028 \x85 \x1b[31m \ud800"),
    ],
)
def test_names_are_shown_on_one_line(name, shown):
    assert printable(name) == shown
    assert printable(name).encode("utf-8").splitlines() == [shown.encode()]
