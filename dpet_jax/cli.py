"""The command line: run, plan, compare, report, energy, predict, export and more."""

import argparse
import json
import math
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dpet_jax.errors import UserError, system_failure
from dpet_jax.report.printed import fitted
from dpet_jax.run.costs import By
from dpet_jax.run.interrupt import EXIT_RESUMABLE
from dpet_jax.section import check_path

# commands import what they need when they are carried out, so that each starts at once

EXIT_MISTAKE = 2
EXIT_DIVERGED = 1
EXIT_FAILED = 1

#: Ways to search for settings; their module takes a while to import.
SEARCHES = (
    *("tpe", "random", "grid", "gp", "hyperband", "halving"),
    *("energy_aware", "study", "study_random", "study_grid"),
)

_CONFIG = "a YAML file or the name of a packaged config"

#: Options, what else stood on the line, and where to print; returns the exit code.
Command: TypeAlias = Callable[[Any, list[str], Console], int]

_DESCRIPTION = """\
Train image classifiers on the fewest joules: choose the data, measure the cost.

  dpet run                                a first run, under 90 seconds
  dpet run mine.yaml --method.kind=rs2    any key can be overridden
  dpet show mine.yaml                     every key there is
  dpet fit photos/ --minutes=10           a classifier of your pictures
  dpet init --data=photos/ --suite        a comparison on them that ends in time
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 if training diverged, or the system failed, as on a full disk; 2 for a
        user's mistake; 75 if a signal interrupted a run that can be resumed.
    """
    parser = build_parser()
    asked = sys.argv[1:] if arguments is None else arguments
    given, spaced = _apart(asked, _own_options(parser))
    options, rest = parser.parse_known_args(given)
    rest += spaced
    # kinds of the user's own lie where the command is given, as for `python -m`
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    console = _Terminal()
    try:
        if rest and not getattr(options, "takes_overrides", False):
            raise UserError(f"command line: unknown argument {rest[0]!r}; see --help")
        return options.command(options, rest, console)
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_MISTAKE
    except BrokenPipeError:
        # whoever read our output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _failed(error, getattr(options, "out", None) or Path.cwd())


