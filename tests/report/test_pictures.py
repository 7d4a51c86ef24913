from fakes.runs import fake_run, small_suite

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.plots.pictures import missing, pictures
from dpet_jax.report.table import cost_table


def test_everything_there_is_to_show_is_drawn_under_its_own_name(tmp_path):
    trace = [{"start_s": 0.0, "end_s": 9.0, "w": {"gpu:0": 100.0}}]
    comparison = read_comparison([small_suite(tmp_path, trace=trace)])
    found = pictures(comparison, cost_table(comparison, "epochs"))
    drawn = [picture for picture in found if picture.figure is not None]
    assert {picture.name for picture in drawn} >= {
        *("accuracy", "cost_to_accuracy", "parts", "pareto", "growth", "balance"),
        *("gallery_04_margin", "power_01_standard"),
    }
    assert len({picture.name for picture in found}) == len(found)
    assert drawn[-1].heading == "Power: margin"


def test_what_is_missing_is_told_with_the_reason_alike_ones_together(tmp_path):
    for name in ("a", "b"):
        fake_run(tmp_path / name / "seed0", [(1.0, 0.5)])
    comparison = read_comparison([tmp_path])
    told = missing(pictures(comparison, cost_table(comparison, "epochs")))
    assert told == [
        "Cost to reach an accuracy: no method's median seed reached a target",
        "Growth of the coreset: no run chose a coreset",
        "Class balance of the coreset: no run chose a coreset",
        "First and last examples chosen: the run chose no coreset (a; b)",
        "Power: the run recorded no power (a; b)",
    ]


def test_names_of_files_are_safe_whatever_a_key_holds(tmp_path):
    suite = small_suite(tmp_path)
    text = (suite / "suite.json").read_text()
    (suite / "suite.json").write_text(
        text.replace('"key": "margin"', '"key": "../a b"')
    )
    comparison = read_comparison([suite])
    names = [p.name for p in pictures(comparison, cost_table(comparison, "epochs"))]
    assert "gallery_04__a_b" in names
