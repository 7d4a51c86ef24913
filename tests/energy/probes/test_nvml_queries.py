"""What is asked of a GPU, in which order, and what the answers are taken for."""

import math
from types import SimpleNamespace

import pynvml
import pytest
from fakes.clock import FakeClock
from fakes.nvml import AVERAGE, COUNTER, GPU, INSTANT, MODULE, FakeGpu, FakeNVML

from dpet_jax.energy.probes.nvml.queries import admit, ask, field_number, generation

BY_FIELD = "NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION (field 83, scope gpu)"
BY_CALL = "nvmlDeviceGetTotalEnergyConsumption"
AVERAGED = "NVML_FI_DEV_POWER_AVERAGE (field 185, scope gpu)"
AT_ONCE = "NVML_FI_DEV_POWER_INSTANT (field 186, scope gpu)"
USAGE = "nvmlDeviceGetPowerUsage"
NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED


def started(**board):
    nvml = FakeNVML([FakeGpu(**board)], clock=FakeClock())
    nvml.nvmlInit()
    nvml.clock.skip(2)
    return nvml, nvml.devices[0]


def admitted(**board):
    nvml, gpu = started(**board)
    return admit(nvml, gpu, gpu.name, generation(nvml, gpu), 1400.0)


def methods(found):
    return [query.source.method for query in found.queries]


# which


@pytest.mark.parametrize("chip", ["ampere", "ada", "hopper", "blackwell"])
def test_one_second_mean_is_preferred_where_it_is_documented(chip):
    assert methods(admitted(architecture=chip)) == [BY_FIELD, AVERAGED, AT_ONCE, USAGE]


@pytest.mark.parametrize("chip", ["ga100", "turing", "volta", "pascal", "unknown"])
def test_instant_reading_is_preferred_elsewhere(chip):
    assert methods(admitted(architecture=chip)) == [BY_FIELD, AT_ONCE, AVERAGED, USAGE]


def test_counter_is_asked_by_its_function_if_the_field_is_not_known():
    found = admitted(errors={COUNTER: NOT_SUPPORTED})
    assert methods(found) == [BY_CALL, AVERAGED, AT_ONCE, USAGE]
    assert found.refusals[BY_FIELD] == "Not Supported"


def test_gpu_without_a_counter_gives_power_and_says_why():
    found = admitted(errors={COUNTER: NOT_SUPPORTED, BY_CALL: NOT_SUPPORTED})
    assert methods(found) == [AVERAGED, AT_ONCE, USAGE]
    assert found.refusals.keys() >= {BY_FIELD, BY_CALL}


def test_driver_without_fields_is_asked_by_functions():
    missing = {"nvmlDeviceGetFieldValues": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND}
    assert methods(admitted(errors=missing)) == [BY_CALL, USAGE]


def test_gpu_that_answers_nothing_has_a_reason_for_each_question():
    found = admitted(errors={"*": NOT_SUPPORTED})
    assert found.queries == ()
    assert {BY_FIELD, BY_CALL, AVERAGED, AT_ONCE, USAGE} <= found.refusals.keys()


def test_power_of_nothing_is_not_a_sensor():
    assert methods(admitted(power=0.0)) == [BY_FIELD]


def test_every_question_is_put_once():
    nvml, gpu = started()
    admit(nvml, gpu, gpu.name, "hopper", 1400.0)
    assert nvml.calls["nvmlDeviceGetFieldValues"] == 5
    assert nvml.calls[BY_CALL] == nvml.calls[USAGE] == 1


# scope


def test_module_is_measured_where_the_power_of_the_gpu_alone_is_not_known():
    found = admitted(scopes={MODULE: 1.5})
    assert found.scope == "module"
    assert methods(found) == [
        BY_FIELD,
        "NVML_FI_DEV_POWER_AVERAGE (field 185, scope module)",
        "NVML_FI_DEV_POWER_INSTANT (field 186, scope module)",
    ]


def test_gpu_is_measured_alone_where_it_can_be():
    found = admitted(scopes={GPU: 1.0, MODULE: 1.5})
    assert found.scope == "gpu"
    assert methods(found) == [BY_FIELD, AVERAGED, AT_ONCE, USAGE]


def test_counter_of_a_superchip_is_checked_by_the_power_of_the_module():
    found = admitted(name="NVIDIA GH200 480GB", scopes={GPU: 1.0, MODULE: 1.5})
    assert found.scope == "module"
    assert not {AVERAGED, AT_ONCE, USAGE} & set(methods(found))
    assert len(found.queries) == 3


