"""What the command line takes."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, get_args

from rich.console import Console

from dpet_jax.report.runs import By

#: Options, what else stood on the line, and where to print; returns the exit code.
Command: TypeAlias = Callable[[Any, list[str], Console], int]

_DESCRIPTION = """\
Train image classifiers on the fewest joules: choose the data, measure the cost.

  dpet run configs/quickstart.yaml                       a first run, under 90 seconds
  dpet run configs/quickstart.yaml --method.kind=rs2     any key can be overridden
  dpet show configs/quickstart.yaml                      every key there is
"""


def build_parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Build the parser.

    Args:
        commands: What carries each command out: run, compare, report, energy, predict,
            show, list and doctor. Parsed options hold theirs as `command`, and
            `takes_overrides` where keys of a config may follow.
    """
    parser = argparse.ArgumentParser(
        prog="dpet",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
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
        sub.set_defaults(command=commands[name], **defaults)
        return sub

    run = add(
        "run",
        "Run one experiment; its folder is DIR/<name>/seed<k>/ and is printed last.",
        takes_overrides=True,
        epilog="Any key of the config can be given as --section.key=value, such as\n"
        "--train.batch_size=256 or --method.kind=rs2; `dpet show` prints them all.",
    )
    run.add_argument("config", type=Path, help="a YAML file")
    run.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR")
    run.add_argument(
        "--resume", action="store_true", help="go on from the latest checkpoint"
    )
    run.add_argument(
        "--overwrite", action="store_true", help="replace the run in the folder"
    )

    compare = add(
        "compare",
        "Run what a suite lacks, and write its report; start it again to go on.",
        takes_overrides=True,
        epilog="Any key of the configs can be given as --section.key=value, such as\n"
        "--data.path=DIR; it holds for every run.",
    )
    compare.add_argument("suite", type=Path, help="a YAML file")
    compare.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR")
    compare.add_argument("--seeds", metavar="A,B,...", help="instead of the suite's")
    compare.add_argument(
        "--by", choices=get_args(By), help="what the report tells costs in"
    )
    compare.add_argument(
        "--minutes", type=float, help="stop after so long; start again to go on"
    )
    compare.add_argument(
        "--dry-run",
        action="store_true",
        help="tell what would be run, and for how long",
    )

    report = add(
        "report",
        "Write page, tables and plots about the runs in some folders.",
    )
    report.add_argument(
        "runs", type=Path, nargs="+", help="folders of suites or runs, or above such"
    )
    report.add_argument("--by", choices=get_args(By), help="what costs are told in")
    report.add_argument(
        "--out", type=Path, metavar="DIR", help="by default the first of the folders"
    )

    energy = add(
        "energy",
        "Show what a run cost, also one that was killed or still goes on.",
    )
    energy.add_argument("run", type=Path, help="a run folder")
    energy.add_argument(
        "--json", type=Path, metavar="FILE", help="write the whole report here"
    )
    energy.add_argument(
        "--csv", type=Path, metavar="FILE", help="append one row to this table"
    )
    energy.add_argument(
        "--boamps", type=Path, metavar="FILE", help="write a BoAmps report here"
    )

    predict = add("predict", "Classify new images with the model of a finished run.")
    predict.add_argument("run", type=Path, help="a run folder")
    predict.add_argument(
        "--data",
        type=Path,
        required=True,
        help="an .npz with images, and labels if known, or a folder of "
        "images, whose class sub-folders, if any, are the labels",
    )
    predict.add_argument(
        "--csv", type=Path, help="write the table here instead of printing it"
    )

    show = add(
        "show",
        "Print the resolved config, or its JSON schema.",
        takes_overrides=True,
    )
    show.add_argument("config", type=Path, nargs="?", help="a YAML file")
    show.add_argument(
        "--schema", action="store_true", help="print the JSON schema instead"
    )

    add("list", "List methods, scores, models, sources and other choices.")
    add("doctor", "Tell devices, versions, caches and what can be measured.")
    return parser
