import pytest

from dpet_jax.report.paper import PAPER_TARGETS, PAPER_WH, paper_ratio


def test_ratio_is_to_standard_at_the_same_target():
    assert paper_ratio("dpet_margin", 0.9) == pytest.approx(196 / 1018)
    assert paper_ratio("standard", 0.6) == 1.0


@pytest.mark.parametrize(
    ("row", "target"), [(None, 0.9), ("rs2_5", 0.9), ("rs2_5", 0.92), ("nobody", 0.9)]
)
def test_what_the_paper_lacks_is_none(row, target):
    assert paper_ratio(row, target) is None


def test_every_row_has_every_target():
    assert {len(row) for row in PAPER_WH.values()} == {len(PAPER_TARGETS)}
