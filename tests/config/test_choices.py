from dpet_jax.config.choices import choices
from dpet_jax.methods.one_shot import SELECTORS
from dpet_jax.scores.registry import lookup, selectable_scores


def test_every_choice_has_a_line_of_its_own():
    lines = [line for entries in choices().values() for line in entries.values()]
    assert all(
        line.endswith((".", "?")) or ":" in line or len(line) > 10 for line in lines
    )
    assert len(set(lines)) == len(lines)


def test_choices_are_what_configs_accept():
    found = {title.split()[0]: set(entries) for title, entries in choices().items()}
    assert found["methods"] == {
        *("standard", "rs2", "active_learning", "dpet", "coreset", "one_shot"),
        *("infobatch", "loss_threshold", "epsilon_greedy"),
        *("selective_backprop", "stale_selective_backprop", "dpet_anneal"),
    }
    assert found["data"] == {
        "digits",
        "folder",
        "cifar",
        "parquet",
        "npz",
        "idx",
        "tfds",
    }
    assert found["schedules"] == {
        *("constant", "linear", "cosine", "step", "triangular")
    }
    assert found["replays"] == {
        *("all", "none", "chunk", "uniform", "balanced", "herding", "loss", "reservoir")
    }
    assert found["scores"] == set(selectable_scores())
    assert found["selectors"] == {*SELECTORS, "forgetting", "stratified"}


def test_a_score_is_described_by_its_kernel():
    found = next(
        lines for title, lines in choices().items() if title.startswith("scores ")
    )
    assert found["random"] == "No score: the control that picks at random."
    docstring = lookup("margin").kernel().__doc__
    assert found["margin"] == docstring.partition("\n")[0]
