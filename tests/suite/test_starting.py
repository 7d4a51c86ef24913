"""The first hour: what is planned fits the data, the machine and the time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dpet_jax.cli import main
from dpet_jax.config.experiment import Config
from dpet_jax.config.load import load
from dpet_jax.config.packaged import copied
from dpet_jax.config.yaml12 import read
from dpet_jax.errors import UserError
from dpet_jax.run.build import build_data
from dpet_jax.run.experiment import Result
from dpet_jax.run.profiling import Profile, Profiles
from dpet_jax.suite import starting
from dpet_jax.suite.dry_run import estimate
from dpet_jax.suite.starting import (
    Copies,
    Length,
    Started,
    copies,
    start,
    targets_above,
    targets_between,
)
from dpet_jax.suite.variants import load_suite

# the arithmetic


def test_passes_are_those_that_the_seconds_hold():
    length = Length(pass_s=2.0, look_s=0.5, first_s=10.0, each_s=3.0)
    # 10 to compile; each run 3 and two looks; 30 passes of 2 s
    assert length.seconds([20, 10], looks=2) == 10 + 2 * (3 + 1) + 60
    # and the data are read once
    read = length._replace(read_s=4.0)
    assert read.seconds([20, 10], looks=2) == 4 + length.seconds([20, 10], looks=2)
    shares = (1.0, 0.5)
    passes = length.passes(78.0, shares, looks=2)
    assert passes == pytest.approx(20.0)
    assert length.seconds([passes * s for s in shares], 2) == pytest.approx(78.0)
    assert length.passes(5.0, shares, looks=2) == 0.0


@pytest.mark.parametrize(
    ("error", "examples", "targets"),
    [
        (0.4, 1000, [0.6, 0.7, 0.8]),
        (0.02, 1000, [0.98, 0.985, 0.99]),
        # no accuracy that one wrong example rules out, and no target twice
        (0.012, 162, [0.988, 0.991, 0.993]),
        (0.006, 162, [0.993]),
        (0.0, 162, [0.993]),
        # an untrained model of ten classes
        (0.9, 1000, [0.1, 0.32, 0.55]),
    ],
)
def test_targets_lie_at_shares_of_the_error_that_examples_can_tell(
    error, examples, targets
):
    assert targets_above(error, (1.0, 0.75, 0.5), examples) == targets


@pytest.mark.parametrize(
    ("easy", "hard", "targets"),
    [
        # 0.32, 0.16, 0.08, 0.04, 0.02: halved twice at the middle
        (0.32, 0.02, [0.84, 0.92, 0.96]),
        # longer runs are no better: noise, or nothing left to learn
        (0.2, 0.2, [0.8, 0.82, 0.84]),
        (0.02, 0.0, [0.98, 0.982, 0.984]),
    ],
)
def test_targets_of_a_suite_lie_between_its_two_lengths(easy, hard, targets):
    assert targets_between(easy, hard, 1000) == targets


@pytest.fixture(scope="module")
def digits():
    return build_data(Config())


def test_copies_are_counted_to_the_last_pixel_with_labels_and_splits(digits):
    assert copies(digits) == Copies(0, 0, 0)
    images, labels = digits.images.copy(), digits.labels.copy()
    images[7], labels[7] = images[3], labels[3]
    images[9], labels[9] = images[3], (labels[3] + 1) % 10
    images[digits.num_train + 5] = images[0]  # to validate on
    images[-1] = images[1]  # to test on
    images[20] = images[21]
    images[20, 0, 0] ^= 1  # all but the same
    found = copies(replace(digits, images=images, labels=labels))
    assert found == Copies(repeats=2, conflicts=1, leaked=2)
    assert str(found).startswith("2 training images repeat another (1 with another")


# what is written


@pytest.fixture
def machine(monkeypatch):
    """Pretend a machine: a step of the whole network takes 20 ms, of half of it 5."""

    def measured(config, data, meter, key):
        del meter
        step_s = 0.02 * config.model.scale**2
        return Profile(
            key=key,
            step_s=step_s,
            step_range_s=(step_s, step_s),
            step_j=None,
            num_train=data.num_train,
            compile_s=4.0,
            trace_s=1.0,
            compile_j=None,
            score_s=1e-5,
            measuring_s=5.0,
            train_flops=244_879_104,
        )

    def run(config, out, **options):
        del out, options
        runs.append(config)
        passes = config.method.passes
        busy = passes * 1455 / 64 * 0.02 * config.model.scale**2
        # the first one compiles; the error of every second run is half
        compiling, error = (4.0, 0.1) if len(runs) % 2 else (0.0, 0.05)
        phases = {"train": busy, "select": 0.0, "compile": compiling, "eval": 0.03}
        phases = {name: {"s": seconds} for name, seconds in phases.items()}
        rest = compiling + 0.5
        found = {"validation_accuracy": 1 - error, "wall_s": busy + rest}
        found |= {"epochs": float(passes), "executed_visits": passes * 1472}
        return Result(Path(), "finished", found | {"phases": phases})

    runs = []
    monkeypatch.setattr("dpet_jax.suite.starting.measure", measured)
    monkeypatch.setattr("dpet_jax.run.planning.measure", measured)
    monkeypatch.setattr("dpet_jax.run.experiment.run", run)
    monkeypatch.setattr(starting._Starting, "_report_s", lambda *_: 0.0)
    return runs


def seconds_of(config, data):
    """Return the seconds that a run takes on the machine that is pretended."""
    step_s = 0.02 * config.model.scale**2
    visits = estimate(config, data).visits
    return visits / config.train.batch_size * step_s


def write(files, folder):
    for path, text in files.items():
        (folder / path.name).write_text(text)


def test_a_config_is_written_that_loads_and_ends_in_the_time(machine, tmp_path, digits):
    said = []
    found = start(
        None, 1.0, tmp_path / "mine.yaml", say=said.append, profiles=Profiles(tmp_path)
    )
    (path,) = found.files
    write(found.files, tmp_path)
    config = load(path)
    assert (config.name, config.method.kind) == ("mine", "dpet_anneal")
    assert 15 < seconds_of(config, digits) < 60
    assert config.targets == (0.9, 0.925, 0.95)
    # looked at ten times on the way
    assert config.evaluate.every == pytest.approx(config.method.epochs / 10, rel=1e-3)
    # a short run of standard training gave the targets
    (baseline,) = machine
    assert baseline.method.kind == "standard"
    assert baseline.model == config.model
    text = found.files[path]
    for line in said:
        assert f"# {line}\n" in text
    told = "\n".join(said)
    for word in ("1,797 pictures in 10 classes", "copies    none", "at scale 0.5"):
        assert word in told
    # 64 examples in 20 ms and in 5
    assert "3,200 images/s" in told
    assert "12,800 images/s" in told
    assert found.command == f"dpet run {path}"


def test_a_suite_is_written_with_baseline_control_and_dpet_that_ends_in_the_time(
    machine, tmp_path, digits
):
    del machine
    found = start(
        None, 6.0, tmp_path / "mine.yaml", suite=True, profiles=Profiles(tmp_path)
    )
    write(found.files, tmp_path)
    suite = load_suite(tmp_path / "mine.yaml")
    assert not suite.problems
    roles = {v.name: v.section.role for v in suite.variants}
    assert roles == {"standard": "tuned", "anneal": None, "random": "random"}
    jobs = [
        job
        for variant in suite.variants
        for seed in suite.section.seeds
        for job in variant.jobs([*variant.settings], seed)
    ]
    assert len(jobs) == 18
    lengths = {one for v in suite.variants for one in v.horizons}
    assert len(lengths) == 2
    assert max(lengths) == 2 * min(lengths) >= 8
    kinds = {job.config.method.label for job in jobs}
    assert kinds == {
        *("standard", "DPET in one schedule (loss)", "DPET in one schedule (random)")
    }
    # between the errors of the two lengths of the baseline, 0.1 and 0.05
    assert suite.section.targets == (0.916, 0.929, 0.941)
    total = sum(seconds_of(job.config, digits) for job in jobs)
    assert 0.5 * 360 < total < 360
    assert found.command == f"dpet compare {tmp_path / 'mine.yaml'}"


def test_targets_are_of_the_lengths_that_are_run_where_the_machine_turned_slow(
    machine, tmp_path, monkeypatch
):
    run = starting.experiment.run

    def slower(config, out, **options):
        result = run(config, out, **options)
        accuracy = 1 - 0.8 / config.method.passes
        changed = result.summary | {"validation_accuracy": accuracy}
        if len(machine) > 1:
            train = 5 * result.summary["phases"]["train"]["s"]
            changed["phases"] = result.summary["phases"] | {"train": {"s": train}}
            changed["wall_s"] += 0.8 * train
        return result._replace(summary=changed)

    monkeypatch.setattr(starting.experiment, "run", slower)
    profiles = Profiles(tmp_path)
    out = tmp_path / "mine.yaml"
    found = start(None, 20.0, out, suite=True, profiles=profiles)
    suite = read(found.files[out])
    lengths = suite["variants"]["standard"]["horizons"]["method.passes"]
    first, second, *more = (config.method.passes for config in machine)
    assert lengths[1] < second
    assert {*lengths} <= {first, second, *more}
    easy, hard = (1 - 0.8 / passes for passes in lengths)
    assert suite["targets"]
    assert all(easy < target < hard for target in suite["targets"])


def test_a_narrower_network_is_taken_where_the_time_is_short(machine, tmp_path):
    del machine
    scales = []
    for minutes in (30.0, 0.9):
        out = tmp_path / "mine.yaml"
        found = start(None, minutes, out, suite=True, profiles=Profiles(tmp_path))
        write(found.files, tmp_path)
        scales.append(load(tmp_path / "mine_base.yaml").model.scale)
    assert scales[0] == 1.0
    assert scales[1] < 1.0


def test_too_little_time_is_refused_with_a_remedy(machine, tmp_path):
    del machine
    for minutes in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="--minutes"):
            start(None, minutes, None)
    with pytest.raises(UserError, match=r"too few for a suite of 18 runs.*give more"):
        start(None, 0.1, None, suite=True, profiles=Profiles(tmp_path))


# the command


def test_nothing_is_replaced_unless_that_is_asked_for(tmp_path, monkeypatch, capsys):
    asked = []
    out = tmp_path / "mine.yaml"

    def start(path, minutes, out, **more):
        asked.append((path, minutes, more["suite"], more["image_size"]))
        return Started({out: "name: new\n"}, (), f"dpet run {out}")

    monkeypatch.setattr("dpet_jax.suite.starting.start", start)
    out.write_text("name: old\n")
    given = ["init", "--suite", "--data=photos", "--image-size=16", f"--out={out}"]
    assert main(given) == 2
    assert "is there already; replace it with --overwrite" in capsys.readouterr().err
    assert asked == []  # no minute was spent
    assert out.read_text() == "name: old\n"
    assert main([*given, "--overwrite"]) == 0
    assert asked == [(Path("photos"), 30.0, True, 16)]
    assert out.read_text() == "name: new\n"
    assert capsys.readouterr().out.splitlines() == [
        f"written     {out}",
        f"run it      dpet run {out}",
    ]


def test_a_packaged_suite_is_copied_with_its_base_and_loads(tmp_path, capsys):
    out = tmp_path / "copy.yaml"
    assert main(["init", "--from=digits", f"--out={out}"]) == 0
    assert f"run it      dpet compare {out}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("copy.yaml", "quickstart.yaml")
    ]
    suite = load_suite(out)
    assert (len(suite.variants), suite.problems) == (3, ())
    assert f"# command:  dpet compare {out}" in out.read_text()
    # the base is there already
    again = tmp_path / "again.yaml"
    assert main(["init", "--from=digits", f"--out={again}"]) == 2
    assert "quickstart.yaml: is there already" in capsys.readouterr().err
    assert not again.exists()


def test_a_packaged_config_is_copied_as_it_is(tmp_path):
    ((path, text),) = copied("quickstart", tmp_path / "a.yaml").items()
    path.write_text(text)
    assert load(path).name == "quickstart"
    assert f"dpet run {path}" in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--from=nothing"], "'nothing' is no packaged config or suite; one of"),
        (["--from=digits", "--minutes=3"], "--from copies a file as it is"),
        (["--image-size=4"], "--image-size: 4 is not from 8 to 1024"),
        (["--data=nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_a_mistake_of_init_is_one_message(
    given, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["init", *given]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_labels_of_few_pictures_are_refused_before_anything_is_measured(
    machine, tmp_path
):
    images = np.zeros((12, 8, 8, 1), np.uint8)
    labels = np.arange(12) % 6
    arrays = {f"{s}_images": images for s in ("train", "test")}
    arrays |= {f"{s}_labels": labels for s in ("train", "test")}
    np.savez(tmp_path / "few.npz", **arrays)
    with pytest.raises(UserError, match=r"class 0 has . pictures"):
        start(tmp_path / "few.npz", 1.0, None)
    assert not machine
