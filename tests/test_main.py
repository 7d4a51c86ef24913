"""The command line as a program: started anew where memory has to be asked for."""

import os
import subprocess
import sys

import pytest

from dpet_jax import __main__ as program
from dpet_jax.__main__ import command_in_large_pages

OURS = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "DPET_LARGE_PAGES": "1"}


@pytest.fixture
def asked_for(tmp_path):
    """Return the file of a system that gives large pages to those that ask."""
    path = tmp_path / "enabled"
    path.write_text("always [madvise] never\n")
    return path


def test_the_same_command_is_started_with_large_pages(asked_for, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-W", "error", "dpet", "run"])
    command, variables = command_in_large_pages({"HOME": "/h"}, "glibc 2.36", asked_for)
    assert command == [sys.executable, "-W", "error", "dpet", "run"]
    assert variables == {"HOME": "/h"} | OURS


@pytest.mark.parametrize("text", ["[always] madvise never", "always madvise [never]"])
def test_nothing_is_asked_of_a_system_that_gives_them_to_all_or_none(asked_for, text):
    asked_for.write_text(text)
    assert command_in_large_pages({}, "glibc 2.36", asked_for) is None


@pytest.mark.parametrize("libc", ["glibc 2.34", "", "musl 1.2"])
def test_a_c_library_that_does_not_know_it_is_left_alone(asked_for, libc):
    assert command_in_large_pages({}, libc, asked_for) is None


def test_whoever_tunes_the_c_library_is_left_alone(asked_for):
    tuned = {"GLIBC_TUNABLES": "glibc.malloc.check=3"}
    assert command_in_large_pages(tuned, "glibc 2.36", asked_for) is None


def test_a_system_that_says_nothing_is_left_alone(tmp_path):
    assert command_in_large_pages({}, "glibc 2.36", tmp_path / "absent") is None


def test_a_process_that_was_started_anew_is_not_again(asked_for):
    assert command_in_large_pages(OURS, "glibc 2.36", asked_for) is None


def test_programs_started_from_a_command_have_their_own_settings():
    done = subprocess.run(
        [sys.executable, "-m", "dpet_jax", "measure", "--", "env"],
        env={k: v for k, v in os.environ.items() if k not in OURS},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "PATH=" in done.stdout
    assert not any(name in done.stdout for name in OURS)


def test_the_process_itself_is_replaced(asked_for, monkeypatch):
    replaced = []

    def execve(*arguments):
        replaced.append(arguments)
        raise SystemExit  # where the old process ends

    monkeypatch.setattr(program.os, "execve", execve)
    monkeypatch.setattr(program, "_SYSTEM", asked_for)
    monkeypatch.setattr(program, "_libc", lambda: "glibc 2.36")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    with pytest.raises(SystemExit):
        program.main()
    [(path, command, variables)] = replaced
    assert path == command[0] == sys.executable
    assert variables.items() >= OURS.items()
