"""When a run prunes its network, whether that pays, and what a resume makes of it."""

import sys
from dataclasses import asdict
from typing import NamedTuple

import jax
import numpy as np
import pytest
from fakes.networks import MlpModel

from dpet_jax.config.load import validate
from dpet_jax.errors import UserError
from dpet_jax.models.pruning import PruneConfig, widths_of
from dpet_jax.run import experiment
from dpet_jax.run.folder import read_events
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.run.load import load_run
from dpet_jax.run.prune import Cutter, Pruner, PruneState, pruning, pruning_line
from dpet_jax.run.summary import summary_lines
from dpet_jax.section import import_path
from dpet_jax.training.prune import Shears

N, BATCH = 100, 10


class Done(NamedTuple):
    what: str
    seconds: float


class FakeCutter:
    """A network of two groups whose scales, times and accuracies are given."""

    multiple, compile_s = 4, 2.0

    def __init__(self, step_s=(0.5, 0.3)):
        self.widths = (8, 8)
        self.step_s = step_s
        self.values = tuple(np.linspace(1, 2, 8) + 2 * k for k in range(2))
        self.asked = []

    def model(self):
        return {"inner": list(self.widths)}

    def forward_flops(self, widths):
        return sum(widths)

    def parameter_bytes(self, widths):
        return 4 * sum(widths)

    def evaluation_flops(self, num_examples):
        return num_examples

    def end_penalty(self):
        self.asked.append("end_penalty")

    def scales(self):
        return self.values

    def taylor(self, rows):
        assert sorted(rows) == list(range(N))
        return self.values, 1000

    def time_step(self):
        self.asked.append("time_step")
        return self.step_s[0], 10_000

    def compare_steps(self, step_s):
        assert step_s == self.step_s[0]
        self.asked.append("compare_steps")
        return *self.step_s, 100_000

    def prepare(self, masks):
        self.asked.append(("prepare", widths_of(masks)))
        yield Done("train_steps", 1.5)
        yield Done("score_pool", 0.5)

    def cut(self, masks):
        self.asked.append(("cut", widths_of(masks)))
        self.widths = widths_of(masks)

    def settle(self):
        self.asked.append("settle")

    def put_back(self):
        self.asked.append("put_back")
        yield Done("train_steps", 0.1)


class Record:
    """What a pruner has written and spent."""

    def __init__(self):
        self.events, self.flops, self.visits = [], 0, 0

    def write(self, step, **values):
        event = {"event": "prune", "step": step, "visits": self.visits} | values
        self.events.append(event)
        return event

    def spend(self, flops):
        self.flops += flops


def pruner(cutter=None, *, accuracies=(), past=(), **keys):
    given = iter(accuracies)
    return Pruner(
        PruneConfig(**({"fraction": 0.5} | keys)),
        cutter or FakeCutter(),
        num_examples=N,
        num_validation=7,
        batch_size=BATCH,
        planned_visits=1000,
        seed=0,
        accuracy=lambda: next(given),
        compiled=lambda _: None,
        past=past,
    )


def look(pruner, state, record, *, visits=0, steps_left=100):
    record.visits = visits
    pruner.look(state, visits, steps_left, record.write, record.spend)


# the moment


def test_masks_are_compared_on_a_grid_of_passes_until_they_agree():
    cutter, record = FakeCutter(), Record()
    assert isinstance(cutter, Cutter)
    one = pruner(cutter, every=0.5, looks=3, distance=0.2, tolerance=None)
    state, usual = one.start(), cutter.values
    assert not one.due(state, 49)
    assert one.steps_to_look(state, 31) == 2
    for visits in (50, 103, 150, 200):
        assert state.next_look == visits // 50 * 50
        assert one.due(state, visits)
        # the other half of all channels is the larger one at first
        cutter.values = usual[::-1] if visits == 50 else usual
        look(one, state, record, visits=visits)
        state = PruneState(**asdict(state))  # as a checkpoint keeps it
    distances = [event.get("distances") for event in record.events]
    assert distances == [[], [1.0], [1.0, 0.0], [0.0, 0.0], None]
    assert record.events[-1]["step"] == "decision"
    assert cutter.asked[-3:] == ["end_penalty", ("cut", (4, 8)), "settle"]
    assert (state.stage, state.model) == ("kept", {"inner": [4, 8]})
    assert one.steps_to_look(state, 200) == sys.maxsize
    assert not one.due(state, 900)


