import csv
import io

from fakes.runs import events_of, fake_run, small_suite

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.formats import (
    escape_latex,
    escape_markdown,
    to_csv,
    to_latex,
    to_markdown,
)
from dpet_jax.report.sheets import Entry, Sheet

SHEET = Sheet(
    "name",
    "A | title",
    ("method", "90 %"),
    (
        (Entry("<b>a_b</b>"), Entry("1.00", ("1 of 2", "x | y"), strong=True)),
        (Entry("c"), Entry("2.00")),
    ),
    ("A note: 5 % & more.",),
)


def test_markdown_table_has_as_many_columns_in_every_line():
    lines = [line for line in to_markdown(SHEET).splitlines() if line.startswith("|")]
    assert len(lines) == 4
    bars = [line.replace(r"\|", "").count("|") for line in lines]
    assert bars == [3] * 4
    assert "**1.00** (1 of 2; x \\| y)" in lines[2]
    assert "&lt;b&gt;a\\_b&lt;/b&gt;" in lines[2]


def test_markdown_keeps_to_one_line():
    assert escape_markdown("a\nb  `c`") == "a b \\`c\\`"


def test_latex_escapes_what_it_would_read():
    text = escape_latex("50 % & a_b #1 $x$ {y} ~ ^ \\")
    assert text.startswith(r"50 \% \& a\_b \#1 \$x\$ \{y\} \textasciitilde{}")
    assert text.endswith(r"\textasciicircum{} \textbackslash{}")


def test_latex_table_is_one_of_booktabs():
    lines = to_latex(SHEET).splitlines()
    assert lines[1] == r"\begin{tabular}{lr}"
    assert lines[3] == r"method & 90 \% \\"
    assert lines[5].startswith(r"<b>a\_b</b> & \textbf{1.00} {\scriptsize (1 of 2; x")
    assert [line for line in lines if "rule" in line] == [
        *("\\toprule", "\\midrule", "\\bottomrule")
    ]
    assert lines[0].startswith("% A note")


def test_csv_gives_the_numbers_back_unrounded(tmp_path):
    comparison = read_comparison([small_suite(tmp_path, wh_per_epoch=0.3)])
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison, tmp_path))))
    assert len(rows) == 4 * 2 * 2
    for row in rows:
        found = next(one for one in comparison.rows if one.key == row["key"])
        run = next(
            run
            for run in found.by_target[float(row["target"])]
            if run.seed == int(row["seed"])
        )
        event = next(
            event
            for event in events_of(run.folder)
            if event["event"] == "target" and event["target"] == float(row["target"])
        )
        assert float(row["epochs"]) == event["epochs"]
        assert int(float(row["visits"])) == event["visits"]
        assert float(row["test_accuracy"]) == event["test_accuracy"]
        for name in ("wh", "seconds"):
            spent = event[name]
            warm = spent["data"] + spent["select"] + spent["train"]
            assert float(row[f"{name}_warm"]) == warm
        assert tmp_path / row["folder"] == run.folder


def test_csv_leaves_empty_what_was_not_reached_or_measured(tmp_path):
    fake_run(tmp_path / "m" / "seed0", [(1.0, 0.7)])
    rows = list(
        csv.DictReader(io.StringIO(to_csv(read_comparison([tmp_path]), tmp_path)))
    )
    assert [row["reached"] for row in rows] == ["1", "0"]
    assert [row["wh_warm"] for row in rows] == ["", ""]
    assert [row["epochs"] for row in rows] == ["1.0", ""]