def test_counter_of_a_superchip_is_alone_rather_than_beside_another_scope():
    found = admitted(name="NVIDIA GH200 480GB")
    assert (found.scope, methods(found)) == ("module", [BY_FIELD])


def test_superchip_that_reports_only_the_power_of_its_gpu_is_measured_as_a_gpu():
    found = admitted(
        name="NVIDIA GH200 480GB",
        errors={COUNTER: NOT_SUPPORTED, BY_CALL: NOT_SUPPORTED},
    )
    assert (found.scope, methods(found)) == ("gpu", [AVERAGED, AT_ONCE, USAGE])


# meaning


def timing(found, method):
    (source,) = [q.source for q in found.queries if q.source.method == method]
    return source.update_period_s, source.sensor_window_s


@pytest.mark.parametrize(
    ("chip", "instant"),
    [
        ("pascal", (0.02, 0.01)),
        ("volta", (0.02, 0.01)),
        ("turing", (0.1, 0.1)),
        ("ga100", (0.1, 0.025)),
        ("ampere", (0.1, 0.1)),
        ("ada", (0.1, 0.1)),
        ("hopper", (0.1, 0.025)),
        ("blackwell", (None, None)),
        ("maxwell", (None, None)),
        ("unknown", (None, None)),
    ],
)
def test_timing_of_the_instant_reading_is_as_published(chip, instant):
    assert timing(admitted(architecture=chip), AT_ONCE) == instant


@pytest.mark.parametrize(
    ("chip", "usage"),
    [
        ("volta", (0.02, 0.01)),
        ("ga100", (0.1, 0.025)),
        ("ampere", (None, 1.0)),
        ("hopper", (None, 1.0)),
        ("blackwell", (None, 1.0)),
        ("kepler", (None, None)),
    ],
)
def test_power_usage_is_a_one_second_mean_from_ampere_on_but_for_ga100(chip, usage):
    assert timing(admitted(architecture=chip), USAGE) == usage


@pytest.mark.parametrize(
    ("chip", "average"), [("hopper", (None, 1.0)), ("ga100", (None, None))]
)
def test_average_has_a_window_only_where_it_is_documented(chip, average):
    assert timing(admitted(architecture=chip), AVERAGED) == average


def test_timing_of_a_module_is_not_taken_from_the_gpu():
    found = admitted(scopes={MODULE: 1.0})
    (instant,) = [q.source for q in found.queries if "INSTANT" in q.source.method]
    assert (instant.update_period_s, instant.sensor_window_s) == (None, None)


def test_counter_is_a_counter_and_the_rest_is_power():
    found = admitted()
    assert [query.source.kind for query in found.queries] == [
        *("counter", "power", "power", "power")
    ]
    assert timing(found, BY_FIELD) == (0.1, None)
    assert timing(admitted(architecture="unknown"), BY_FIELD) == (None, None)
    assert {query.source.max_w for query in found.queries} == {1400.0}


@pytest.mark.parametrize(
    ("board", "expected"),
    [
        ({"architecture": "ga100", "name": "NVIDIA A30"}, "ga100"),
        ({"architecture": "ampere", "name": "NVIDIA A1000"}, "ampere"),
        ({"architecture": "unknown"}, None),
        ({"errors": {"nvmlDeviceGetArchitecture": 13}}, None),
        ({"architecture": "ampere", "errors": {"*": 15}}, None),
        (
            {
                "architecture": "ampere",
                "errors": {"nvmlDeviceGetCudaComputeCapability": 3},
            },
            None,
        ),
    ],
)
def test_ga100_is_recognised_by_its_capability_and_no_chip_is_guessed(board, expected):
    assert generation(*started(**board)) == expected


# answers


@pytest.mark.parametrize("kind", range(7))
def test_number_is_found_by_its_type(kind):
    nvml, gpu = started(
        power=31.0, value_types={INSTANT: kind, AVERAGE: kind, COUNTER: kind}
    )
    if kind != 0:  # else the bytes of another type would not show
        entry = nvml.nvmlDeviceGetFieldValues(gpu, [(INSTANT, GPU)])[0]
        assert entry.value.dVal != 31_000
    found = admit(nvml, gpu, gpu.name, "hopper", 1400.0)
    assert ask(nvml, gpu, found.queries)[1:] == [31.0, 31.0, 31.0]