def test_who_has_done_all_that_was_planned_looks_no_more():
    one = pruner(every=0.5)
    state = one.start()
    assert one.due(state, 999)
    assert not one.due(state, 1000)
    # it may go on all the same, and not in chunks of one step
    assert one.steps_to_look(state, 1000) == sys.maxsize


def test_a_time_can_be_given_instead():
    cutter, record = FakeCutter(), Record()
    one = pruner(cutter, by="random", after=0.7, every=0.5, tolerance=None)
    state = one.start()
    look(one, state, record, visits=50)
    assert state.next_look == 70
    look(one, state, record, visits=70)
    assert record.events[-1]["decision"] == "cut"
    assert record.events[-1]["by"] == "random"


def test_a_network_trained_before_is_pruned_before_the_first_step():
    cutter, record = FakeCutter(), Record()
    one = pruner(cutter, by="taylor", accuracies=[0.8])
    state = one.start()
    assert one.due(state, 0)
    look(one, state, record)
    (decision,) = record.events
    assert decision["decision"] == "cut"
    # importances, two timings and a look at validation
    assert record.flops == decision["flops_spent"] == 1000 + 10_000 + 100_000 + 7
    assert (state.stage, state.next_look, state.accuracy) == ("trial", N, 0.8)


# the decision


def test_what_does_not_pay_for_its_compilation_is_not_compiled():
    # 10 steps of 0.5 s, of which a quarter is saved: less than 2 s of compiling
    cutter, record = FakeCutter(), Record()
    one = pruner(cutter, after=0.0, tolerance=None)
    state = one.start()
    look(one, state, record, steps_left=10)
    decision = record.events[-1]
    assert decision["decision"] == "does not pay"
    assert decision["foreseen_saving_s"] == pytest.approx(10 * 0.5 * 4 / 16)
    assert decision["foreseen_compile_s"] == 2.0
    assert cutter.asked == ["time_step", "end_penalty"]
    assert (state.stage, record.flops) == ("skipped", 10_000)


@pytest.mark.parametrize(("asked", "decision"), [(0.05, "hardly faster"), (0, "cut")])
def test_what_is_hardly_faster_is_not_cut(asked, decision):
    cutter, record = FakeCutter(step_s=(0.5, 0.48)), Record()
    one = pruner(cutter, after=0.0, tolerance=None, min_speedup=asked)
    state = one.start()
    look(one, state, record)
    found = record.events[-1]
    assert found["decision"] == decision
    assert (found["step_s_before"], found["step_s_after"]) == (0.5, 0.48)
    assert found["saving_s"] == pytest.approx(100 * 0.02)
    assert ("cut" in str(cutter.asked)) == (decision == "cut")


def test_nothing_is_timed_where_rounding_leaves_everything():
    cutter, record = FakeCutter(), Record()
    one = pruner(cutter, after=0.0, multiple=8)
    look(one, one.start(), record)
    assert record.events[-1]["decision"] == "nothing to cut"
    assert cutter.asked == ["end_penalty"]


@pytest.mark.parametrize("decision", ["cut", "hardly faster", "does not pay"])
def test_a_resume_repeats_what_was_decided_by_time(decision):
    slow = FakeCutter(step_s=(0.5, 0.5) if decision == "hardly faster" else (0.5, 0.3))
    steps = 1 if decision == "does not pay" else 100
    first, again = Record(), Record()
    one = pruner(slow, after=0.0, accuracies=[0.7])
    before = one.start()
    look(one, before, first, steps_left=steps)
    assert first.events[-1]["decision"] == decision
    # on a machine of which nothing is known now
    cutter = FakeCutter(step_s=(np.nan, np.nan))
    resumed = pruner(cutter, after=0.0, past=first.events)
    after = resumed.start()
    look(resumed, after, again, steps_left=steps)
    assert not {"time_step", "compare_steps"} & set(map(str, cutter.asked))
    assert asdict(after) == asdict(before)
    assert again.flops == first.flops
    assert again.events[-1] == first.events[-1] | {"repeated": True}
    assert cutter.widths == slow.widths


def test_a_decision_about_other_channels_is_no_decision():
    cutter, record, other = FakeCutter(), Record(), FakeCutter()
    first, other.multiple = pruner(other, after=0.0, tolerance=None), 2
    look(first, first.start(), record)
    resumed = pruner(cutter, after=0.0, tolerance=None, past=record.events)
    look(resumed, resumed.start(), Record())
    assert "time_step" in cutter.asked


# the verdict


