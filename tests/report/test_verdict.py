"""What a comparison comes to, in words, and what it must not claim."""

import pytest
from fakes.runs import end_suite, fake_run, fake_suite, small_suite, variant

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.equal_accuracy import Ratio
from dpet_jax.report.page import answer, write_report
from dpet_jax.report.verdict import _paid, verdict


def said(folder, by="epochs"):
    return [*verdict(read_comparison([folder]), by)]


def pair(folder, costs, *, role="standard", control=None):
    """Write a suite in which each seed of a method reaches 80 % after some epochs."""
    rows = {"base": [4.0] * len(costs), "mine": costs}
    rows |= {} if control is None else {"chance": control}
    for key, epochs in rows.items():
        for seed, cost in enumerate(epochs):
            looks = [(cost, 0.9)] if cost else [(9.0, 0.7)]
            fake_run(folder / key / f"seed{seed}", looks, seed=seed, targets=(0.8,))
    names = {key: [f"{key}/seed{s}" for s in range(len(costs))] for key in rows}
    variants = [variant(key, {"0.8": held}) for key, held in names.items()]
    roles = {role: "base"} | ({} if control is None else {"random": "chance"})
    return fake_suite(folder, variants, roles)


def test_where_every_seed_is_below_all_others_it_is_said(tmp_path):
    assert said(small_suite(tmp_path)) == [
        "To 80 %: margin was 50 % cheaper than tuned (1.58 against 3.15 epochs, "
        "medians of 2 seeds); random 25 % cheaper.",
        "Every seed of it took less than every seed of any other method.",
    ]


def test_seeds_that_overlap_decide_nothing(tmp_path):
    first, second = said(pair(tmp_path, [2.0, 5.0, 3.0]))
    assert first.startswith(
        "To 80 %: mine was 25 % cheaper than base (3.00 against 4.00"
    )
    assert (
        second == "Its seeds and those of others overlap, so that nothing is decided."
    )


def test_a_control_that_costs_no_more_decides_against_it(tmp_path):
    first, second = said(pair(tmp_path, [2.0, 2.0], control=[1.0, 2.5]))
    assert first.endswith("; chance 56 % cheaper.")
    assert "nothing is decided" in second


def test_one_seed_decides_nothing(tmp_path):
    first, second = said(pair(tmp_path, [1.0], control=[0.0]))
    assert first.endswith("epochs, one seed); chance never got there.")
    assert second == "With one seed nothing is decided."


def test_of_a_control_that_has_not_run_nothing_is_said(tmp_path):
    first, second = said(pair(tmp_path, [1.0], control=[]))
    assert first.endswith("epochs, one seed).")
    assert second == "With one seed nothing is decided."


def test_a_method_that_costs_more_is_said_to(tmp_path):
    first, _ = said(pair(tmp_path, [8.0, 8.0]))
    assert first.startswith("To 80 %: mine was 2.00 times as dear as base")


def test_without_a_baseline_or_a_rival_that_got_there_nothing_is_said(tmp_path):
    assert said(pair(tmp_path / "a", [0.0, 0.0])) == []
    assert said(pair(tmp_path / "b", [1.0, 1.0], role="random")) == []


def test_runs_read_at_their_end_are_told_by_ratio_and_range(tmp_path):
    assert said(end_suite(tmp_path)) == [
        "At 88 %: saving is 20 % cheaper than standard with the same network "
        "(\N{MINUS SIGN}20 to \N{MINUS SIGN}20 %); chance 25 % dearer (+25 to +25 %).",
        "It saves, and by choosing: the random control costs more.",
    ]


@pytest.mark.parametrize(
    ("best", "control", "words"),
    [
        (Ratio(0.8, None, None), None, "too few seeds"),
        (Ratio(0.8, 0.6, 1.0), None, "open whether it saves"),
        (Ratio(1.2, 1.1, 1.3), None, "saves nothing"),
        (Ratio(0.8, 0.7, 0.9), None, "without a random control"),
        (Ratio(0.8, 0.7, 0.9), Ratio(1.0, 0.91, 1.1), "by choosing"),
        (Ratio(0.8, 0.7, 0.9), Ratio(0.9, 0.85, 1.1), "may be by dropping"),
    ],
)
def test_no_more_is_claimed_than_ranges_allow(best, control, words):
    assert words in _paid(best, control)


def test_terminal_and_page_begin_with_the_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr("dpet_jax.report.plots.pictures.pictures", lambda *_: [])
    comparison = read_comparison([pair(tmp_path, [1.0, 1.1])])
    page = write_report(comparison, "epochs", tmp_path / "out")[0].read_text()
    for sentence in verdict(comparison, "epochs"):
        assert f"<p>{sentence}</p>" in page
        assert " ".join(sentence.split()) in " ".join(
            answer(comparison, "epochs").split()
        )
    assert page.index('id="answer"') < page.index('id="cost"')
