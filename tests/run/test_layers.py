"""What layers take: their parts of a step add up, and joules are measured or absent."""

import csv
import json
from dataclasses import replace

import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, power

from dpet_jax.cli import main
from dpet_jax.config.load import load, validate
from dpet_jax.energy import EnergyMeter, Found, Unavailable
from dpet_jax.errors import UserError
from dpet_jax.run.anatomy import Layer
from dpet_jax.run.build import build_data
from dpet_jax.run.layers import (
    KindCost,
    LayerCost,
    Layers,
    Timing,
    _Program,
    _Steps,
    _Timer,
    _why_not,
    answer_lines,
    layer_lines,
    plain,
    write_layers,
)
from dpet_jax.run.machine import pinned

CONV = Layer(
    "conv1", "convolution", (8, 28, 28, 1), (8, 28, 28, 9), ((3, 3, 1, 9),), False
)
RELU = Layer("ReLU 1", "ReLU", (8, 28, 28, 9), (8, 28, 28, 9), (), True)


def timing(*seconds, watts=None):
    joules = None if watts is None else tuple(watts * each for each in seconds)
    return Timing(seconds, joules)


def found(watts=None):
    """Layers of a step of 10 ms: a ReLU takes 1, a convolution 7, the rest 2."""
    whole = timing(0.010, 0.011, 0.009, watts=watts)
    no_relu = timing(0.009, 0.008, 0.0095, watts=watts)
    rest = timing(0.002, 0.0021, 0.0019, watts=watts)
    step = timing(0.0101, 0.0100, 0.0099, watts=watts)
    costs = (
        LayerCost(
            CONV,
            1,
            timing(0.002, watts=watts),
            timing(0.006, watts=watts),
            4e6,
            1e6,
            3000,
            1000,
        ),
        LayerCost(
            RELU,
            2,
            timing(0.001, watts=watts),
            timing(0.002, watts=watts),
            None,
            None,
            4000,
            2000,
        ),
    )
    joules = None if watts is None else 0.004 * watts
    kinds = (
        KindCost("ReLU", 2, 0.004, joules, whole, no_relu),
        KindCost("convolution", 1, 0.006, joules, no_relu, rest),
    )
    environment = {"versions": {}, "device": {"kind": "cpu"}, "settings": {}}
    return Layers(
        validate({}, "test"),
        "CNN 1+1",
        "toys",
        (28, 28, 1),
        "float32",
        step,
        rest,
        costs,
        kinds,
        0.2,
        "" if watts else "gpu: none",
        environment,
    )


def test_parts_are_differences_of_medians_and_add_up_to_what_the_rest_leaves():
    layers = found()
    relu, conv = layers.kinds
    assert relu.within_s == pytest.approx(0.001)
    # the least and the largest difference of windows of one round
    assert relu.within_range_s == pytest.approx((-0.0005, 0.003))
    assert conv.within_s == pytest.approx(0.007)
    assert layers.layers_s == pytest.approx(0.010 - 0.002)
    assert layers.share == pytest.approx(0.8)
    assert relu.within_j is None


def test_tables_and_answer_fit_80_columns():
    for watts in (None, 100.0):
        lines = [*layer_lines(found(watts)), *answer_lines(found(watts))]
        assert max(map(len, lines)) <= 80
        text = "\n".join(lines)
        assert "Of a step of 10 ms, convolution takes most, 70 %." in text
        assert "add up to 8 ms, 20 % less than the step" in text
        assert ("No joules, for no energy was measured" in lines[-1]) == (watts is None)
    # 7 ms at 100 W, and 6 ms at 100 W over 4 MFLOP
    assert lines[4].split()[-2:] == ["600", "150,000"]
    (conv,) = [line for line in lines if line.startswith("convolution   ")][-1:]
    assert conv.split()[-1] == "700"


def test_a_machine_that_did_other_work_is_said_to_have():
    layers = found()
    assert "Warning" not in "".join(answer_lines(layers))
    busy = replace(layers, step=timing(0.010, 0.0131))
    text = "\n".join(answer_lines(busy))
    assert "the step took 10 to 13.1 ms" in text