@pytest.mark.parametrize(
    ("after", "stage"),
    [(0.79, "kept"), (0.9, "kept"), (0.77, "rolled back"), (np.nan, "rolled back")],
)
def test_accuracy_decides_whether_it_stays(after, stage):
    cutter, record = FakeCutter(), Record()
    one = pruner(cutter, after=0.0, trial=0.5, accuracies=[0.8, after])
    state = one.start()
    look(one, state, record)
    assert (state.stage, state.next_look) == ("trial", 50)
    spent = record.flops
    look(one, state, record, visits=50)
    assert state.stage == stage
    assert record.flops == spent + 7
    verdict = record.events[-1]
    assert (verdict["step"], verdict["decision"]) == ("verdict", stage)
    back = stage == "rolled back"
    assert cutter.asked[-1] == ("end_penalty" if back else "settle")
    assert ("put_back" in cutter.asked) == back
    assert (state.model is None) == back


# what people read


def events_of(cutter_wh=None):
    def event(name, steps, train_s, **values):
        wh = None if cutter_wh is None else {"train": cutter_wh * train_s}
        counted = {"executed_visits": steps * BATCH, "visits": steps * BATCH}
        seconds = {"train": train_s}
        times = {"seconds": seconds, "wh": wh, "epochs": steps / 10}
        return {"event": name} | counted | times | values

    cutter, record = FakeCutter(), Record()
    one = pruner(cutter, after=0.0, accuracies=[0.8, 0.81])
    state = one.start()
    look(one, state, record)
    look(one, state, record, visits=N)
    _, decision, verdict = record.events
    return [
        event("prune", 20, 10.0, step="look", distances=[0.3, 0.05]),
        event("prune", 20, 10.0, **{**decision, "visits": 200}),
        event("prune", 30, 13.0, **{**verdict, "visits": 300}),
        event("stop", 60, 22.0),
    ]


def test_the_summary_has_widths_flops_seconds_and_wh_of_a_step():
    result = pruning(events_of(cutter_wh=0.01), BATCH)
    assert (result["outcome"], result["looks"]) == ("kept", 1)
    assert result["largest_distance"] == 0.3
    assert (result["widths_before"], result["widths_after"]) == ([8, 8], [4, 8])
    assert result["step_s"] == pytest.approx((0.5, 0.3))
    assert result["step_wh"] == pytest.approx((0.005, 0.003))
    assert result["timed_step_s"] == (0.5, 0.3)
    assert (result["accuracy_before"], result["accuracy_after"]) == (0.8, 0.81)
    line = pruning_line(result)
    assert line == (
        "kept at 2.00 epochs: 16 to 12 channels inside blocks, 16 to 12 FLOPs an "
        "image, 500 to 300 ms a step, 0.005 to 0.003 Wh a step"
    )
    assert pruning(events_of(), BATCH)["step_wh"] == (None, None)


def test_the_summary_of_masks_that_never_agreed_says_so():
    result = pruning(events_of()[:1], BATCH)
    assert pruning_line(result) == "not decided: 1 looks"


# whole runs

MODEL = {"kind": "resnet", "stem": 8, "channels": [16], "blocks": [1]}
PRUNE = {
    "every": 0.25,
    "looks": 2,
    "distance": 1.0,
    "fraction": 0.5,
    "trial": 0.5,
    "tolerance": 0.9,
    **{"min_saving": 0, "min_speedup": 0},
}


def config(**changes):
    tree = {
        "name": "tiny",
        "model": MODEL,
        "train": {"batch_size": 32},
        "method": {"kind": "standard", "passes": 2},
        "evaluate": {"every": 0.5},
        "checkpoint": {"every_s": 1000},
        "prune": PRUNE,
    } | changes
    return validate(tree, "test")


