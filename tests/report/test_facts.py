import pytest
from fakes.runs import fake_run, small_suite

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.facts import (
    deviations,
    relative,
    setting,
    sources_sheet,
    statistics_sheets,
    tuning_sheet,
)
from dpet_jax.report.paired import paired_differences
from dpet_jax.report.printed import NONE


def told(tmp_path, **facts):
    fake_run(tmp_path / "m" / "seed0", **facts)
    return read_comparison([tmp_path])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data set", "digits, fingerprint f00df00d"),
        ("examples", "1,000 train, 100 validation, 200 test"),
        ("evaluation grid", "every 1 full-pass equivalents on 100 validation examples"),
        ("device", "1 x cpu (cpu), 2 CPU cores"),
        ("versions", "python 3.11.7, dpet-jax 0.1.0"),
        ("energy", "not measured; without cpu: no sensor"),
        ("compiling", "4.00 s over all 1 runs"),
    ],
)
def test_setting_holds_what_the_runs_recorded(tmp_path, name, text):
    assert text in dict(setting(told(tmp_path), "epochs"))[name]


def test_setting_tells_quality_and_parts_of_the_energy(tmp_path):
    comparison = told(tmp_path, wh_per_epoch=1.0, quality="modelled")
    assert "modelled, gpu included" in dict(setting(comparison, "wh"))["energy"]


def test_varieties_are_all_told(tmp_path):
    fake_run(tmp_path / "a" / "seed0")
    fake_run(tmp_path / "b" / "seed0", device="TPU v9")
    device = dict(setting(read_comparison([tmp_path]), "epochs"))["device"]
    assert "1 x cpu" in device
    assert "; or 1 x TPU v9" in device


def test_honest_run_departs_from_nothing(tmp_path):
    assert deviations(told(tmp_path)) == []


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"targets_on": "test"}, "on the test split"),
        ({"compat": "artifact"}, "compat: artifact"),
        ({"label_noise": 0.2}, "20 % of the training labels are noise (1 of 1 runs)"),
        (
            {"lost": {"seconds": 12, "visits": 3456, "wh": None}},
            "fake, seed 0: a crash lost 12.0 s, 3,456 visits",
        ),
    ],
)
def test_departure_is_told(tmp_path, facts, text):
    (sentence,) = deviations(told(tmp_path, **facts))
    assert text in sentence


def test_tuning_tells_trials_seeds_cost_and_choices(tmp_path):
    sheet = tuning_sheet(read_comparison([small_suite(tmp_path)]), "epochs")
    (row,) = sheet.rows
    assert [entry.main for entry in row] == [
        *("tuned", "6", "100, 101", "70.0", "peak 0.2, 4 epochs", NONE)
    ]
    assert sheet.header[-2:] == ("for 60 %", "for 80 %")
    assert tuning_sheet(told(tmp_path / "loose"), "epochs") is None


def test_statistics_tell_pairs_and_that_they_cannot_be_tested(tmp_path):
    comparison = read_comparison([small_suite(tmp_path)])
    tuned, random = statistics_sheets(
        paired_differences(comparison, "epochs"), "epochs"
    )
    assert [row[0].main for row in tuned.rows] == ["standard", "random", "margin"]
    assert "random control" in random.title
    row = tuned.rows[2]
    assert row[1].main == "+1.0"
    assert row[1].small[1:] == ("2 pairs", "not testable")
    assert row[3].main == "\N{MINUS SIGN}1.58"
    assert "Holm" in tuned.notes[0]


def test_statistics_print_p_values(tmp_path):
    comparison = read_comparison([small_suite(tmp_path)])
    found = [
        one._replace(p=0.03456) for one in paired_differences(comparison, "epochs")
    ]
    assert "p = 0.0346" in statistics_sheets(found, "epochs")[0].rows[0][1].small


def test_every_run_is_traced_to_its_folder_from_the_report(tmp_path):
    comparison = read_comparison([small_suite(tmp_path / "suite")])
    sheet = sources_sheet(comparison, tmp_path / "suite" / "report")
    assert [row[4].main for row in sheet.rows] == [
        f"../{key}/seed{seed}"
        for key in ("standard", "tuned", "random", "margin")
        for seed in (0, 1)
    ]
    assert sheet.rows[0][2].main == "60 %, 80 %, the end"
    assert relative(tmp_path / "a", tmp_path) == "a"