def _own_options(parser: argparse.ArgumentParser) -> set[str]:
    """Return the names of the options that commands have of their own."""
    commands = next(
        action.choices or {}
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return {name for sub in commands.values() for name in sub._option_string_actions}


def _apart(arguments: Sequence[str], known: set[str]) -> tuple[list[str], list[str]]:
    """Take out overrides that hold a blank, such as --method='{kind: rs2, passes: 9}'.

    Argparse would take them for positional arguments.

    Args:
        arguments: Of the command line; what follows `--` is another program's.
        known: Names of options, which argparse knows with a blank too.

    Returns:
        The other arguments, and those.
    """
    held = [*arguments]
    end = held.index("--") if "--" in held else len(held)

    def taken(text: str) -> bool:
        name, equals, _ = text.partition("=")
        named = name.startswith("--") and " " not in name and bool(equals)
        return " " in text and named and name not in known

    apart = [text for text in held[:end] if taken(text)]
    return [*(t for t in held[:end] if not taken(t)), *held[end:]], apart


class _Terminal(Console):
    """Where commands print: on a terminal lines are wrapped at words."""

    def out(self, *objects: Any, sep: str = " ", end: str = "\n", **style: Any) -> None:
        """Print without markup; see `Console.out`."""
        text = sep.join(map(str, objects))
        # a file or a pipe gets whole lines
        text = fitted(text, self.width) if self.is_terminal else text
        super().out(text, end=end, **style)


def _failed(error: OSError, folder: Path, again: str = "") -> int:
    """Show what the system refused; return the exit code."""
    text = system_failure(error, folder)
    print(f"{text}: {again}" if again else text, file=sys.stderr)  # noqa: T201
    return EXIT_FAILED


def _path(text: str) -> Path:
    """Read a path of the command line."""
    try:
        return check_path(Path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class _Version(argparse.Action):
    """Print the version, which is looked up only when it is asked for."""

    def __call__(self, parser: Any, *_: Any, **__: Any) -> None:
        """Print and exit."""
        import dpet_jax

        print(f"dpet {dpet_jax.__version__}")  # noqa: T201
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; parsed options hold their function as `command`."""
    parser = argparse.ArgumentParser(
        prog="dpet",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print it and exit")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, text: str, **defaults: Any) -> Any:
        sub = subparsers.add_parser(
            name,
            help=text,
            description=text,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=defaults.pop("epilog", None),
        )
        sub.set_defaults(command=COMMANDS[name], **defaults)
        return sub

    run = add(
        "run",
        "Run one experiment; its folder is DIR/<name>/seed<k>/ and is printed last.",
        takes_overrides=True,
        epilog="Any key of the config can be given as --section.key=value, such as\n"
        "--train.batch_size=256 or --method.kind=rs2; `dpet show` prints them all.",
    )
    run.add_argument(
        "config",
        type=_path,
        nargs="?",
        help=f"{_CONFIG}; without it DPET on the digits, the quickstart",
    )
    run.add_argument("--out", type=_path, default=Path("runs"), metavar="DIR")
    run.add_argument(
        "--resume", action="store_true", help="go on from the latest checkpoint"
    )
    run.add_argument(
        "--overwrite", action="store_true", help="replace the run in the folder"
    )
    run.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="share the run with other processes, started alike, that meet at process "
        "0; auto takes what SLURM, Kubernetes, MPI or a Cloud TPU says",
    )
    run.add_argument(
        "--processes", type=int, metavar="N", help="how many share the run"
    )
    run.add_argument(
        "--process", type=int, metavar="I", help="number of this one, from 0"
    )

    _add_init(
        add(
            "init",
            "Write a config or a suite for your data that ends in a stated time here.",
            epilog="It looks at the data and measures this machine, which takes a "
            "minute or two. Or it\ncopies what comes with the package: dpet init "
            "--from digits, or quickstart, cifar10_pays, ...",
        )
    )
    _add_fit(
        add(
            "fit",
            "Train a classifier on pictures within a budget; start it again to go on.",
            epilog="DATA is a folder of class folders, of parquet files or of MNIST's "
            "idx files, an .npz file,\nor CIFAR as it is published. Without DATA it is "
            "scikit-learn's digits, for 25 seconds.",
        )
    )
    _add_plan(
        add(
            "plan",
            "Choose the network of a config's family that a budget buys on this "
            "machine.",
            takes_overrides=True,
            epilog="Any key of the config can be given as --section.key=value. What a "
            "step takes is\nmeasured, once a machine; that and compiling count.",
        )
    )

    layers = add(
        "layers",
        "Time each layer of a config's network, alone and as a part of the training "
        "step; joules where they are measured.",
        takes_overrides=True,
        epilog="Any key of the config can be given as --section.key=value.",
    )
    layers.add_argument("config", type=_path, help=_CONFIG)
    layers.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="length of a timing; by default 2 where energy is measured, else 0.2",
    )
    layers.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="timings of each program"
    )
    layers.add_argument(
        "--out", type=_path, metavar="DIR", help="by default layers/NAME"
    )

    compare = add(
        "compare",
        "Run what a suite lacks, and write its report; start it again to go on.",
        takes_overrides=True,
        epilog="Any key of the configs can be given as --section.key=value, such as\n"
        "--data.path=DIR; it holds for every run.",
    )
    compare.add_argument(
        "suite", type=_path, help="a YAML file or the name of a packaged suite"
    )
    compare.add_argument("--out", type=_path, default=Path("runs"), metavar="DIR")
    compare.add_argument("--seeds", metavar="A,B,...", help="instead of the suite's")
    compare.add_argument(
        "--by", choices=get_args(By), help="the unit of costs in the report"
    )
    compare.add_argument(
        "--minutes", type=float, help="stop after so long; start again to go on"
    )
    compare.add_argument(
        "--dry-run",
        action="store_true",
        help="list the runs and the epochs that they will cost, and run nothing",
    )
    compare.add_argument(
        "--measure",
        action="store_true",
        help="with --dry-run: train for some seconds to say how long that takes",
    )
    compare.add_argument(
        "--only",
        metavar="A,B,...",
        help="run these variants of the suite alone, or rows of a grid",
    )
    compare.add_argument(
        "--on",
        metavar="ray[://HOST:PORT]",
        help="run as tasks of Ray, several at once: on this machine, or on the cluster "
        "that it is part of; all nodes must see --out",
    )
    compare.add_argument(
        "--cpus-per-run",
        type=float,
        metavar="N",
        help="with --on or --print-slurm: cores of a run; 1 with --on by default",
    )
    compare.add_argument(
        "--gpus-per-run",
        type=float,
        metavar="N",
        help="with --on or --print-slurm: GPUs of a run; with --on by default 1 where "
        "there are any; below 1 runs share one, and their energy is not valid",
    )
    compare.add_argument(
        "--print-slurm",
        action="store_true",
        help="print an array job for SLURM, a task for each missing run; run nothing",
    )
    compare.add_argument(
        "--time", metavar="HH:MM:SS", help="with --print-slurm: of a task"
    )
    compare.add_argument(
        "--job",
        metavar="RUN",
        help="run this run alone, as a task of an array job does, and write no report",
    )

    practices = add(
        "practices",
        "Which practices save energy: searches, layers, network sizes and single "
        "practices, on one page; start it again to go on.",
        takes_overrides=True,
        epilog="Without a file it is the study practices_small. Any key of the study "
        "can be given,\nsuch as --data.fashion=DIR.",
    )
    practices.add_argument("study", type=_path, nargs="?", help="a YAML file")
    practices.add_argument("--out", type=_path, default=Path("runs"), metavar="DIR")
    practices.add_argument(
        "--only", metavar="A,B,...", help="of hpo, layers, complexity and practices"
    )
    practices.add_argument(
        "--by", choices=get_args(By), help="the unit of costs in the report"
    )
    practices.add_argument(
        "--minutes", type=float, help="stop after so long; start again to go on"
    )

    _add_tune(
        add(
            "tune",
            "Search for settings of a config by validation accuracy; start it again to "
            "go on.",
            takes_overrides=True,
            epilog="  dpet tune CONFIG --vary train.optimizer.learning_rate='0.01..1 "
            "log' \\\n"
            "    --vary train.batch_size=32,64,128 --trials=20\n\n"
            "Any key of the config can be given as --section.key=value for all trials. "
            "Each trial\nis a run of its own. Any number of processes may work on one "
            "folder at once.",
        )
    )

    report = add(
        "report",
        "Write page, tables and plots about the runs in some folders.",
    )
    report.add_argument(
        "runs", type=_path, nargs="+", help="folders of suites or runs, or above such"
    )
    report.add_argument("--by", choices=get_args(By), help="the unit of costs")
    report.add_argument(
        "--paper",
        action="store_true",
        help="also write tables and plots for one column of a paper, to DIR/paper",
    )
    report.add_argument(
        "--out", type=_path, metavar="DIR", help="by default the first of the folders"
    )

    runs = add("runs", "List the runs in some folders, sorted by folder.")
    runs.add_argument(
        "folders", type=_path, nargs="*", metavar="FOLDER", help="by default runs"
    )
    runs.add_argument(
        "--json",
        action="store_true",
        help="print a JSON list instead, nothing rounded or cut",
    )

    diff = add("diff", "Show in what two runs differ: config, results, data, versions.")
    diff.add_argument("one", type=_path, metavar="RUN", help="a run folder")
    diff.add_argument("other", type=_path, metavar="RUN", help="another")

    suspects = add(
        "suspects",
        "List likely label errors and duplicates, by what training gave away.",
        epilog="Nothing is trained for it. The data are read again, and the model "
        "looks at the listed\nexamples alone, to say what it takes them for.",
    )
    suspects.add_argument("run", type=_path, help="the folder of a finished run")
    suspects.add_argument(
        "--share",
        type=float,
        default=0.1,
        metavar="X",
        help="of the training examples, to list; by default 0.1",
    )
    suspects.add_argument(
        "--near",
        type=float,
        nargs="?",
        const=0.99,
        metavar="COSINE",
        help="look for near duplicates as well, of at least this likeness; by default "
        "0.99",
    )
    suspects.add_argument(
        "--out", type=_path, metavar="DIR", help="by default RUN/suspects"
    )

    energy = add(
        "energy",
        "Show what a run cost, also one that was killed or still goes on.",
    )
    energy.add_argument("run", type=_path, help="a run folder")
    energy.add_argument(
        "--json", type=_path, metavar="FILE", help="write the whole report here"
    )
    energy.add_argument(
        "--csv", type=_path, metavar="FILE", help="append one row to this table"
    )
    energy.add_argument(
        "--boamps", type=_path, metavar="FILE", help="write a BoAmps report here"
    )

    measure = add(
        "measure",
        "Run any program, and measure its seconds and its energy.",
        epilog="  dpet measure --out=energy.json -- python train.py --lr=0.1\n\n"
        "The program has the terminal, and its exit code is that of the command; what "
        "was\nmeasured is printed to standard error.",
    )
    measure.add_argument(
        "--out", type=_path, metavar="FILE", help="write the energy report here"
    )
    measure.add_argument(
        "--prometheus",
        metavar="[HOST:]PORT",
        help="serve joules by source meanwhile, at this machine alone without a HOST",
    )
    measure.add_argument(
        "program", nargs=argparse.REMAINDER, help="after --, with its arguments"
    )

    predict = add("predict", "Classify new images with the model of a finished run.")
    predict.add_argument(
        "run", type=_path, help="a run folder, or a file that dpet export has written"
    )
    predict.add_argument(
        "--data",
        type=_path,
        required=True,
        help="an .npz with images, and labels if known, or a folder of "
        "images, whose class sub-folders, if any, are the labels; of idx files, those "
        "of the test split",
    )
    predict.add_argument(
        "--csv", type=_path, help="write the table here instead of printing it"
    )

    exporting = add("export", "Write the model of a finished run into one file.")
    exporting.add_argument("run", type=_path, help="a run folder")
    form = exporting.add_mutually_exclusive_group(required=True)
    for name, what in (
        ("int8", "kernels as whole numbers, a scale for each output channel"),
        ("bf16", "parameters as bfloat16"),
        ("f32", "as they were trained"),
    ):
        form.add_argument(
            f"--{name}", dest="form", action="store_const", const=name, help=what
        )
    exporting.add_argument(
        "--out", type=_path, required=True, help="the .safetensors file"
    )
    exporting.add_argument("--licence", help="under which it may be used")

    _add_pool(add("pool", "Keep pre-trained networks, and rank them for a data set."))

    show = add(
        "show",
        "Print the resolved config, what a suite would run, or a JSON schema.",
        takes_overrides=True,
    )
    show.add_argument(
        "config",
        type=_path,
        nargs="?",
        help="a YAML file or a packaged name: a config or a suite",
    )
    show.add_argument(
        "--schema",
        nargs="?",
        const="config",
        choices=("config", "suite"),
        help="print the JSON schema of configs, or of suites, instead",
    )

    completion = add("completion", "Print what makes a shell complete dpet.")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    add("list", "List methods, scores, models, sources and other choices.")
    add("doctor", "Show devices, versions, caches and what can be measured.")

    return parser


def _add_tune(parser: Any) -> None:
    """Add what `dpet tune` takes."""
    parser.add_argument("config", type=_path, help=_CONFIG)
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=VALUES",
        help="A,B,C or LOW..HIGH or 'LOW..HIGH log'; once for each key",
    )
    parser.add_argument(
        "--search",
        default="tpe",
        metavar="NAME",
        help=f"how the next trial is chosen: {', '.join(SEARCHES)}, or keys, such as "
        "'{kind: hyperband, eta: 4}'; tpe by default",
    )
    parser.add_argument(
        "--compare",
        metavar="A,B,...",
        help="run several such searches instead, each with the same limits, and say "
        "which found most for its cost",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="of each with --compare; 3 by default"
    )
    parser.add_argument("--trials", type=int, help="to finish, by all processes")
    parser.add_argument(
        "--epochs", type=float, help="full-pass equivalents to spend, likewise"
    )
    parser.add_argument("--wh", type=float, help="Wh to spend, likewise")
    parser.add_argument(
        "--minutes", type=float, help="stop after so long; start again to go on"
    )
    parser.add_argument("--search-seed", type=int, default=0, help="of the choice")
    parser.add_argument("--out", type=_path, metavar="DIR", help="by default tune/NAME")


def _add_init(parser: Any) -> None:
    """Add what `dpet init` takes."""
    parser.add_argument(
        "--data",
        type=_path,
        metavar="PATH",
        help="pictures, as dpet fit takes them; by default scikit-learn's digits",
    )
    parser.add_argument(
        "--suite",
        action="store_true",
        help="compare DPET with standard training and a random control",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="X",
        help="that it may take here; 10, or 30 for a suite",
    )
    parser.add_argument(
        "--out", type=_path, metavar="FILE", help="by default <name of the data>.yaml"
    )
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="side to bring pictures to"
    )
    parser.add_argument(
        "--from", dest="source", metavar="NAME", help="copy a packaged config or suite"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files that are there"
    )


def _add_fit(parser: Any) -> None:
    """Add what `dpet fit` takes."""
    parser.add_argument("data", type=_path, nargs="?", metavar="DATA")
    budget = parser.add_mutually_exclusive_group()
    for name, what in (
        ("minutes", "of everything: looking, measuring, compiling, training, judging"),
        ("seconds", "likewise"),
        ("wh", "gross energy of everything"),
        ("target", "accuracy to reach at the least cost"),
    ):
        budget.add_argument(f"--{name}", type=float, metavar="X", help=what)
    parser.add_argument(
        "--out", type=_path, metavar="DIR", help="by default fits/<name of the data>"
    )
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="side to bring pictures to"
    )
    parser.add_argument(
        "--pool",
        type=_path,
        metavar="DIR",
        help="start from one of these networks, if that is expected to save energy",
    )
    parser.add_argument(
        "--cpu-model",
        metavar="YAML",
        help="with --wh, where nothing measures energy: your CPU's watts, as in "
        "'{idle_w: 20, max_w: 65, source: wall meter}'",
    )
    parser.add_argument("--seed", type=int, default=0)


def _add_plan(parser: Any) -> None:
    """Add what `dpet plan` takes."""
    parser.add_argument("config", type=_path, nargs="?", help=_CONFIG)
    budget = parser.add_mutually_exclusive_group()
    for name, what in (
        ("seconds", "of everything: measuring, compiling, training, evaluating"),
        ("wh", "gross energy of everything"),
        ("epochs", "passes over the training split"),
        ("target", "accuracy to reach at the least cost; needs --level"),
    ):
        budget.add_argument(f"--{name}", type=float, metavar="X", help=what)
    parser.add_argument(
        "--batches", metavar="A,B,...", help="sizes to choose from, not the config's"
    )
    parser.add_argument(
        "--anew", action="store_true", help="measure again what is known of the costs"
    )
    parser.add_argument(
        "--level",
        type=_path,
        nargs="+",
        metavar="RUN",
        help="finished runs on the same data, by which accuracy is predicted",
    )
    parser.add_argument(
        "--law", type=_path, metavar="FILE", help="ranks by this law, not that shipped"
    )
    parser.add_argument(
        "--out", type=_path, metavar="FILE", help="write the config, or the law, here"
    )
    parser.add_argument(
        "--calibrate",
        type=_path,
        nargs="+",
        metavar="RUNS",
        help="instead of planning, refit the law to finished runs of one family",
    )


def _add_pool(parser: Any) -> None:
    """Add what `dpet pool` can do."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")

    def add(name: str, text: str, **defaults: Any) -> Any:
        sub = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument(
            "--pool", type=_path, default=Path("pool"), metavar="DIR", help="the folder"
        )
        sub.set_defaults(**defaults)
        return sub

    adding = add("add", "Add the network of a finished run, or weights from elsewhere.")
    adding.add_argument(
        "source",
        help="a run folder; a .safetensors file of a pool, or of a ResNet of basic "
        "blocks in the layout of torchvision and timm; a folder with such a "
        "model.safetensors and its config.json; hf:ID on the Hugging Face hub",
    )
    adding.add_argument("--name", required=True)
    adding.add_argument("--licence", help="under which it may be used")
    of = adding.add_argument_group("of weights from elsewhere")
    of.add_argument("--task", help="what they were trained on")
    of.add_argument("--size", type=int, metavar="PIXELS", help="of a side")
    of.add_argument("--mean", metavar="A,B,C", help="of pixels in [0, 1], by channel")
    of.add_argument("--std", metavar="A,B,C", help="likewise")
    add("list", "List the networks.")
    add("show", "Print all that is known of a network.").add_argument("name")
    ranking = add(
        "rank",
        "Rank the networks for the data of a config; --pool.by=logme and any other "
        "key can be given.",
        takes_overrides=True,
    )
    ranking.add_argument("config", type=_path, help=_CONFIG)
    add("remove", "Take a network out.").add_argument("name")


#: Options of dpet fit, one of which is given, but for the digits.
_BUDGETS = ("minutes", "seconds", "wh", "target")


def _fit_budget(options: Any) -> Any:
    """Return the budget of a fit; that of the digits where neither is given."""
    from dpet_jax.planner.planner import Budget

    names = ("seconds", "wh", "target")
    given = {name: getattr(options, name) for name in names}
    if options.minutes is not None:
        given["seconds"] = 60 * options.minutes
    data = options.data
    if all(value is None for value in given.values()):
        if data is not None:
            raise UserError(
                f"command line: {data}: give a budget, such as: dpet fit {data} "
                "--minutes=10"
            )
        from dpet_jax.run.fitting import DIGITS_S

        given["seconds"] = DIGITS_S
    return Budget(**given)


def _use_cache() -> Path | None:
    """Let programs be kept; see `use_compilation_cache`, which brings JAX in."""
    from dpet_jax.run.machine import use_compilation_cache

    return use_compilation_cache()


def _check_side(side: int | None) -> None:
    """Refuse a side that no picture can be brought to."""
    if side is not None and not 8 <= side <= 2**10:
        raise UserError(f"command line: --image-size: {side} is not from 8 to 1024")


def _init(options: Any, rest: list[str], console: Console) -> int:
    del rest
    if options.source is not None:
        asked = (options.data, options.minutes, options.image_size, options.suite)
        if any(asked):
            raise UserError(
                "command line: --from copies a file as it is; leave --data, --minutes, "
                "--image-size and --suite away"
            )
        from dpet_jax.config.packaged import copied

        files = copied(options.source, options.out)
        command = "compare" if len(files) > 1 else "run"
        return _written(files, f"dpet {command} {next(iter(files))}", options, console)
    _check_side(options.image_size)
    if options.out is not None:
        # before minutes are spent
        _check_free([options.out], options)
    _use_cache()
    from dpet_jax.suite.starting import start

    try:
        found = start(
            options.data,
            options.minutes or (30.0 if options.suite else 10.0),
            options.out,
            suite=options.suite,
            image_size=options.image_size,
            say=lambda line: console.out(line, highlight=False),
            # starting is work of this one thread: other programs do not change it
            started_s=time.process_time(),
        )
    except KeyboardInterrupt:
        console.out("interrupted; nothing is written", highlight=False)
        return EXIT_RESUMABLE
    return _written(found.files, found.command, options, console)


def _written(
    files: dict[Path, str], command: str, options: Any, console: Console
) -> int:
    """Write the files of `dpet init`, and say how to run them."""
    from dpet_jax.files import write_whole

    _check_free([*files], options)
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
        console.out(f"written     {path}", highlight=False)
    console.out(f"run it      {command}", highlight=False)
    return 0


def _check_free(paths: Sequence[Path], options: Any) -> None:
    """Refuse to replace files that are there already, unless that is asked for."""
    there = [path for path in paths if path.exists()]
    if there and not options.overwrite:
        raise UserError(
            f"{there[0]}: is there already; replace it with --overwrite, or choose "
            "another with --out=FILE"
        )


def _fit(options: Any, rest: list[str], console: Console) -> int:
    began = time.monotonic()
    del rest
    budget, data = _fit_budget(options), options.data
    size = options.image_size
    _check_side(size)
    if options.seed < 0:
        raise UserError(f"command line: --seed: {options.seed} is below 0")
    name = "digits" if data is None else data.resolve().stem
    options.out = options.out or Path("fits") / name
    _use_cache()
    from dpet_jax.run.fitting import fit

    try:
        found = fit(
            data,
            budget,
            options.out,
            image_size=size,
            seed=options.seed,
            pool=options.pool,
            console=console,
            began=began,
            measuring_counts=any(getattr(options, name) for name in _BUDGETS),
            cpu_model=_cpu_model(options.cpu_model),
        )
    except KeyboardInterrupt:  # a run itself listens to it
        console.out("interrupted; the same command begins again", highlight=False)
        return EXIT_RESUMABLE
    if found.result.summary is None:
        console.out("interrupted; the same command goes on", highlight=False)
        return EXIT_RESUMABLE
    if not found.answer:
        print(  # noqa: T201
            f"{found.folder}: training diverged (the loss is not finite); give another "
            "--seed and --out",
            file=sys.stderr,
        )
        return EXIT_DIVERGED
    try:
        look = str(_fit_report(found))
    except UserError as error:
        look = f"no report: {error}"
    last = [f"{'look':<12}{look}", f"{'use':<12}{found.commands[0]}"]
    last += [f"{'':<12}{command}" for command in found.commands[1:]]
    for line in (*found.answer, *last):
        console.out(line, highlight=False)
    return 0


def _cpu_model(text: str | None) -> dict[str, Any] | None:
    """Return the keys of a CPU model as they stand on the command line."""
    from dpet_jax.config.load import parse_override
    from dpet_jax.section import shown

    if text is None:
        return None
    _, found = parse_override(f"--cpu-model={text}")
    if not isinstance(found, dict):
        raise UserError(
            f"command line: --cpu-model: {shown(text)} holds no keys; write "
            "'{idle_w: 20, max_w: 65, source: wall meter}' with your watts"
        )
    return found


def _fit_report(found: Any) -> Path:
    from dpet_jax.report.comparison import read_comparison
    from dpet_jax.report.page import write_report

    comparison = read_comparison([found.folder])
    lead = (*found.answer, *found.commands)
    by = comparison.natural_cost()
    return write_report(comparison, by, found.folder, lead)[0]


def _plan(options: Any, overrides: list[str], console: Console) -> int:
    from dpet_jax.planner.planner import Budget

    if options.calibrate is None:
        if options.config is None:
            raise UserError("command line: give a config file, or --calibrate RUNS")
        names = ("seconds", "wh", "epochs", "target")
        budget = Budget(**{name: getattr(options, name) for name in names})
    elif options.config is not None or options.out is None or overrides:
        raise UserError(
            "command line: --calibrate goes with RUNS and --out=FILE alone, which gets "
            "the law"
        )
    from dpet_jax.run.planning import read_law

    law = None if options.law is None else read_law(options.law)
    if options.calibrate is not None:
        from dpet_jax.run.calibration import calibration_lines

        lines = [*calibration_lines(options.calibrate, law, options.out)]
    else:
        lines = _plan_lines(options, overrides, console, budget, law)
    for line in lines:
        console.out(line, highlight=False)
    return 0


def _plan_lines(
    options: Any, overrides: list[str], console: Console, budget: Any, law: Any
) -> list[str]:
    from dpet_jax.config.load import load

    config = load(options.config, overrides)
    _use_cache()
    from dpet_jax.planner.law import shipped
    from dpet_jax.run.build import build_data
    from dpet_jax.run.calibration import level_of
    from dpet_jax.run.planning import (
        check_plannable,
        plan_config,
        plan_lines,
        write_config,
    )
    from dpet_jax.run.profiling import Profiles

    check_plannable(config, budget, leveled=options.level is not None)
    data, level = build_data(config), None
    if options.level is not None:
        known = shipped(config.model.kind) if law is None else law
        level = level_of(options.level, known, data.fingerprint)
    batches = _whole_numbers("--batches", options.batches)
    planned = plan_config(
        config,
        budget,
        law=law,
        level=level,
        batches=batches,
        data=data,
        profiles=Profiles(
            say=lambda line: console.out(line, highlight=False), anew=options.anew
        ),
    )
    lines = [*plan_lines(planned)]
    if options.out is not None:
        write_config(planned, options.out)
        lines.append(
            f"config      {options.out}; train it with: dpet run {options.out}"
        )
    return lines


def _layers(options: Any, overrides: list[str], console: Console) -> int:
    from dpet_jax.config.load import load

    config = load(options.config, overrides)
    seconds, repeats = options.seconds, options.repeats
    if seconds is not None and not 0 < seconds <= 3600:
        raise UserError(f"--seconds: {seconds:g} is no length from 0 to 3600")
    if not 1 <= repeats <= 1000:
        raise UserError(f"--repeats: {repeats} is no number from 1 to 1000")
    _use_cache()
    from dpet_jax.run.layers import (
        answer_lines,
        layer_lines,
        measure_layers,
        write_layers,
    )

    found = measure_layers(
        config,
        seconds=seconds,
        repeats=repeats,
        say=lambda line: console.out(line, highlight=False),
    )
    # the tables first, in case the files cannot be written
    for line in layer_lines(found):
        console.out(line, highlight=False)
    files = write_layers(found, options.out or Path("layers") / config.name)
    for line in ("", f"all numbers  {files[0]}, {files[1]}", *answer_lines(found)):
        console.out(line, highlight=False)
    return 0


def _pool(options: Any, overrides: list[str], console: Console) -> int:
    from dpet_jax.pretrained.pool import ModelPool

    pool = ModelPool(options.pool)
    from dpet_jax.run import pool_commands

    if options.action == "list":
        lines = pool_commands.listing(pool_commands.entries(pool))
    elif options.action == "remove":
        lines = pool_commands.remove(pool, options.name)
    else:
        _use_cache()
        lines = _pool_with_networks(options, overrides, pool)
    for line in lines:
        console.out(line, highlight=False)
    return 0


def _pool_with_networks(options: Any, overrides: list[str], pool: Any) -> list[str]:
    from dpet_jax.run import pool_commands

    if options.action == "show":
        return pool_commands.show(pool, options.name)
    if options.action == "rank":
        from dpet_jax.config.load import load

        return pool_commands.rank(load(options.config, overrides), pool)
    from dpet_jax.pretrained.external import Told

    told = Told(
        options.task,
        options.licence,
        options.size,
        _numbers("--mean", options.mean),
        _numbers("--std", options.std),
    )
    if told.size is not None and not 0 < told.size <= 2**12:
        raise UserError(f"command line: --size: {told.size} is no number of pixels")
    return pool_commands.add(pool, options.source, options.name, told)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(
            f"command line: {option}: {text!r} is no list of numbers; write it like "
            "0.49,0.48,0.45"
        ) from error


def _joined(options: Any) -> Any:
    """Return the processes that share a run; only where the command line says so."""
    from dpet_jax.run.team import Team

    if options.coordinator is None:
        alone = {"--processes": options.processes, "--process": options.process}
        for name, value in alone.items():
            if value is not None:
                raise UserError(
                    f"{name}: {value} needs to know where the processes meet; give "
                    "--coordinator=HOST:PORT, or --coordinator=auto"
                )
        return Team()
    from dpet_jax.run.join import join

    return join(options.coordinator, options.processes, options.process)


def _run(options: Any, overrides: list[str], console: Console) -> int:
    from dpet_jax.config.load import load

    config = load(options.config or "quickstart", overrides)
    _use_cache()
    team = _joined(options)
    from dpet_jax.run import experiment
    from dpet_jax.run.folder import CONFIG
    from dpet_jax.run.summary import summary_lines

    given = [] if options.config is None else [str(options.config)]
    command = ["dpet", "run", *given, *overrides, f"--out={options.out}"]
    again = shlex.join([*command, "--resume"])
    team.again = f"go on with: {again}"
    try:
        result = experiment.run(
            config,
            options.out,
            resume=options.resume,
            overwrite=options.overwrite,
            console=console,
            team=team,
        )
        team.close()
    except OSError as error:
        folder = experiment.run_folder(config, options.out)
        begun = (folder / CONFIG).exists()
        return _failed(error, folder, again if begun else shlex.join(command))
    if not team.leads:  # process 0 says it all
        console.quiet = True
    if result.summary is None:
        console.out(f"interrupted; go on with: {again}", highlight=False)
    else:
        for line in summary_lines(result.summary):
            console.out(line, highlight=False)
    console.out(f"run folder  {result.folder}", highlight=False)
    if result.stopped_by == "interrupted":
        return EXIT_RESUMABLE
    if result.stopped_by == "diverged" and not team.leads:
        return EXIT_DIVERGED
    if result.stopped_by == "diverged":
        print(  # noqa: T201
            f"{result.folder}: training diverged (the loss is not finite); lower "
            "train.optimizer.learning_rate",
            file=sys.stderr,
        )
        return EXIT_DIVERGED
    return 0


def _whole_numbers(option: str, text: str | None) -> list[int]:
    try:
        return [] if text is None else [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(
            f"command line: {option}: {text!r} is no list of numbers; write it like "
            "0,1,2"
        ) from error


def _compare(options: Any, overrides: list[str], console: Console) -> int:
    _check_places(options)
    comparing = _comparing(options, overrides, console)
    if options.dry_run:
        # starting is work of this one thread: other programs do not change its seconds
        started_s = time.process_time()
        lines = comparing.plan_lines(measure=options.measure, started_s=started_s)
        for line in lines:
            console.out(line, highlight=False)
        return EXIT_MISTAKE if comparing.problems else 0
    named = [f"--{k}={getattr(options, k)}" for k in ("seeds", "only", "out")]
    given = [option for option in named if not option.endswith("=None")]
    plain = ["dpet", "compare", str(options.suite), *overrides, *given]
    if options.print_slurm:
        return _print_slurm(options, comparing, plain, console)
    placed = [
        f"--{k.replace('_', '-')}={getattr(options, k)}"
        for k in ("on", "cpus_per_run", "gpus_per_run", "job")
        if getattr(options, k) is not None
    ]
    again = shlex.join([*plain, *placed])
    try:
        if options.job is not None:
            return _run_alone(options, comparing, again, console)
        return _run_suite(options, comparing, again, console)
    except OSError as error:
        return _failed(error, comparing.folder.path, again)


def _comparing(options: Any, overrides: list[str], console: Console) -> Any:
    seeds = _whole_numbers("--seeds", options.seeds) or None
    from dpet_jax.suite.variants import load_suite

    suite = load_suite(options.suite, overrides, seeds)
    if options.on is not None:
        # this process only tells others what to do: the accelerators are theirs
        import jax

        jax.config.update("jax_platforms", "cpu")
    _use_cache()
    from dpet_jax.suite.compare import Comparing

    only = options.only.split(",") if options.only else []
    return Comparing(suite, options.out, console, only)


def _run_suite(options: Any, comparing: Any, again: str, console: Console) -> int:
    if options.on is None:
        outcome = comparing.run(minutes=options.minutes)
    else:
        from dpet_jax.suite.cluster import on_ray

        share = {"cpus": options.cpus_per_run, "gpus": options.gpus_per_run}
        data = comparing.each_data()
        with on_ray(options.on, comparing.folder.path, share, data) as executor:
            outcome = comparing.run(minutes=options.minutes, executor=executor)
    if outcome.interrupted:
        console.out(f"interrupted; go on with: {again}", highlight=False)
    if outcome.any_finished:
        _write_report([outcome.folder], options.by, outcome.folder, console)
    else:
        for line in outcome.problems:
            if line not in comparing.lacking:  # that was said before anything was run
                console.out(line, highlight=False)
        console.out("report      none: no run has finished", highlight=False)
    if outcome.interrupted:
        return EXIT_RESUMABLE
    if comparing.suite.problems or comparing.lacking:
        return EXIT_MISTAKE
    return 0 if outcome.finished else EXIT_FAILED


def _check_places(options: Any) -> None:
    """Refuse what does not go together about where the runs of a suite are run."""
    ways = {
        "--on": options.on is not None,
        "--print-slurm": options.print_slurm,
        "--job": options.job is not None,
        "--dry-run": options.dry_run,
    }
    chosen = [name for name, given in ways.items() if given]
    if len(chosen) > 1:
        both = " and ".join(chosen)
        raise UserError(f"command line: {both} exclude each other; give one of them")
    if options.measure and not options.dry_run:
        raise UserError("command line: --measure goes with --dry-run; add it")
    if options.time is not None and not options.print_slurm:
        raise UserError("command line: --time goes with --print-slurm; add it")
    for name in ("cpus_per_run", "gpus_per_run"):
        share, option = getattr(options, name), f"--{name.replace('_', '-')}"
        if share is None:
            continue
        if options.on is None and not options.print_slurm:
            raise UserError(
                f"command line: {option} goes with --on=ray or --print-slurm; add one"
            )
        if not 0 <= share < float("inf") or (share > 1 and share % 1):
            raise UserError(
                f"command line: {option}: {share:g} is neither a whole number nor a "
                "share below 1"
            )
        if options.print_slurm and share % 1:
            raise UserError(
                f"command line: {option}: SLURM gives whole ones, not {share:g}; give "
                "a whole number"
            )


def _run_alone(options: Any, comparing: Any, again: str, console: Console) -> int:
    ended = comparing.run_alone(options.job, minutes=options.minutes)
    if ended.error is not None:
        raise ended.error
    if ended.how == "interrupted":
        console.out(f"interrupted; go on with: {again}", highlight=False)
        return EXIT_RESUMABLE
    if ended.how == "failed":
        print(f"{ended.folder}: {ended.reason}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    console.out(f"finished: {ended.folder}", highlight=False)
    return 0


def _print_slurm(
    options: Any, comparing: Any, command: list[str], console: Console
) -> int:
    from dpet_jax.suite.slurm import Request, array_job

    jobs = comparing.missing()
    if not jobs:
        raise UserError(
            f"{comparing.folder.path}: no run is missing; write the report with "
            f"{shlex.join(command)}"
        )
    cpus, gpus = (
        None if share is None else int(share)
        for share in (options.cpus_per_run, options.gpus_per_run)
    )
    request = Request(options.time, cpus, gpus)
    name = comparing.suite.section.name
    for line in array_job(name, jobs, command, request, Path.cwd()):
        console.out(line, highlight=False)
    return 0


def _practices(options: Any, overrides: list[str], console: Console) -> int:
    from dpet_jax.config.packaged import file_of
    from dpet_jax.suite.practices import Study, load_practices, names_of_parts

    path = file_of(options.study or Path("practices_small"))
    section = load_practices(path, overrides)
    only = names_of_parts(options.only, section)
    study = Study(section, path.parent, options.out / section.name, console)
    _use_cache()
    named = [f"--{k}={getattr(options, k)}" for k in ("only", "out")]
    given = [option for option in named if not option.endswith("=None")]
    file = [] if options.study is None else [str(options.study)]
    again = shlex.join(["dpet", "practices", *file, *overrides, *given])
    try:
        outcome = study.run(only, minutes=options.minutes)
        page = study.report(options.by, console.width)
    except OSError as error:
        return _failed(error, study.out, again)
    for problem in outcome.problems:
        print(problem, file=sys.stderr)  # noqa: T201
    for line in page:
        console.out(line, highlight=False)
    if outcome.interrupted:
        console.out(f"interrupted; go on with: {again}", highlight=False)
        return EXIT_RESUMABLE
    return EXIT_FAILED if outcome.problems else 0


def _tune(options: Any, overrides: list[str], console: Console) -> int:
    from dpet_jax.config.load import load

    config = load(options.config, overrides)
    for name in ("trials", "epochs", "wh", "minutes"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name}: {value} is no number above 0")
    limits = (options.trials, options.epochs, options.wh)
    if options.compare is not None:
        return _compare_searches(options, overrides, config.name, console)
    from dpet_jax.suite.searchers.axis import Axis
    from dpet_jax.suite.searchers.by_name import search_of

    search = search_of(options.search)
    axes = [Axis.of(text) for text in options.vary]
    endless = (*limits, options.minutes) == (None,) * 4
    if endless and not search.round_size and not search.points(search.space(axes)):
        raise UserError(
            "command line: nothing says when to stop; give --trials, --epochs, --wh or "
            "--minutes"
        )
    _use_cache()
    from dpet_jax.suite.tuning import Limits, Tuning, lines

    out = options.out or Path("tune") / config.name
    tuning = Tuning(
        *(options.config, overrides, axes, out, search, options.search_seed),
        say=lambda line: console.out(line, highlight=False),
    )
    again = _tune_again(options, overrides, "search")
    try:
        outcome = tuning.run(Limits(*limits), minutes=options.minutes)
    except OSError as error:
        return _failed(error, out, again)
    for line in lines(outcome, again):
        console.out(line, highlight=False)
    return EXIT_RESUMABLE if outcome.interrupted else 0


def _tune_again(options: Any, overrides: list[str], *own: str) -> str:
    """Return the command that goes on with a search, or with several."""
    kept = (*own, "trials", "epochs", "wh", "search_seed", "out")
    given = [f"--{k.replace('_', '-')}={getattr(options, k)}" for k in kept]
    given = [option for option in given if not option.endswith("=None")]
    given = [*(f"--vary={text}" for text in options.vary), *given]
    return shlex.join(["dpet", "tune", str(options.config), *overrides, *given])


def _compare_searches(
    options: Any, overrides: list[str], name: str, console: Console
) -> int:
    from dpet_jax.suite.searchers.axis import Axis
    from dpet_jax.suite.searchers.by_name import searches_of

    searches = searches_of(options.compare)
    axes = tuple(Axis.of(text) for text in options.vary)
    _use_cache()
    from dpet_jax.report.searches import read_searches, search_lines
    from dpet_jax.suite.searches import Searches, run_searches
    from dpet_jax.suite.tuning import Limits

    def say(line: str) -> None:
        console.out(line, highlight=False)

    limits = Limits(options.trials, options.epochs, options.wh)
    asked = Searches(
        *(options.config, tuple(overrides), axes, searches, limits),
        *(options.repeats, options.search_seed),
    )
    out = options.out or Path("tune") / f"{name}_searches"
    again = _tune_again(options, overrides, "compare", "repeats")
    try:
        interrupted = run_searches(asked, out, say=say, minutes=options.minutes)
        if interrupted:
            say(f"interrupted; go on with: {again}")
            return EXIT_RESUMABLE
        record = read_searches(out)
        for line in (*search_lines(record, console.width), ""):
            say(line)
        say(f"record      {record.write(out)}")
        say(f"plot        {_draw_searches(record, out)}")
    except OSError as error:
        return _failed(error, out, again)
    return 0


def _draw_searches(record: Any, out: Path) -> str:
    """Write the plot of a comparison; return where, or why there is none."""
    from dpet_jax.files import write_whole

    try:
        from dpet_jax.report.plots.searches import best_over_cost
        from dpet_jax.report.plots.style import settle, to_png, to_svg
    except ImportError:
        return "none without matplotlib: pip install 'dpet-jax[plot]'"
    figure = best_over_cost(record)
    if figure is None:
        return "none, for no search has an accuracy in all its repeats"
    settle(figure)
    write_whole(out / "searches.svg", to_svg(figure))
    write_whole(out / "searches.png", to_png(figure))
    return str(out / "searches.png")


def _report(options: Any, rest: list[str], console: Console) -> int:
    del rest
    out = options.out or options.runs[0]
    _write_report(options.runs, options.by, out, console, paper=options.paper)
    return 0


def _write_report(
    folders: list[Path],
    by: By | None,
    out: Path,
    console: Console,
    *,
    paper: bool = False,
) -> None:
    from dpet_jax.report.comparison import read_comparison
    from dpet_jax.report.page import PAPER, answer, write_report

    comparison = read_comparison(folders, by)
    unit = by or comparison.natural_cost()
    page, *_ = write_report(comparison, unit, out, paper=paper)
    for problem in comparison.problems:
        print(problem, file=sys.stderr)  # noqa: T201
    console.out(answer(comparison, unit, console.width), highlight=False)
    console.out(f"report      {page}", highlight=False)
    if paper:
        console.out(f"paper       {out / PAPER}", highlight=False)


def _suspects(options: Any, rest: list[str], console: Console) -> int:
    del rest
    _use_cache()
    from dpet_jax.report.suspects import summary, suspects_sheet, write_suspects
    from dpet_jax.run.suspects import find_suspects

    found = find_suspects(options.run, share=options.share, near=options.near)
    sheet = suspects_sheet(found)
    table = _table(*sheet.header, numbers=("row", "score"))
    for row in sheet.rows:
        table.add_row(*(escape(entry.main) for entry in row))
    console.print(table, highlight=False)
    for line in summary(found):
        console.out(line, highlight=False)
    page, *tables = write_suspects(found, options.out or options.run / "suspects")
    console.out(f"gallery     {page}", highlight=False)
    for path in tables:
        console.out(f"table       {path}", highlight=False)
    return 0


def _energy(options: Any, rest: list[str], console: Console) -> int:
    del rest
    from dpet_jax.energy.report.export import boamps, write_csv
    from dpet_jax.run.energy_report import run_report

    report = run_report(options.run)
    console.out(str(report), highlight=False)
    try:
        if options.json is not None:
            report.write(options.json)
        if options.csv is not None:
            write_csv(report.data, options.csv)
        if options.boamps is not None:
            text = json.dumps(boamps(report.data), indent=2) + "\n"
            options.boamps.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot write ({error.strerror}); choose another file"
        ) from error
    except ValueError as error:
        raise UserError(f"{options.run}: {error}") from error
    return 0


def _measure(options: Any, rest: list[str], console: Console) -> int:
    del console, rest
    command = options.program
    command = command[1:] if command[:1] == ["--"] else command
    if not command:
        raise UserError(
            "command line: give a program to measure, such as: dpet measure -- python "
            "train.py"
        )
    out = options.out
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out: {out.parent} is no folder; make it, or give another")
    from dpet_jax.energy import EnergyMeter
    from dpet_jax.energy.report.prometheus import serving
    from dpet_jax.run.measure import measure_command

    meter = EnergyMeter()
    asked = options.prometheus
    with serving(meter, *_address(asked)) if asked is not None else nullcontext():
        found = measure_command(command, meter)
    # standard output is the program's
    for line in found.lines():
        print(line, file=sys.stderr)  # noqa: T201
    if out is not None:
        found.report.write(out)
        print(f"{'report':<12}{out}", file=sys.stderr)  # noqa: T201
    return found.exit_code


def _address(text: str) -> tuple[int] | tuple[int, str]:
    """Read [HOST:]PORT."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal():
        raise UserError(f"--prometheus: {text!r} is no [HOST:]PORT, such as 9400")
    return (int(port), host) if host else (int(port),)


def _export(options: Any, rest: list[str], console: Console) -> int:
    del rest
    from dpet_jax.run.export import export

    written = export(options.run, options.form, options.out, options.licence)
    console.out(str(written), highlight=False)
    return 0


def _predict(options: Any, rest: list[str], console: Console) -> int:
    del rest
    _use_cache()
    from dpet_jax.run.predict import predict

    prediction = predict(options.run, options.data)
    if options.csv is None:
        console.out(prediction.to_csv().rstrip(), highlight=False)
    else:
        prediction.write_csv(options.csv)
        console.out(f"{len(prediction.names)} predictions in {options.csv}")
    if prediction.accuracy is not None:
        console.out(f"accuracy {prediction.accuracy:.4f}", highlight=False)
    return 0


def _show(options: Any, overrides: list[str], console: Console) -> int:
    if options.schema is not None:
        from dpet_jax.config.experiment import Config
        from dpet_jax.suite.schema import SuiteConfig

        section = SuiteConfig if options.schema == "suite" else Config
        lines = [json.dumps(section.model_json_schema(), indent=2)]
    elif options.config is None:
        raise UserError("command line: give a config file or a suite, or --schema")
    else:
        from dpet_jax.config.load import load, read_tree

        if "variants" in read_tree(options.config):
            lines = _suite_lines(options.config, overrides, console)
        else:
            lines = [load(options.config, overrides).to_yaml().rstrip()]
    for line in lines:
        console.out(line, highlight=False)
    return 0


def _suite_lines(path: Path, overrides: list[str], console: Console) -> list[str]:
    from dpet_jax.suite.variants import load_suite

    suite = load_suite(path, overrides)
    from dpet_jax.suite.compare import Comparing
    from dpet_jax.suite.overview import overview_lines

    # what a folder holds already is the dry run's matter
    with tempfile.TemporaryDirectory() as nowhere:
        return [*overview_lines(Comparing(suite, Path(nowhere), console))]


def _runs(options: Any, rest: list[str], console: Console) -> int:
    del rest
    from dpet_jax.report.listing import list_runs, runs_sheet

    folders = options.folders or [Path("runs")]
    found = list_runs(folders)
    if options.json:
        text = json.dumps([run.plain() for run in found.runs], indent=1)
        console.out(text, highlight=False)
    else:
        sheet = runs_sheet(found, folders[0] if len(folders) == 1 else None)
        table = _table(*sheet.header, numbers=("seed", "test", "epochs", "Wh"))
        for row in sheet.rows:
            table.add_row(*(escape(entry.main) for entry in row))
        console.print(table, highlight=False)
    for problem in found.problems:
        print(problem, file=sys.stderr)  # noqa: T201
    return 0


def _table(*names: str, numbers: tuple[str, ...] = ()) -> Table:
    """Return an empty table whose words are wrapped, and whose numbers are not."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for name in names:
        number = name in numbers
        justify: Literal["left", "right"] = "right" if number else "left"
        table.add_column(name, justify=justify, no_wrap=number, overflow="fold")
    return table


def _diff(options: Any, rest: list[str], console: Console) -> int:
    del rest
    from dpet_jax.report.listing import difference

    *both, groups = difference(options.one, options.other)
    for mark, run in zip("AB", both, strict=True):
        told = f"{mark}  {run.folder}: {run.method}, seed {run.seed}, {run.state}"
        console.out(told, highlight=False)
    for group in groups:
        console.out("", highlight=False)
        if not group.rows:
            console.out(group.same, highlight=False)
            continue
        table = _table(group.title, "A", "B")
        for row in group.rows:
            table.add_row(*map(escape, row))
        console.print(table, highlight=False)
    return 0


def _completion(options: Any, rest: list[str], console: Console) -> int:
    del rest
    try:
        import shtab
    except ModuleNotFoundError as error:
        raise UserError(
            "completion needs the package shtab, which is not installed; run pip "
            "install 'dpet-jax[completion]'"
        ) from error
    script = shtab.complete(build_parser(), options.shell)
    console.out(script, highlight=False)
    return 0


def _list(options: Any, rest: list[str], console: Console) -> int:
    del options, rest
    from dpet_jax.config.choices import choices

    for title, entries in choices().items():
        table = Table(title=title, title_justify="left", box=None, show_header=False)
        for name, text in entries.items():
            table.add_row(f"  {name}", text)
        console.print(table)
    return 0


def _doctor(options: Any, rest: list[str], console: Console) -> int:
    del options, rest
    folder = _use_cache()
    from dpet_jax.run.machine import findings

    table = Table(box=None, show_header=False, padding=(0, 3, 0, 0))
    for name, text in findings(folder):
        table.add_row(name, escape(text))
    console.print(table)
    return 0


COMMANDS: dict[str, Command] = {
    "run": _run,
    "init": _init,
    "fit": _fit,
    "plan": _plan,
    "layers": _layers,
    "compare": _compare,
    "practices": _practices,
    "tune": _tune,
    "report": _report,
    "runs": _runs,
    "diff": _diff,
    "suspects": _suspects,
    "energy": _energy,
    "measure": _measure,
    "predict": _predict,
    "export": _export,
    "pool": _pool,
    "show": _show,
    "completion": _completion,
    "list": _list,
    "doctor": _doctor,
}
