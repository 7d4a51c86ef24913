"""Predictions as a table."""

import csv
import io

import numpy as np
import pytest

from dpet_jax.errors import UserError
from dpet_jax.run.predict import Prediction

CLASSES = ("=cmd|' /C calc'!A0", "-0.5", "plain")


@pytest.fixture
def prediction():
    return Prediction(
        ["@a.png", "b.png", "-1"],
        np.array([0, 1, 2], np.int32),
        np.array([[0.5, 0.25, 0.25], [0, 1, 0], [0, 0, 1]], np.float32),
        CLASSES,
        None,
    )


def test_names_of_files_and_classes_are_no_formulas(prediction):
    header, *rows = csv.reader(io.StringIO(prediction.to_csv()))
    assert header == ["image", "label", "class", *(f"p_{name}" for name in CLASSES)]
    assert rows == [
        ["'@a.png", "0", "'=cmd|' /C calc'!A0", "0.500000", "0.250000", "0.250000"],
        ["b.png", "1", "'-0.5", "0.000000", "1.000000", "0.000000"],
        ["'-1", "2", "plain", "0.000000", "0.000000", "1.000000"],
    ]


def test_a_table_that_cannot_be_written_is_an_error_of_the_users(prediction, tmp_path):
    for path in (tmp_path, tmp_path / "no" / "x.csv", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot be written"):
            prediction.write_csv(path)