def test_files_hold_every_number_and_no_joules_that_were_not_measured(tmp_path):
    for watts, joules in ((None, None), (100.0, 0.6)):
        files = write_layers(found(watts), tmp_path / "a" / "b")
        kept = json.loads(files[0].read_text())
        assert kept == json.loads(json.dumps(plain(found(watts))))
        assert kept["layers"][0]["both_j"] == (joules and pytest.approx(joules))
        assert kept["step"]["s"] == 0.01
        with files[1].open() as file:
            rows = [*csv.DictReader(file)]
        assert [row["kind"] for row in rows] == ["convolution", "ReLU"]
        assert (rows[0]["both_j"] == "") == (joules is None)
        assert rows[1]["both_flops"] == ""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out: .*choose another folder"):
        write_layers(found(), tmp_path / "file")


def meter_of(clock, *probes, unavailable=()):
    return EnergyMeter(Found(probes, unavailable), clock=clock)


def timed(clock, *sources, wait_s=2.0):
    """Time a program of which each run lasts some virtual seconds."""
    probe = FakeProbe(clock, *sources)
    with meter_of(clock, probe) as meter:
        program = _Program(lambda count: clock.wait(count * wait_s), 1)
        (result,) = _Timer(meter, 1e-9).in_turn([program], 3)
        return result, _why_not(meter)


def test_joules_are_those_of_one_execution_where_a_sensor_measures():
    result, _ = timed(FakeClock(), power(100.0))
    assert len(result.seconds) == 3
    assert result.joules == pytest.approx((200.0,) * 3)


def test_windows_that_are_too_short_for_a_sensor_have_no_joules():
    result, reason = timed(FakeClock(), power(100.0), wait_s=0.5)
    assert result.joules is None
    assert "give more --seconds" in reason


def test_a_model_of_the_cpu_gives_no_joules():
    model = [
        power(watts, quality="modelled", rel_uncertainty=0.0) for watts in (50, 20, 90)
    ]
    result, reason = timed(FakeClock(), *model)
    assert result.joules is None
    assert "only a model" in reason
    nothing = meter_of(FakeClock(), unavailable=(Unavailable("gpu", "no driver", ""),))
    with nothing as meter:
        assert _why_not(meter) == "gpu: no driver"


def test_programs_take_turns_forwards_and_backwards():
    order = []
    programs = [_Program(lambda _, name=name: order.append(name), 1) for name in "abc"]
    with meter_of(FakeClock()) as meter:
        _Timer(meter, 1e-9).in_turn(programs, 3)
    assert "".join(order) == "aabbcc" + "abc" + "cba" + "abc"


CONFIG = """
name: tiny
model: {kind: poly, n_linear: 1}
train: {batch_size: 8}
"""


def test_one_command_times_a_network_and_leaves_its_files(tmp_path, capsys):
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG)
    options = ["--seconds=0.001", "--repeats=2", f"--out={tmp_path / 'out'}"]
    assert main(["layers", str(config), *options]) == 0
    told = capsys.readouterr().out
    assert "poly of 1 dense layers on digits, 8 x 8 x 1, float32" in told
    assert "dense takes most" in told
    kept = json.loads((tmp_path / "out" / "layers.json").read_text())
    (layer,), (kind,) = kept["layers"], kept["kinds"]
    # a product forward and one by the kernel backward; nobody asks for the images'
    assert layer["forward_flops"] == pytest.approx(2 * 8 * 64 * 10, rel=0.02)
    assert layer["both_flops"] == pytest.approx(4 * 8 * 64 * 10, rel=0.04)
    assert layer["forward_bytes"] == 4 * (8 * 64 + 64 * 10 + 10 + 8 * 10)
    assert layer["forward_s"] > 0
    assert layer["both_j"] is None
    assert kept["no_energy"]
    before, after = kind["before"]["s"], kind["after"]["s"]
    assert kind["within_s"] == pytest.approx(before - after)
    assert after == kept["no_layer"]["s"]
    assert len(kept["step"]["s_each"]) == 2


def test_pixels_that_stay_on_the_host_are_on_the_device_by_a_chunk_alone(tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG)
    sizes = []
    for keys in ([], ["--data.placement=host", "--data.device_budget_mib=0.08"]):
        given = load(config, keys)
        with pinned():
            sizes.append(_Steps(given, build_data(given))._data.images.shape[0])
    # twice a batch of 500 to score, and a chunk of 19 steps of 8
    assert sizes == [1797, 152]


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--seconds=0", "--seconds: 0 is no length"),
        ("--seconds=nan", "--seconds: nan is no length"),
        ("--repeats=0", "--repeats: 0 is no number from 1"),
        ("--model.kind=tree", "model.kind: unknown 'tree'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(option, told, tmp_path, capsys):
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG)
    assert main(["layers", str(config), option, f"--out={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert told in message
    assert message.count("\n") == 1
