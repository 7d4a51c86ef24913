"""How the numbers of a report came about: the setting, and departures from protocol."""

from collections.abc import Callable, Iterable

from dpet_jax.report.printed import brief, percent, significant
from dpet_jax.report.rows import Comparison
from dpet_jax.report.runs import Run
from dpet_jax.run.costs import NEGLIGIBLE_S, By

_COSTS: dict[By, str] = {
    "wh": "Wh of selection and training; reading the data, compilation and evaluation "
    "are reported apart (wh_warm in table.csv)",
    "seconds": "seconds of selection and training; reading the data, compilation and "
    "evaluation are reported apart (seconds_warm in table.csv)",
    "epochs": "full-pass equivalents: FLOPs of training, scoring and auxiliary "
    "networks over those of one training pass over all training examples; without "
    "evaluation",
    "visits": "examples that the main model has seen in training, repeats included "
    "(visits in table.csv); without scoring, auxiliary networks and evaluation",
}

#: Characters of a fingerprint that tell data sets apart; runs.csv has all of them.
_MARK = 12


def setting(comparison: Comparison, by: By) -> list[tuple[str, str]]:
    """Return names and texts of what all runs have in common, or differ in."""
    runs = comparison.runs

    def each(text: Callable[[Run], str]) -> str:
        return "; or ".join(dict.fromkeys(map(text, runs)))

    facts = [
        ("cost", _COSTS[by]),
        ("data set", each(_data)),
        ("examples", each(_sizes)),
        ("evaluation grid", each(_grid)),
        ("fill rows", _fill_rows(runs)),
        *[
            (f"{role} here", row.label)
            for role in ("standard", "tuned", "random")
            if (row := comparison.row(role)) is not None
        ],
        ("device", each(_device)),
        ("versions", each(_versions)),
        ("energy", each(_energy)),
        ("compilation", _compilation(runs)),
    ]
    return [(name, text) for name, text in facts if text]


def deviations(comparison: Comparison) -> list[str]:
    """Return in what runs depart from an honest protocol, a sentence each."""
    runs = comparison.runs
    found: list[str] = []
    for departure in (_on_test, _compat, _noise, _invalid):
        counts: dict[str, int] = {}
        for text in map(departure, runs):
            if text is not None:
                counts[text] = counts.get(text, 0) + 1
        found += [f"{text} ({n} of {len(runs)} runs)" for text, n in counts.items()]
    return [*found, *filter(None, map(_lost, runs))]


def _data(run: Run) -> str:
    start = run.started
    seed = run.config["data"]["split_seed"]
    mark = start["fingerprint"][:_MARK]
    return f"{start['dataset']} (fingerprint {mark}…), split seed {seed}"


def _sizes(run: Run) -> str:
    sizes = ("train", "validation", "test")
    return ", ".join(f"{run.started[name]:,} {name}" for name in sizes)


def _grid(run: Run) -> str:
    split = run.summary["targets_on"]
    size = "" if split is None else f" on {run.started[split]:,} {split} examples"
    every = run.config["evaluate"]["every"]
    return (
        f"every {every:g} full-pass equivalents{size}, and at the end of a run, for "
        "every method; a target counts as reached at the first evaluation at or above "
        "it"
    )


def _fill_rows(runs: Iterable[Run]) -> str:
    shares = [
        (run.end["executed_visits"] / run.end["visits"] - 1, run.method)
        for run in runs
        if run.end["visits"]
    ]
    if not shares:
        return ""
    most, method = max(shares)
    if percent(most) == percent(0.0):
        return ""
    return (
        f"at most {percent(most)} of the examples that a run has seen ({method}); they "
        "complete the last batch of a plan, and are in epochs, seconds and Wh"
    )


def _device(run: Run) -> str:
    device = run.started["device"]
    return (
        f"{device['count']} x {device['kind']} ({device['platform']}), "
        f"{device['cpu_cores']} CPU cores, {device['machine']}, {device['os']}"
    )


def _versions(run: Run) -> str:
    return ", ".join(f"{name} {v}" for name, v in run.started["versions"].items())


def _energy(run: Run) -> str:
    energy = run.summary["energy"]
    missing = [f"{e['component']}: {e['reason']}" for e in energy["unavailable"]]
    without = f"; without {'; '.join(missing)}" if missing else ""
    if energy["quality"] == "unavailable":
        return f"not measured{without}"
    included = " + ".join(energy["included"])
    return f"{energy['quality']}, {included} included{without}"


def _compilation(runs: Iterable[Run]) -> str:
    waits, cached = [], 0
    for run in runs:
        programs = run.summary["compilations"].values()
        cached += any(program["cache_hits"] for program in programs)
        waits.append(run.summary["phases"]["compile"]["s"])
    if not waits:
        return ""
    return (
        f"{brief(sum(waits))} s over all {len(waits)} runs, at most "
        f"{brief(max(waits))} s in one; {cached} of them found programs in a "
        "cache. Costs in the tables are warm, that is without compilation and reading "
        "the data, which a process does once for all its runs; cold costs would be "
        "higher by both"
    )


def _on_test(run: Run) -> str | None:
    if run.summary["targets_on"] != "test":
        return None
    return "the test split decided about targets, which flatters every method"


def _compat(run: Run) -> str | None:
    kind = run.summary.get("compat", "none")
    return None if kind == "none" else f"compat: {kind}, not the method as published"


def _noise(run: Run) -> str | None:
    share = run.summary.get("label_noise", 0.0)
    return f"{100 * share:g} % of the training labels are noise" if share else None


def _invalid(run: Run) -> str | None:
    energy = run.summary["energy"]
    if energy["quality"] == "unavailable" or energy["valid"]:
        return None
    return f"the energy is not valid: {', '.join(energy['reason_codes'])}"


def _lost(run: Run) -> str | None:
    lost = run.summary["lost"]
    if lost["seconds"] < NEGLIGIBLE_S and not lost["visits"]:
        return None
    told = lost["wh"] and run.quality != "modelled"
    wh = f" and {significant(float(lost['wh']))} Wh" if told else ""
    name = f"{run.summary['name']}, seed {run.seed}"
    return (
        f"{name}: a crash lost {significant(float(lost['seconds']))} s{wh}, "
        f"{lost['visits']:,} examples seen, which are in none of its costs"
    )
