"""Which GPUs this process uses, for every way to choose them."""

import ctypes

import pytest
from fakes.nvml import FakeCuda, FakeGpu, FakeNVML, no_libcuda

from dpet_jax.energy.probes.nvml import identity
from dpet_jax.energy.probes.nvml.identity import (
    CudaError,
    cuda_uuids,
    identify,
    parse_visible,
)

A = "GPU-4e1f00ab-1111-4222-8333-444455556666"
B = "GPU-4e1f00cd-1111-4222-8333-444455556666"
C = "GPU-b0000000-1111-4222-8333-444455556666"
GPUS = [A, B, C]
MIGS = [
    "MIG-6a000000-1111-4222-8333-444455556666",
    "MIG-6b000000-1111-4222-8333-444455556666",
]


def started(devices):
    nvml = FakeNVML(devices)
    nvml.nvmlInit()
    return nvml


@pytest.fixture
def three():
    return started([FakeGpu(uuid=uuid) for uuid in GPUS])


def by_environment(nvml, ordinals=None, **environ):
    return identify(nvml, ordinals, environ=environ, load_cuda=no_libcuda)


# CUDA_VISIBLE_DEVICES


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, GPUS),
        ("", []),
        ("-1", []),
        ("1,0", [B, A]),
        (" 1, 0", [B, A]),
        ("0,99,1", [A]),
        ("0,2,-1,1", [A, C]),
        ("0,-1", [A]),
        ("-1,0", []),
        ("0,,1", [A]),
        ("0,x,1", [A]),
        ("none", []),
        ("2gpu,+1", [C, B]),
        (A, [A]),
        (f"{C},{A}", [C, A]),
        ("GPU-b0,GPU-4e1f00ab", [C, A]),
        ("GPU-4e1f", []),
        ("GPU-b0,GPU-4e1f,GPU-4e1f00ab", [C]),
        ("GPU-b0,GPU-99,GPU-4e1f00ab", [C]),
        ("GPU-b0,1", [C]),
        ("0,GPU-b0", [A]),
        ("GPU-b0,MIG-6a", [C]),
        (A.removeprefix("GPU-"), []),
        (MIGS[1], [MIGS[1]]),
        ("MIG-6b,MIG-6a", [MIGS[1], MIGS[0]]),
        ("MIG-6", []),
        ("MIG-6b,GPU-b0", [MIGS[1]]),
        ("0,1,0", []),
        ("GPU-b0,GPU-b00", []),
    ],
)
def test_list_is_read_as_cuda_reads_it(variable, expected):
    assert parse_visible(variable, GPUS, lambda: MIGS) == expected


def test_empty_entry_is_no_prefix_of_the_only_gpu():
    assert parse_visible("GPU-b0,", [C], list) == [C]
    assert parse_visible("GPU-b0,G", [C], list) == [C]


def test_mig_instances_are_looked_for_only_if_named():
    def never():
        raise AssertionError

    assert parse_visible("GPU-b0", GPUS, never) == [C]
    assert parse_visible("2", GPUS, never) == [C]


def test_without_libcuda_the_variable_decides(three):
    found = by_environment(three, CUDA_VISIBLE_DEVICES="2,GPU-4e1f00ab")
    assert found == ((C,), (), ())
    assert by_environment(three).uuids == tuple(GPUS)


def test_ordinals_count_the_visible_gpus(three):
    found = by_environment(three, [1, 0], CUDA_VISIBLE_DEVICES="2,0")
    assert found.uuids == (A, C)
    assert found.missing == ()


@pytest.mark.parametrize("ordinals", [[2], [-1], [99]])
def test_ordinal_that_is_not_visible_is_missing_and_no_other_takes_its_place(
    ordinals, three
):
    found = by_environment(three, [0, *ordinals], CUDA_VISIBLE_DEVICES="2,0")
    assert found.uuids == (C,)
    assert found.missing == tuple(ordinals)


def test_mig_instances_of_all_gpus_can_be_named_by_prefix():
    nvml = started(
        [
            FakeGpu(errors={"nvmlDeviceGetMaxMigDeviceCount": 3}),
            FakeGpu(mig=[None, MIGS[0]]),
            FakeGpu(mig=MIGS[1:]),
        ]
    )
    found = by_environment(nvml, CUDA_VISIBLE_DEVICES="MIG-6b,MIG-6a")
    assert found == ((MIGS[1], MIGS[0]), (), ())


# CUDA_DEVICE_ORDER


@pytest.fixture
def unlike():
    return started([FakeGpu("T4", uuid=A), FakeGpu("H100", uuid=B)])


