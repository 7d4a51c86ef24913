"""Images that grow as training goes on: the ladder, its programs, whole runs."""

from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from dpet_jax.config.load import validate
from dpet_jax.errors import UserError
from dpet_jax.methods.base import Span
from dpet_jax.pretrained.pool import ModelPool
from dpet_jax.run import experiment
from dpet_jax.run.build import build_data
from dpet_jax.run.export import export
from dpet_jax.run.folder import read_events
from dpet_jax.run.load import load_run
from dpet_jax.run.predict import probabilities
from dpet_jax.suite.dry_run import estimate
from dpet_jax.training.resolution import Ladder, ResolutionConfig


def test_sides_grow_by_a_step_in_equal_parts_of_the_schedule():
    section = ResolutionConfig(start=128, step=32, begin_at=0.2, end_at=0.8)
    ladder = section.ladder(224)
    assert ladder.sides == (128, 160, 192, 224)
    assert ladder.starts == pytest.approx((0, 0.4, 0.6, 0.8))
    # the last step may be shorter, and there may be one alone
    assert section.ladder(200).sides == (128, 160, 192, 200)
    assert section.ladder(130) == Ladder((128, 130), (0.0, 0.8))


def test_side_depends_on_the_place_alone_and_changes_where_its_visits_are_over():
    ladder = ResolutionConfig(start=4, step=2, end_at=0.7).ladder(8)
    for span in (Span(0, 1000), Span(300, 1000), Span(7, 13)):
        place, seen = 0, []
        while span.start + place < span.horizon + 5:
            side, left = ladder.at(span, place)
            ahead = left or 10**6
            # it stays until then
            assert ladder.at(span, place + min(ahead - 1, 10**4))[0] == side
            seen.append((side, span.start + place))
            place += ahead
        begins = [int(np.ceil(share * span.horizon)) for share in ladder.starts]
        reached = [b for b in begins if b <= span.start]
        number = len(reached) - 1
        wanted = [*zip(ladder.sides, begins, strict=True)][number + 1 :]
        assert seen == [(ladder.sides[number], span.start), *wanted]


def test_shares_that_do_not_ascend_are_refused():
    with pytest.raises(ValidationError, match="the first comes before the second"):
        ResolutionConfig(start=8, begin_at=0.5, end_at=0.5)


NETWORK = {"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]}
GROWING = {
    "name": "growing",
    "data": {
        "kind": "digits",
        "image_size": 12,
        "input_size": 8,
        "evaluation_crop": 0.75,
        "train_examples": 320,
    },
    "model": NETWORK,
    "train": {
        "batch_size": 32,
        "augment": {"translate": 1, "crop": {"area": [0.5, 1.0]}},
        "resolution": {"start": 4, "step": 4, "end_at": 0.6},
    },
    "method": {"kind": "standard", "passes": 4},
    "evaluate": {"every": 1.0},
    "checkpoint": {"every_s": 1000},
}


def config(**changes):
    return validate(GROWING | changes, "test")


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    return experiment.run(config(), tmp_path_factory.mktemp("grown"))


def forward(side):
    made = config()
    return made.model.build(10, (8, 8, 1)).forward_flops(side, side)


def test_a_visit_costs_what_its_side_does(grown):
    by_hand = 3 * (768 * forward(4) + 512 * forward(8))  # of 1,280 visits
    assert grown.summary["flops"] == by_hand
    assert grown.summary["visits"] == 1280
    full_pass = 3 * 320 * forward(8)
    assert grown.summary["epochs"] == pytest.approx(by_hand / full_pass)


def test_chunks_end_where_images_grow_and_on_the_grid_of_evaluations(grown):
    events = read_events(grown.folder / "events.jsonl")
    ends = [event["visits"] for event in events if event["event"] == "train"]
    assert {768, 1280} <= {*ends}
    looks = [event["epochs"] for event in events if event["event"] == "evaluate"]
    # a look comes at the first step that has cost an epoch
    for number, look in enumerate(looks[:-1], 1):
        assert number <= look <= number + 32 / 320
    assert all(before < after for before, after in pairwise(looks))


def test_every_side_is_compiled_before_training(grown):
    events = read_events(grown.folder / "events.jsonl")
    made = [event["what"] for event in events if event["event"] == "compile"]
    programs = [what for what in made if what.startswith("train_steps")]
    assert programs == [f"train_steps of {side} pixels" for side in (4, 8)]
    begun = [event["event"] for event in events].index("plan")
    assert "compile" not in [event["event"] for event in events[begun:]]


def test_a_run_that_was_left_at_a_small_side_goes_on_to_the_same_bits(
    grown, tmp_path, assert_same_run
):
    left = experiment.run(config(), tmp_path, until=0.4)
    assert left.stopped_by == "paused"
    ended = experiment.run(config(), tmp_path, resume=True)
    assert_same_run(grown.folder, ended.folder)
    assert ended.summary["flops"] == grown.summary["flops"]


def test_what_a_run_leaves_looks_at_stored_images_as_its_evaluation_did(
    grown, tmp_path
):
    data = build_data(config())
    assert (data.image_shape, data.input_shape) == ((12, 12, 1), (8, 8, 1))
    images, labels = (array[data.test_rows] for array in (data.images, data.labels))
    exported = export(grown.folder, "f32", tmp_path / "grown.safetensors", None).path
    for source in (grown.folder, exported):
        run = load_run(source)
        assert (run.image_shape, run.view) == ((12, 12, 1), data.view)
        right = np.argmax(probabilities(run, images), axis=1) == labels
        assert right.mean() == pytest.approx(grown.summary["test_accuracy"])
    card = ModelPool(tmp_path).card("grown")
    assert card.input_shape == (8, 8, 1)
    assert card.flops_per_image == forward(8)


def test_a_dry_run_foresees_what_growing_images_cost(grown):
    made = config()
    found = estimate(made, build_data(made))
    assert found.visits == 1280
    assert found.epochs == pytest.approx(grown.summary["epochs"])
    budgeted = config(budget={"epochs": 1.5})
    shorter = estimate(budgeted, build_data(budgeted))
    # the 768 visits of the small side cost less than 1.5 epochs of 320
    left = 1.5 * 320 * forward(8) - 768 * forward(4)
    assert shorter.visits == 768 + 32 * np.ceil(left / (32 * forward(8)))


def test_rounds_and_an_auxiliary_network_see_growing_images(tmp_path):
    method = {
        "kind": "dpet",
        "proxy": {"width_multiplier": 1.0},
        "warmup_passes": 2,
        "query_size": 32,
        "passes_per_round": 2,
        "max_rounds": 1,
    }
    made = config(method=method)
    result = experiment.run(made, tmp_path)
    assert result.stopped_by == "finished"
    found = estimate(made, build_data(made))
    assert result.summary["epochs"] == pytest.approx(found.epochs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"kind": "digits"}}, r"data\.input_size does not say"),
        ({"data": {"kind": "digits", "input_size": 4}}, r"is 4 pixels, no less than"),
        (
            {
                "method": {"kind": "dpet_anneal"},
                "budget": {"seconds": 9, "pace": True},
            },
            r"with train\.resolution they get dearer",
        ),
    ],
)
def test_what_growing_images_do_not_go_with_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        config(**changes)


def test_a_network_of_one_size_is_refused_before_anything_is_made(tmp_path):
    made = config(model={"kind": "cnn", "n_conv": 1, "base": 4})
    with pytest.raises(UserError, match=r"^train\.resolution: CNN 1\+3 has other para"):
        experiment.run(made, tmp_path)
    assert not (tmp_path / "growing").exists()
