"""The GPU suite's rows as tables in Markdown, and as one file to keep."""

from collections.abc import Iterable, Mapping
from typing import Any

Row = dict[str, Any]
Cells = dict[str, Any]

#: Of every row, told once.
_COMMON = ("piece", "toy", "device", "versions", "command", "when")


def results(rows: list[Row]) -> dict[str, Any]:
    """Return the rows with what explains them, as benchmarks/results/ keeps them.

    Why a piece ended is told by its last line; those above name files of the machine.
    """
    measured = [row for row in rows if "versions" in row]
    last: Row = max(measured or [{}], key=lambda row: row.get("when", ""))
    return {
        "question": "What do training, scoring and choosing cost on this GPU?",
        "command": "python benchmarks/gpu_suite.py",
        "when": last.get("when"),
        "device": last.get("device", {}),
        "versions": {
            name: number for row in measured for name, number in row["versions"].items()
        },
        "rows": [
            row | ({"why": ending(row)} if row.get("why") else {}) for row in rows
        ],
    }


def ending(row: Row) -> str:
    """Return the last line of why a piece ended as it did."""
    return row["why"].strip().rpartition("\n")[2]


def summary(rows: list[Row]) -> str:
    """Return all tables; a figure that was measured again counts as the last."""
    latest = {(row["piece"], row["row"], row["toy"]): row for row in rows}
    rows = list(latest.values())
    kinds = dict.fromkeys(row["device"]["kind"] for row in rows)
    days = sorted({row["when"][:10] for row in rows})
    lines = [f"# GPU suite: {', '.join(kinds) or 'nothing yet'}, {' '.join(days)}", ""]
    if any(row["toy"] for row in rows):
        lines += ["TOY: these figures show that it runs and mean nothing.", ""]
    for title, cells in (
        ("Goals", goals(rows)),
        ("Training", training(rows)),
        ("Ours over PyTorch", comparisons(rows)),
        ("Where a step's time goes", kernels(rows)),
        ("Energy to accuracy", energy(rows)),
        ("Scores", plain(rows, "scores")),
        ("Gradient norms", plain(rows, "norms")),
        ("Subsets in ten classes", plain(rows, "subsets")),
        ("A growing set", plain(rows, "growth")),
        ("Meter", meter(rows)),
        ("Pieces", states(rows)),
    ):
        lines += [f"## {title}", "", *table(cells), ""]
    return "\n".join(lines).rstrip()


def training(rows: list[Row]) -> list[Cells]:
    """Return a line for each way to train at each batch size."""
    return [
        {
            "piece": row["piece"],
            "mode": row.get("mode", "ours"),
            "batch": row["batch"],
            "images/s": row["images_per_s"],
            "MFU": row["mfu"],
            "peak TFLOP/s": row["peak_tflops"],
            "J/1000 images": row["joules_per_1000_images"],
            "Wh": row["wh"],
            "k=2": row["wh_k2"],
            "ready s": row["ready_s"],
            "ready Wh": row["ready_wh"],
        }
        for row in trained(rows)
    ] + [
        {"piece": row["piece"], "mode": row["mode"], "images/s": row["why"]}
        for row in rows
        if row["row"].startswith("failed, ")
    ]


def trained(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["row"].startswith("train")]


def comparisons(rows: list[Row]) -> list[Cells]:
    """Return ratios of medians, ours over PyTorch's fastest mode."""
    found = []
    of_torch = [row for row in trained(rows) if row["piece"].startswith("torch")]
    for row in trained(rows):
        kind, _, batch = row["piece"].rpartition("_")
        rivals = [r for r in of_torch if r["piece"].endswith(f"_{batch}")]
        if kind != "train" or not rivals:
            continue
        best = max(rivals, key=rate)
        assert best["parameters"] == row["parameters"], "another network"
        watts = row["images_per_wh"], best["images_per_wh"]
        found.append(
            {
                "what": f"ours / PyTorch ({best['mode']})",
                "batch": batch,
                "images/s": rate(row) / rate(best),
                "images/Wh": watts[0] / watts[1] if all(watts) else None,
            }
        )
    return found


def rate(row: Row) -> float:
    return row["images_per_s"]["median"]


def energy(rows: list[Row]) -> list[Cells]:
    """Return a line for each arm and target that it reached, or its best accuracy."""
    found: list[Cells] = []
    for row in rows:
        if row["piece"] != "energy" or row["row"] == "state":
            continue
        common = {"arm": row["row"], "data": row["data"], "test": row["test_accuracy"]}
        common |= {"validation": row["validation_accuracy"]}
        reached = [target for target in row["targets"] if target["reached"]]
        for target in reached[-3:]:
            keys = ("target", "wh_warm", "wh_cold", "epochs", "seconds_warm", "wall_s")
            found.append(common | {key: target[key] for key in keys})
        if not reached:
            found.append(common | {"target": "none", "epochs": row["epochs"]})
    return found