@pytest.mark.parametrize("environ", [{"CUDA_VISIBLE_DEVICES": "1"}, {}])
@pytest.mark.parametrize(
    "order", [{}, {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, {"CUDA_DEVICE_ORDER": "x"}]
)
def test_number_of_one_of_unlike_gpus_is_mapped_with_a_warning(environ, order, unlike):
    found = by_environment(unlike, [0], **environ, **order)
    assert len(found.uuids) == 1
    (warning,) = found.warnings
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in warning


@pytest.mark.parametrize(
    "environ",
    [
        {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        {"CUDA_VISIBLE_DEVICES": B},
        {"CUDA_VISIBLE_DEVICES": "1,0"},
        {"CUDA_VISIBLE_DEVICES": ""},
        {},
    ],
    ids=["by bus", "by uuid", "all", "none", "unset"],
)
def test_certain_choice_among_unlike_gpus_is_not_warned_of(environ, unlike):
    assert by_environment(unlike, **environ).warnings == ()


def test_number_of_one_of_equal_gpus_is_certain(three):
    assert by_environment(three, CUDA_VISIBLE_DEVICES="1") == ((B,), (), ())


# libcuda


def test_libcuda_is_believed_before_the_variables(three):
    found = identify(
        three,
        environ={"CUDA_VISIBLE_DEVICES": "0"},
        load_cuda=lambda: three.libcuda([2, 1]),
    )
    assert found == ((C, B), (), ())


def test_libcuda_is_believed_about_unlike_gpus(unlike):
    found = identify(unlike, [0], environ={}, load_cuda=lambda: unlike.libcuda([1, 0]))
    assert found == ((B,), (), ())


def test_mig_instance_is_recognised_by_what_nvml_knows():
    nvml = started([FakeGpu(uuid=A, mig=MIGS)])
    found = identify(nvml, environ={}, load_cuda=lambda: nvml.libcuda([MIGS[1]]))
    assert found.uuids == (MIGS[1],)


def test_device_that_nvml_does_not_know_keeps_its_name(three):
    stranger = "GPU-00000000-1111-4222-8333-444455556666"
    found = identify(three, environ={}, load_cuda=lambda: FakeCuda([stranger, B]))
    assert found.uuids == (stranger, B)


def test_no_device_visible_to_libcuda_is_an_answer_and_not_a_failure(three):
    found = identify(three, [0], environ={}, load_cuda=lambda: FakeCuda([]))
    assert found == ((), (0,), ())


@pytest.mark.parametrize(
    "call", ["cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetUuid"]
)
def test_refusal_of_libcuda_falls_back_to_the_variables_with_a_warning(call, three):
    status = {call: 999, f"{call}_v2": 999}
    found = identify(
        three,
        environ={"CUDA_VISIBLE_DEVICES": "1"},
        load_cuda=lambda: FakeCuda([A], status),
    )
    assert found.uuids == (B,)
    assert found.warnings == (
        f"libcuda: {call} returned 999; CUDA_VISIBLE_DEVICES was read instead",
    )


def test_library_that_is_not_libcuda_falls_back_to_the_variables(three):
    found = identify(
        three, environ={"CUDA_VISIBLE_DEVICES": "1"}, load_cuda=lambda: object()
    )
    assert found.uuids == (B,)
    assert len(found.warnings) == 1


def test_uuid_of_a_real_gpu_keeps_all_its_letters():
    assert cuda_uuids(FakeCuda([A, MIGS[0]])) == [A[4:], MIGS[0][4:]]


def test_second_version_of_the_call_is_preferred_and_the_first_one_serves():
    new, old = FakeCuda([A]), FakeCuda([A], old=True)
    assert cuda_uuids(new) == cuda_uuids(old) == [A[4:]]
    assert new.called[-1] == "cuDeviceGetUuid_v2"
    assert old.called[-1] == "cuDeviceGetUuid"


def test_failed_call_names_itself_and_the_code():
    with pytest.raises(CudaError, match="cuDeviceGetCount returned 3"):
        cuda_uuids(FakeCuda([A], {"cuDeviceGetCount": 3}))


def test_driver_library_is_loaded_by_its_name(monkeypatch, three):
    asked = []

    def load(name):
        asked.append(name)
        return three.libcuda([1])

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert identify(three, environ={}).uuids == (B,)
    assert asked == ["libcuda.so.1"]


def test_loader_is_looked_up_when_needed_so_that_a_fake_can_stand_in(
    monkeypatch, three
):
    monkeypatch.setattr(identity, "load_libcuda", lambda: three.libcuda([2]))
    assert identify(three, environ={}).uuids == (C,)
