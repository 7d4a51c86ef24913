"""Plain lines in a log; a bar only on a terminal."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from dpet_jax.run import progress
from dpet_jax.run.progress import Display


@pytest.fixture
def time(monkeypatch):
    """A clock in place of the module's, to be set by hand."""
    time = SimpleNamespace(now=50.0)
    time.monotonic = lambda: time.now
    monkeypatch.setattr(progress, "time", time)
    return time


def plain(width=40):
    return Display(Console(file=io.StringIO(), width=width))


def shown(display):
    return display.console.file.getvalue()


def test_line_is_written_as_it_is_however_narrow_the_console(time):
    del time
    display = plain(width=10)
    display.line("[bold]not markup[/] 0.5 and much longer than ten columns :+1:")
    text = shown(display)
    assert text == "[bold]not markup[/] 0.5 and much longer than ten columns :+1:\n"


def test_log_holds_no_bar(time):
    del time
    display = plain()
    display.begin_plan("round 1", 100, 0)
    display.advance(50, 0.3, 0.9)
    display.end_plan()
    assert shown(display) == ""


def test_evaluation_inside_a_plan_is_quiet_for_ten_seconds_after_a_line(time):
    display = plain()
    display.line("begins")
    for second in (1, 9, 9.9):
        time.now = 50 + second
        display.evaluation(f"at {second}", last=False)
    assert shown(display) == "begins\n"
    time.now = 60
    display.evaluation("at 10", last=False)
    time.now = 69
    display.evaluation("at 19", last=False)
    assert shown(display) == "begins\nat 10\n"


def test_evaluation_at_the_end_of_a_plan_is_always_shown(time):
    del time
    display = plain()
    display.evaluation("first", last=True)
    display.evaluation("second", last=True)
    assert shown(display) == "first\nsecond\n"


def test_progress_outside_a_plan_is_ignored(time):
    del time
    display = plain()
    display.advance(1, 0.1, 0.1)
    display.end_plan()
    display.end_plan()
    assert shown(display) == ""


def test_terminal_shows_the_plan_and_how_its_last_chunk_went():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    display = Display(console)
    display.begin_plan("round 3", 100, 20)
    display.advance(60, 0.25, 0.875)
    display._bar.refresh()
    display.end_plan()
    text = shown(display)
    assert "round 3" in text
    assert "loss 0.250  accuracy 0.875" in text


def test_terminal_takes_the_bar_of_a_finished_plan_away():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    display = Display(console)
    display.begin_plan("warm-up", 10, 0)
    display.end_plan()
    written = len(shown(display))
    display.begin_plan("round 1", 10, 0)
    display._bar.refresh()
    display.end_plan()
    assert "round 1" in shown(display)[written:]
    assert "warm-up" not in shown(display)[written:]
