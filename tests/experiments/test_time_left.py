"""Lines on how far a work is: now and then in a file, one that is drawn again on a terminal."""

import io

import pytest
import time_left

pytestmark = pytest.mark.once


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def screen(self) -> list[str]:
        """The lines that a person sees."""
        lines = []
        for line in self.getvalue().split("\n"):
            shown = ""
            for part in line.split("\r"):
                shown = part + shown[len(part) :]
            lines.append(shown.rstrip())
        return lines


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_lines_are_rare_in_a_file_and_gone_from_a_terminal(monkeypatch, stream):
    clock, out = [0.0], stream()
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("sys.stdout", out)
    for i in time_left.shown(range(30), 30, "part"):
        clock[0] += 4.0
        if i == 20:
            time_left.say_result("a result")
    if stream is Terminal:
        assert "part 3 of 30, 0:01:48 left" in out.getvalue()
        assert out.screen() == ["a result", ""]
        return
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["part 3 of 30, 0:01:48 left", "part 6 of 30, 0:01:36 left"]
    assert lines.count("a result") == 1 and len(lines) == 10