def test_types_are_numbered_as_nvml_numbers_them():
    members = {
        "DOUBLE": "dVal",
        "UNSIGNED_INT": "uiVal",
        "UNSIGNED_LONG": "ulVal",
        "UNSIGNED_LONG_LONG": "ullVal",
        "SIGNED_LONG_LONG": "sllVal",
        "SIGNED_INT": "siVal",
        "UNSIGNED_SHORT": "usVal",
    }
    for name, member in members.items():
        entry = SimpleNamespace(
            nvmlReturn=pynvml.NVML_SUCCESS,
            valueType=getattr(pynvml, f"NVML_VALUE_TYPE_{name}"),
            value=SimpleNamespace(**{member: 7}),
        )
        assert field_number(pynvml, entry) == 7.0


@pytest.mark.parametrize("kind", [7, 99])
def test_number_of_an_unknown_type_is_refused(kind):
    entry = pynvml.c_nvmlFieldValue_t(valueType=kind)
    with pytest.raises(ValueError, match=f"value type {kind}"):
        field_number(pynvml, entry)


def test_field_that_failed_in_a_call_that_succeeded_has_no_number():
    entry = pynvml.c_nvmlFieldValue_t(nvmlReturn=NOT_SUPPORTED, valueType=1)
    entry.value.uiVal = 12
    with pytest.raises(pynvml.NVMLError_NotSupported):
        field_number(pynvml, entry)


def test_thousandths_become_joules_and_watts():
    nvml, gpu = started(power=123.456)
    found = admit(nvml, gpu, gpu.name, "hopper", 1400.0)
    assert ask(nvml, gpu, found.queries) == [246.912, 123.456, 123.456, 123.456]


def test_all_fields_are_asked_in_one_call():
    nvml, gpu = started()
    found = admit(nvml, gpu, gpu.name, "hopper", 1400.0)
    nvml.calls.clear()
    ask(nvml, gpu, found.queries)
    assert nvml.calls == {"nvmlDeviceGetFieldValues": 1, USAGE: 1}


@pytest.mark.parametrize(
    ("what", "missing"),
    [
        (COUNTER, {0}),
        (AVERAGE, {1}),
        ((INSTANT, GPU), {2}),
        (USAGE, {3}),
        ("nvmlDeviceGetFieldValues", {0, 1, 2}),
        ("*", {0, 1, 2, 3}),
    ],
)
def test_failed_question_has_a_reason_instead_of_a_number_and_the_others_go_on(
    what, missing
):
    nvml, gpu = started()
    found = admit(nvml, gpu, gpu.name, "hopper", 1400.0)
    gpu.fail(what, pynvml.NVML_ERROR_UNKNOWN)
    answers = ask(nvml, gpu, found.queries)
    failed = {i for i, answer in enumerate(answers) if answer == "Unknown Error"}
    assert failed == missing
    assert all(isinstance(answers[i], float) for i in {0, 1, 2, 3} - missing)


@pytest.mark.parametrize("number", [math.nan, math.inf, -5.0])
def test_what_is_not_a_quantity_has_no_number(number):
    nvml, gpu = started(value_types={INSTANT: 0})
    found = admit(nvml, gpu, gpu.name, "hopper", 1400.0)
    entry = pynvml.c_nvmlFieldValue_t(valueType=0)
    entry.value.dVal = number
    nvml.nvmlDeviceGetFieldValues = lambda _, fields: [entry] * len(fields)
    assert all(isinstance(answer, str) for answer in ask(nvml, gpu, found.queries[:3]))


def test_zero_watts_is_a_failed_reading_and_zero_joules_is_not():
    nvml, gpu = started(counter_resets=(102.0,))
    found = admit(nvml, gpu, gpu.name, "hopper", 1400.0)
    gpu.power = 0.0
    assert ask(nvml, gpu, found.queries) == [0.0, "0 W", "0 W", "0 W"]


def test_module_that_lacks_a_function_is_no_exception():
    nvml, gpu = started()
    found = admit(nvml, gpu, gpu.name, "hopper", 1400.0)

    class Bare:
        NVML_SUCCESS = 0

    assert all(isinstance(one, str) for one in ask(Bare(), gpu, found.queries))


def test_short_answer_is_a_failure_of_all_fields():
    nvml, gpu = started()
    found = admit(nvml, gpu, gpu.name, "hopper", 1400.0)
    nvml.nvmlDeviceGetFieldValues = lambda *_: []
    answers = ask(nvml, gpu, found.queries)
    assert [isinstance(answer, float) for answer in answers] == [False] * 3 + [True]
    assert all(answers[:3]), "a failure without a reason"
