"""What a report gives to others: tidy tables, and what a paper takes of it."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fakes.runs import end_suite, fake_run, grid_suite, modelled, small_suite

from dpet_jax.report.column import column_tables
from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.equal_accuracy import end_table
from dpet_jax.report.formats import to_csv
from dpet_jax.report.page import answer, write_report
from dpet_jax.report.plots.style import new_figure, to_pdf
from dpet_jax.report.table import cost_table
from dpet_jax.report.tidy import IDENTITY, tidy_tables

# tidy tables


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return small_suite(tmp_path_factory.mktemp("suite"), wh_per_epoch=0.5)


def tables(folder):
    comparison = read_comparison([folder])
    found = tidy_tables(comparison, folder).items()
    return {name: [*csv.DictReader(io.StringIO(text))] for name, text in found}


def test_there_is_a_line_for_each_run_phase_evaluation_and_target(suite):
    found = tables(suite)
    assert {name: len(lines) for name, lines in found.items()} == {
        "runs.csv": 4 * 2,
        "phases.csv": 4 * 2 * 8,
        "curves.csv": 4 * 2 * 4,
        "targets.csv": 4 * 2 * 2,
    }
    for lines in found.values():
        assert tuple(lines[0])[: len(IDENTITY)] == IDENTITY


def test_tables_can_be_joined_by_what_identifies_a_run(suite):
    found = tables(suite)
    runs = [tuple(line[name] for name in IDENTITY) for line in found["runs.csv"]]
    assert len(runs) == len({*runs})
    for lines in found.values():
        assert {tuple(line[name] for name in IDENTITY) for line in lines} == {*runs}
    assert all((suite / run[-1] / "summary.json").exists() for run in runs)


def test_numbers_are_those_of_the_run_and_not_rounded(suite):
    found = tables(suite)
    (run,) = [r for r in found["runs.csv"] if r["folder"] == "margin/seed1"]
    assert float(run["epochs"]) == 2.2
    assert float(run["test_accuracy"]) == 0.92 - 0.01 + 0.002
    # 19.5 s of training, 2.5 of choosing, 0.05 Wh a second
    assert float(run["seconds_warm"]) == pytest.approx(22.0)
    assert float(run["wh_warm"]) == pytest.approx(1.1)
    mine = [p for p in found["phases.csv"] if p["folder"] == "margin/seed1"]
    seconds = {p["phase"]: float(p["seconds"]) for p in mine}
    assert (seconds["train"], seconds["select"]) == pytest.approx((19.5, 2.5))
    curve = [c for c in found["curves.csv"] if c["folder"] == "margin/seed1"]
    assert [float(c["epochs"]) for c in curve] == pytest.approx([0.55, 1.1, 1.65, 2.2])
    assert float(curve[-1]["accuracy"]) == 0.92


def test_a_target_that_was_not_reached_has_a_line_without_costs(tmp_path):
    fake_run(tmp_path / "a" / "seed0", [(1.0, 0.7)], targets=(0.6, 0.8))
    reached, missed = tables(tmp_path)["targets.csv"]
    assert (reached["reached"], reached["epochs"]) == ("1", "1.0")
    assert (missed["target"], missed["reached"]) == ("0.8", "0")
    assert {missed[key] for key in ("epochs", "wh", "accuracy")} == {""}


def test_the_keys_of_a_grid_are_columns_of_every_table(tmp_path):
    found = tables(grid_suite(tmp_path, batches=(64,)))
    for lines in found.values():
        assert {line["model.scale"] for line in lines} == {"0.5", "1.0", "1.4"}


def test_a_name_that_begins_like_a_formula_is_disarmed(tmp_path):
    fake_run(tmp_path / "seed0", method_label="=1+1")
    assert tables(tmp_path)["runs.csv"][0]["method"] == "'=1+1"


# tables for a paper


def latex(folder, by="epochs"):
    comparison = read_comparison([folder])
    table = cost_table(comparison.crossing, by)
    return column_tables(comparison, table, end_table(comparison, by))


def check_latex(text):
    """Check what a compiler would: environments, braces, as many cells as columns."""
    assert text.count("{") == text.count("}")
    opened = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    assert opened == [
        ("begin", "table"),
        ("begin", "tabular"),
        ("end", "tabular"),
        ("end", "table"),
    ]
    (columns,) = re.findall(r"\\begin\{tabular\}\{@\{\}(.*)@\{\}\}", text)
    body = text.partition("\\toprule\n")[2].partition("\\bottomrule")[0]
    rules = ("\\midrule", "\\addlinespace[2pt]")
    lines = [line for line in body.splitlines() if line not in rules]
    assert lines
    for line in lines:
        assert line.endswith(" \\\\")
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
    for rule in (
        "\\toprule",
        "\\midrule",
        "\\bottomrule",
        "\\caption{",
        "\\label{tab:",
    ):
        assert rule in text
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)&", line[:-3])] for line in lines
    ]


def test_costs_are_medians_with_their_range_below(suite):
    found = latex(suite)
    assert {*found} == {"cost.tex", "results.tex"}
    lines = check_latex(found["cost.tex"])
    assert lines[0] == ["method", r"60 \%", r"80 \%"]
    place = [line[0] for line in lines].index("tuned")
    assert lines[place][1:] == ["1.05", "3.15"]
    assert lines[place + 1] == [
        "",
        r"\scriptsize [1.00, 1.10]",
        r"\scriptsize [3.00, 3.30]",
    ]
    assert "median over seeds and, in brackets, the range" in found["cost.tex"]
    assert "\\label{tab:a-suite-cost}" in found["cost.tex"]


def test_results_are_means_with_standard_deviations(suite):
    lines = check_latex(latex(suite)["results.tex"])
    place = [line[0] for line in lines].index("margin")
    # 0.910 and 0.912; 2.0 and 2.2 epochs
    assert lines[place] == ["margin", r"$91.1 \pm 0.1$", r"$2.10 \pm 0.141$", "12"]


def test_a_cell_that_not_all_seeds_reached_says_how_many_did(tmp_path):
    for seed, end in enumerate((0.9, 0.7, 0.9)):
        fake_run(tmp_path / "a" / f"seed{seed}", [(2.0, end)], seed=seed)
    lines = check_latex(latex(tmp_path)["cost.tex"])
    assert lines[1:] == [
        ["dpet", "2.00", "2.00"],
        # seeds that agree have no range
        ["", "", r"\scriptsize 2/3"],
    ]


def test_more_targets_than_fit_into_a_column_follow_below(tmp_path):
    targets = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    name = f"a & b_c, 50 % {30 * 'x'}"
    fake_run(tmp_path / "seed0", targets=targets, method_label=name)
    lines = check_latex(latex(tmp_path)["cost.tex"])
    assert [line[1:] for line in lines if line[0] == "method"] == [
        [r"10 \%", r"20 \%", r"30 \%"],
        [r"40 \%", r"50 \%", r"60 \%"],
    ]
    # and a long name goes on below
    first, second, *_ = [line[0] for line in lines[1:]]
    assert (first, second[:10]) == (r"a \& b\_c, 50 \%", r"\enspace x")


_PAPER = r"""
\documentclass[10pt,twocolumn]{article}
\usepackage{booktabs,graphicx}
\begin{document}
\input{cost}\input{results}
\begin{figure}[t]\includegraphics[width=\linewidth]{plot}\end{figure}
\end{document}
"""


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no LaTeX here")
def test_a_paper_with_tables_and_a_plot_compiles_and_nothing_stands_out(tmp_path):
    for n, name in enumerate(("DPET in one schedule (loss), kept", "a_b & 50 % ^ ~")):
        for seed in range(3):
            course = [(7.0 + n + seed / 9, 0.65), (11.0 + n + seed / 7, 0.95)]
            facts = {"seed": seed, "targets": (0.1, 0.6, 0.7, 0.8, 0.9)}
            fake_run(tmp_path / f"{n}{seed}", course, method_label=name, **facts)
    for file, text in latex(tmp_path).items():
        (tmp_path / file).write_text(text)
    figure = new_figure(2.0)
    figure.add_subplot().plot([1, 2])
    (tmp_path / "plot.pdf").write_bytes(to_pdf(figure))
    (tmp_path / "paper.tex").write_text(_PAPER)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000


def test_runs_that_are_read_at_their_end_have_ratios_and_a_line_for_each_length(
    tmp_path,
):
    found = latex(end_suite(tmp_path))
    assert {*found} == {"equal.tex", "results.tex"}
    lines = check_latex(found["equal.tex"])
    place = [line[0] for line in lines].index("saving")
    assert lines[place] == ["saving", r"\textbf{0.80}", r"\textbf{0.80}"]
    assert lines[place + 1][1] == r"\scriptsize [0.80, 0.80]"
    names = [line[0] for line in check_latex(found["results.tex"])]
    assert names[1:5] == ["standard, 2", "standard, 4", "standard, 8", "standard, 16"]


# little to report on


@pytest.fixture
def quick(monkeypatch):
    """Draw no pixels, which takes most of the time and shows the same."""
    for form in ("png", "pdf"):
        monkeypatch.setattr(f"dpet_jax.report.plots.style.to_{form}", lambda _: b"")


def page(folder, tmp_path):
    comparison = read_comparison([folder])
    by = comparison.natural_cost()
    out = tmp_path / "out"
    files = write_report(comparison, by, out, paper=True)
    held = {path.relative_to(out).as_posix() for path in files}
    return answer(comparison, by), held, (out / "report.html").read_text(), out


def test_a_paper_gets_each_plot_in_three_forms_and_its_tables(tmp_path):
    fake_run(tmp_path / "a" / "seed0")
    _, held, _, out = page(tmp_path, tmp_path)
    plots = {Path(name).stem for name in held if name.startswith("plots/")}
    assert len(plots) >= 3
    assert {name for name in held if name.startswith("paper/")} == {
        *("paper/cost.tex", "paper/results.tex"),
        *(f"paper/{plot}.{form}" for plot in plots for form in ("pdf", "svg", "png")),
    }
    pdf = (out / "paper" / "accuracy.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    # the fonts are outlines, and nothing says when it was made
    assert b"/Type3" not in pdf
    assert b"/CreationDate" not in pdf
    width = float(re.search(rb"/MediaBox \[ ?0 0 ([0-9.]+)", pdf)[1])
    assert width == pytest.approx(3.4 * 72, abs=0.1)


@pytest.mark.usefixtures("quick")
def test_without_a_target_the_page_begins_with_the_ends_and_says_what_is_missing(
    tmp_path,
):
    for name in "ab":
        fake_run(tmp_path / name / "seed0", targets=())
    told, held, text, _ = page(tmp_path, tmp_path)
    assert told.startswith("At the end of the runs\n")
    assert "88.0 %" in told
    assert 'id="cost"' not in text
    assert "no run had one to reach; list some in targets" in text
    assert "paper/results.tex" in held
    assert "paper/cost.tex" not in held


@pytest.mark.usefixtures("quick")
def test_one_seed_has_no_spread_and_says_so(tmp_path):
    fake_run(tmp_path / "a" / "seed0")
    fake_run(tmp_path / "b" / "seed0", [(1.0, 0.5), (2.0, 0.65)])
    told, _, text, out = page(tmp_path, tmp_path)
    assert told.splitlines()[2].split() == ["dpet,", "a", "2.00", "3.00"]
    assert 'id="cost"' in text
    for name in ("cost", "results"):
        table = (out / "paper" / f"{name}.tex").read_text()
        check_latex(table)
        assert "One seed, so that no spread is known." in table
        assert "\\pm" not in table
        assert "[" not in table.partition("\\toprule")[2]


@pytest.mark.usefixtures("quick")
def test_one_method_is_reported_without_a_rival(tmp_path):
    for seed in range(3):
        fake_run(
            tmp_path / "a" / f"seed{seed}", seed=seed, test_accuracy=0.7 + seed / 50
        )
    told, held, text, out = page(tmp_path, tmp_path)
    assert told.splitlines()[-1].split() == ["dpet", "2.00", "3.00"]
    assert "<strong>" not in text
    assert "plots/accuracy.svg" in held
    assert r"$72.0 \pm 2.0$" in (out / "paper" / "results.tex").read_text()


def test_wh_of_a_model_stand_only_beside_their_interval(tmp_path):
    folder = fake_run(tmp_path / "a", wh_per_epoch=1.0, quality="modelled")
    modelled(folder)
    found = tables(tmp_path)
    (run,) = found["runs.csv"]
    assert [run[f"wh_total{end}"] for end in ("", "_low", "_high")] == ["4", "1", "9"]
    for name in ("runs.csv", "curves.csv", "targets.csv"):
        assert {(line["wh"], line["wh_warm"]) for line in found[name]} == {("", "")}
    told = {
        p["phase"]: (p["wh"], p["wh_low"], p["wh_high"]) for p in found["phases.csv"]
    }
    assert told["train"] == ("3.0", "1", "6")
    assert told["eval"] == ("", "", "")
    table = to_csv(read_comparison([tmp_path]), tmp_path)
    assert {line["wh_warm"] for line in csv.DictReader(io.StringIO(table))} == {""}
