"""What the command line takes, before anything is done."""

from pathlib import Path

import pytest

from dpet_jax.arguments import build_parser

NAMES = (*("run", "compare", "report", "energy", "predict", "show", "list", "doctor"),)


def command_called(name):
    def command(options, rest, console):
        raise AssertionError((name, options, rest, console))

    return command


COMMANDS = {name: command_called(name) for name in NAMES}


@pytest.fixture(scope="module")
def parser():
    return build_parser(COMMANDS)


def parsed(parser, text):
    return parser.parse_known_args(text.split())


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("run a.yaml", "run"),
        ("compare a.yaml", "compare"),
        ("report a b", "report"),
        ("energy a", "energy"),
        ("predict a --data=b", "predict"),
        ("show", "show"),
        ("list", "list"),
        ("doctor", "doctor"),
    ],
)
def test_each_command_is_carried_out_by_its_own(parser, text, command):
    options, rest = parsed(parser, text)
    assert options.command is COMMANDS[command]
    assert rest == []


@pytest.mark.parametrize("text", ["run a.yaml", "compare a.yaml", "show a.yaml"])
def test_keys_of_a_config_are_left_over(parser, text):
    options, rest = parsed(parser, f"{text} --train.batch_size=3 --seed=4")
    assert options.takes_overrides
    assert rest == ["--train.batch_size=3", "--seed=4"]


def test_no_option_is_guessed_from_its_beginning(parser):
    options, rest = parsed(parser, "compare a.yaml --dry --min=3")
    assert not options.dry_run
    assert options.minutes is None
    assert rest == ["--dry", "--min=3"]


def test_runs_go_to_runs_unless_told(parser):
    assert parsed(parser, "compare a.yaml")[0].out == Path("runs")
    assert parsed(parser, "run a.yaml --out=b")[0].out == Path("b")
    assert parsed(parser, "report a")[0].out is None


@pytest.mark.parametrize("text", ["report a --by=joules", "compare a --by=kwh", ""])
def test_what_there_is_not_is_refused(parser, text, capsys):
    with pytest.raises(SystemExit):
        parsed(parser, text)
    assert "usage" in capsys.readouterr().err