def steps_of(folder):
    events = read_events(folder / "events.jsonl")
    return {event["step"]: event for event in events if event["event"] == "prune"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return experiment.run(config(), tmp_path_factory.mktemp("pruned"))


def test_a_pruned_run_counts_what_it_costs(whole):
    summary, steps = whole.summary, steps_of(whole.folder)
    found = summary["pruning"]
    assert found["outcome"] == "kept"
    assert (found["widths_before"], found["widths_after"]) == ([16], [8])
    # masks of the first two of four looks a pass
    assert found["looks"] == 2
    assert found["at_visits"] == 736  # the first batch to end after half of 1,455
    steps_before, steps_after = 23, 91 - 23
    expected = (
        3
        * 32
        * (
            steps_before * found["forward_flops_before"]
            + steps_after * found["forward_flops_after"]
        )
    )
    expected += found["flops_spent"] + 500 * found["forward_flops_after"]
    assert summary["flops"] == expected
    assert summary["phases"]["prune"]["s"] > 0
    assert {"pruned train_steps", "pruned score_pool"} <= summary["compilations"].keys()
    assert "kept at" in "\n".join(summary_lines(summary))
    assert steps["verdict"]["visits"] == 736 + 736


def test_a_pruned_network_is_what_others_load(whole):
    loaded = load_run(whole.folder)
    assert loaded.model.inner == (8,)
    images = np.zeros((3, 8, 8, 1), np.uint8)
    assert jax.jit(loaded.apply_fn)(loaded.params, images).shape == (3, 10)
    kernel = loaded.params["stage1_block1"]["conv2"]["kernel"]
    assert kernel.shape == (3, 3, 8, 16)


def never(*_):
    raise AssertionError("a decision of measured time was made twice")


def test_a_kill_between_the_mask_and_the_cut_is_repaired(
    whole, tmp_path, monkeypatch, assert_same_run
):
    def killed(*_):
        raise KeyboardInterrupt

    often = config(checkpoint={"every_s": 0})
    with monkeypatch.context() as patch:
        patch.setattr(Shears, "cut", killed)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(often, tmp_path)
    decided = steps_of(tmp_path / "tiny" / "seed0")["decision"]
    for name in ("time_step", "compare_steps"):
        monkeypatch.setattr(Shears, name, never)
    resumed = experiment.run(often, tmp_path, resume=True)
    assert_same_run(whole.folder, resumed.folder)
    again = steps_of(resumed.folder)["decision"]
    assert (decided["repeated"], again["repeated"]) == (False, True)
    assert again["step_s_after"] == decided["step_s_after"]
    assert resumed.summary["flops"] - again["flops_spent"] == (
        whole.summary["flops"] - whole.summary["pruning"]["flops_spent"]
    )


def test_a_run_interrupted_on_trial_resumes_to_the_same_bits_either_way(
    tmp_path, monkeypatch, assert_same_run
):
    make, cut = experiment._pruner, Shears.cut
    asked = Interrupt()

    def cut_and_ask(self, masks):
        cut(self, masks)
        asked.requested = True

    def judged(*parts):
        given = make(*parts)
        return given.__class__(**(given.__dict__ | {"accuracy": lambda: next(seen)}))

    runs = {}
    for name in ("through", "resumed"):
        with monkeypatch.context() as patch:
            patch.setattr(experiment, "_pruner", judged)
            if name == "resumed":
                patch.setattr(Shears, "cut", cut_and_ask)
            seen = iter([0.99, 0.05])
            runs[name] = experiment.run(config(), tmp_path / name, interrupt=asked)
            if name == "resumed":
                assert runs[name].stopped_by == "interrupted"
                assert set(steps_of(runs[name].folder)) == {"look", "decision"}
                runs[name] = experiment.run(config(), tmp_path / name, resume=True)
    through, resumed = runs["through"], runs["resumed"]
    assert resumed.summary["segments"] == 2
    assert resumed.summary["pruning"]["outcome"] == "rolled back"
    assert through.summary["pruning"]["outcome"] == "rolled back"
    assert_same_run(through.folder, resumed.folder)
    assert load_run(resumed.folder).model.inner == ()


def test_dynamic_methods_train_on_what_pruning_leaves(tmp_path):
    method = {"kind": "dpet_anneal", "epochs": 2, "drop": 0.5}
    by_chance = config(method=method, prune=PRUNE | {"by": "random"})
    summary = experiment.run(by_chance, tmp_path).summary
    assert summary["pruning"]["outcome"] == "kept"
    assert summary["visits"] == 2 * 1455


# what is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": MODEL | {"channels": [8]}}, "prune.multiple: 8 is what every block"),
        (
            {"model": {"kind": import_path(MlpModel)}},
            "says of no channels that they can be cut out",
        ),
        (
            {"data": {"kind": "digits", "validation_fraction": 0}},
            "validation_fraction is 0 but prune.tolerance",
        ),
        ({"prune": PRUNE | {"fraction": 1.0}}, "prune.fraction"),
        ({"prune": PRUNE | {"looks": 1}}, "prune.looks"),
        ({"prune": PRUNE | {"by": "size"}}, "prune.by"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        experiment.run(config(**changes), tmp_path)
    assert not list(tmp_path.iterdir())