def kernels(rows: list[Row]) -> list[Cells]:
    """Return each profiled step, and the kernels that take most of it."""
    keys = "ms_a_step", "ms_busy_a_step", "launches_a_step"
    found: list[Cells] = []
    for row in rows:
        if row["row"] == "kernels":
            found.append({"piece": row["piece"], **{key: row[key] for key in keys}})
            found += row["kernels"][:12]
    return found


def plain(rows: list[Row], piece: str) -> list[Cells]:
    """Return the rows of a piece as they are."""
    return [
        {"what": row["row"]}
        | {
            key: value
            for key, value in row.items()
            if key not in (*_COMMON, "row", "measured_s", "images_per_wh", "energy_of")
        }
        for row in rows
        if row["piece"] == piece and row["row"] != "state"
    ]


def meter(rows: list[Row]) -> list[Cells]:
    """Return what the meter says of itself."""
    keys = ("quality", "wh", "wh_k2", "wh_of_phases", "idle", "tick_s", "reason_codes")
    return [
        {key: row[key] for key in keys}
        for row in rows
        if (row["piece"], row["row"]) == ("sensors", "meter")
    ]


def states(rows: list[Row]) -> list[Cells]:
    """Return how each piece ended, with the last line of those that are not done."""
    return [
        {
            "piece": row["piece"],
            "state": row["state"],
            "s": row["seconds"],
            "why": ending(row)[:160],
        }
        for row in rows
        if row["row"] == "state"
    ]


def goals(rows: list[Row]) -> list[Cells]:
    """Return each goal beside what was measured; nothing of a toy."""
    found = {(row["piece"], row["row"]): row for row in rows if not row["toy"]}
    pairs = (
        line for line in comparisons(list(found.values())) if line["batch"] == "512"
    )
    pair = next(pairs, {})
    ninety = [
        target
        for (piece, row), values in found.items()
        if piece == "energy" and row != "state"
        for target in values["targets"]
        if target["target"] == 0.9 and target["reached"]
    ]

    def of(piece: str, row: str, *keys: str) -> float | None:
        value: Any = found.get((piece, row))
        for key in keys:
            value = None if value is None else value[key]
        return value

    warm = min((t["wh_warm"] for t in ninety if t["wh_warm"] is not None), default=None)
    # the arms find their programs in the cache, where this piece has put them
    fresh = of("train_512", "train", "ready_cache_hits") == 0
    ready = of("train_512", "train", "ready_wh") if fresh else None
    cold = None if warm is None or ready is None else warm + ready

    one, vmap = (
        of("norms", name, "images_per_s", "median")
        for name in ("one pass, float32", "vmap(grad), float32")
    )
    exact = "facility location, exact", "facility location, lazy"
    facility = [of("subsets", name, "seconds") for name in exact]
    wanted = [
        ("MFU, batch 512", of("train_512", "train", "mfu"), ">=", 0.36),
        ("images/s, ours / PyTorch, 512", pair.get("images/s"), ">=", 1.2),
        ("images/Wh, ours / PyTorch, 512", pair.get("images/Wh"), ">=", 1.2),
        (
            "s, all scores of 50,000",
            of("scores", "all, bfloat16", "seconds", "median"),
            "<=",
            0.25,
        ),
        (
            "s, gradient norms of 50,000",
            of("norms", "one pass, float32", "seconds", "median"),
            "<=",
            0.8,
        ),
        ("gradient norms / vmap(grad)", one / vmap if one and vmap else None, ">=", 5),
        (
            "s, facility location, 10 x 5,000",
            min((s for s in facility if s is not None), default=None),
            "<=",
            0.3,
        ),
        ("Wh warm to 90 %, best arm", warm, "<=", 0.7),
        ("Wh cold to 90 %: that and getting ready", cold, "<=", 1.5),
    ]
    return [
        {
            "goal": name,
            "wanted": f"{sign} {bound:g}",
            "measured": value,
            "met": "not measured"
            if value is None
            else ("yes" if (value >= bound) == (sign == ">=") else "no"),
        }
        for name, value, sign, bound in wanted
    ]


def table(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """Lay lines out in Markdown; columns in the order in which they come up."""
    lines = list(lines)
    columns = list(dict.fromkeys(key for line in lines for key in line))
    if not lines:
        return ["Nothing measured."]
    return [
        f"| {' | '.join(columns)} |",
        "|" + " --- |" * len(columns),
        *(
            f"| {' | '.join(text(line.get(column)) for column in columns)} |"
            for line in lines
        ),
    ]


def text(value: Any) -> str:
    """Return a value as a cell: a spread as median (least to most)."""
    match value:
        case None:
            return ""
        case {"median": middle, "min": least, "max": most}:
            return f"{text(middle)} ({text(least)} to {text(most)})"
        case bool() | str():
            return " ".join(str(value).replace("|", "/").split())
        case float():
            return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
        case list() | tuple():
            return ", ".join(map(text, value))
        case dict():
            return ", ".join(f"{key} {text(each)}" for key, each in value.items())
        case _:
            return str(value)
