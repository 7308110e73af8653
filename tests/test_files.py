"""What takes the place of a file or folder is whole; a failure leaves what was there."""

import pytest

from nepa_keras.files import replacing
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


def test_columns_are_aligned():
    rows = [("name", "count"), ("a long name", "1,234"), ("short",)]
    assert text_table(rows).splitlines() == ["name         count", "a long name  1,234", "short"]


def test_a_mean_has_the_sample_deviation_of_several_values():
    assert mean_and_std([1.0, 2.0]) == "1.5 ± 0.7"
    assert mean_and_std([2.0], sign="+", digits=2) == "+2.00"
    assert mean_and_std([]) == "-"
