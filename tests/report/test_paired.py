import pytest
from fakes.runs import fake_run, fake_suite, small_suite, variant

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.paired import holm, paired_differences


def pick(found, key, role, target):
    return next(
        one
        for one in found
        if (one.row.key, one.role, one.target) == (key, role, target)
    )


def many_seeds(tmp_path, gains, seeds=6):
    """Write a baseline and methods that gain so much on it with each seed."""
    names = {}
    for key, gain in {"base": lambda _: 0.0, **gains}.items():
        for seed in range(seeds):
            accuracy = 0.8 + 0.001 * seed + gain(seed)
            fake_run(tmp_path / key / str(seed), seed=seed, test_accuracy=accuracy)
        names[key] = [f"{key}/{seed}" for seed in range(seeds)]
    variants = [variant(key, {"0.6": held}) for key, held in names.items()]
    return read_comparison([fake_suite(tmp_path, variants, {"random": "base"})])


def test_differences_are_seed_by_seed_method_less_baseline(tmp_path):
    found = paired_differences(read_comparison([small_suite(tmp_path)]), "epochs")
    accuracy = pick(found, "margin", "tuned", None)
    assert accuracy.differences == pytest.approx((0.01, 0.01))
    cost = pick(found, "margin", "random", 0.8)
    margin, control = (1.5, 1.65), (2.25, 2.475)
    assert cost.differences == pytest.approx(
        [a - b for a, b in zip(margin, control, strict=True)]
    )
    assert cost.of.low <= cost.of.median <= cost.of.high < 0
    assert not any(one.row.key == one.role for one in found)


def test_only_seeds_that_both_have_are_paired(tmp_path):
    suite = small_suite(tmp_path)
    (tmp_path / "tuned/seed0/summary.json").unlink()
    found = paired_differences(read_comparison([suite]), "epochs")
    assert len(pick(found, "margin", "tuned", None).differences) == 1


def test_seed_that_never_got_there_is_no_pair(tmp_path):
    suite = small_suite(tmp_path)
    fake_run(tmp_path / "margin/seed1", [(9.0, 0.7)], seed=1)
    found = paired_differences(read_comparison([suite]), "epochs")
    assert len(pick(found, "margin", "tuned", 0.8).differences) == 1
    assert len(pick(found, "margin", "tuned", 0.6).differences) == 2


def test_five_pairs_are_not_testable_and_six_are(tmp_path):
    gains = {"m": lambda seed: 0.01 * (seed + 1)}
    for seeds, testable in ((5, False), (6, True)):
        comparison = many_seeds(tmp_path / str(seeds), gains, seeds)
        one = pick(paired_differences(comparison, "epochs"), "m", "random", None)
        assert (one.p is not None) is testable
    # all six of one sign: 2 of the 64 patterns are as extreme
    assert one.p == pytest.approx(2 / 64)


def test_correction_counts_every_method_of_a_column(tmp_path):
    gains = {
        "up": lambda seed: 0.01 * (seed + 1),
        "down": lambda seed: -0.01 * (seed + 1),
        "same": lambda _: 0.0,
    }
    found = paired_differences(many_seeds(tmp_path, gains), "epochs")
    p = {key: pick(found, key, "random", None).p for key in gains}
    assert p == pytest.approx({"up": 3 / 32, "down": 3 / 32, "same": 1.0})


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, never falling
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
