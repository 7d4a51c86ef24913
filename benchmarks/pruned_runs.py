"""Gather what the runs of a suite say of pruning, a row a run, into one JSON file.

    dpet compare configs/suites/cifar10_easy4_prune.yaml --data.path=DIR
    python benchmarks/pruned_runs.py runs/cifar10_easy4_prune --data=cifar10_q90 \
        --out=benchmarks/results/cifar10_easy4_prune_cpu.json
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpet_jax.files import read_json, write_whole
from dpet_jax.run.folder import EVENTS, SUMMARY, read_events

_KEPT = ("test_accuracy", "validation_accuracy", "visits", "epochs", "flops")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", type=Path, help="the folder of a suite's runs")
    parser.add_argument("--data", default="", help="what the images are called")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    folders = sorted(path.parent for path in options.suite.glob(f"*/seed*/{SUMMARY}"))
    started = read_events(folders[0] / EVENTS)[0]
    result = {
        "question": "what does cutting channels out early cost, and what does it save?",
        "command": f"dpet compare configs/suites/{options.suite.name}.yaml",
        "data": options.data,
        "when": started["when"],
        "device": started["device"],
        "versions": started["versions"],
        "rows": [row_of(folder) for folder in folders],
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if options.out is not None:
        write_whole(options.out, text)
    return result


def row_of(folder: Path) -> dict[str, Any]:
    summary = read_json(folder / SUMMARY)
    phases = summary["phases"]
    return {
        "variant": folder.parent.name,
        "seed": summary["seed"],
        **{key: summary[key] for key in _KEPT},
        "seconds": {name: phase["s"] for name, phase in phases.items()},
        "pruning": summary["pruning"],
        "distances": [
            event["distances"]
            for event in read_events(folder / EVENTS)
            if event.get("step") == "look"
        ],
    }


if __name__ == "__main__":
    main()
