"""Tables as CSV."""

import csv

from fakes.runs import events_of, fake_run, fake_suite, variant

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.formats import to_csv


def test_csv_has_numbers_as_they_are_and_no_formulas_of_users(tmp_path):
    for folder in ("-2+3", "plain"):
        fake_run(tmp_path / folder, [(1.0, 0.5), (2.0, 0.7)], targets=(0.6,))
    rows = [
        variant("a", {"0.6": ["-2+3"]}, label='=HYPERLINK("http://x","y")'),
        variant("@b", {"0.6": ["plain"]}, label="-0.5"),
        variant("c", {"0.6": ["plain"]}, label="a -0.5"),
    ]
    suite = fake_suite(tmp_path, rows)
    lines = to_csv(read_comparison([suite], "epochs"), tmp_path).splitlines()
    found = list(csv.DictReader(lines))
    assert [row["method"] for row in found] == [
        '\'=HYPERLINK("http://x","y")',
        "'-0.5",
        "a -0.5",
    ]
    assert [row["key"] for row in found] == ["a", "'@b", "c"]
    assert found[0]["folder"] == "'-2+3"
    (event,) = (e for e in events_of(tmp_path / "plain") if e["event"] == "target")
    assert float(found[1]["epochs"]) == event["epochs"]
    assert float(found[1]["accuracy"]) == event["accuracy"]
