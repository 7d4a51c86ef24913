"""AMD GPUs through AMD SMI: joules and watts, or why there are none."""

from types import SimpleNamespace

import pytest

from dpet_jax.energy.probes import amd


def gpu(number=0, **answers):
    plain = {
        "amdsmi_get_gpu_device_bdf": f"0000:0{number}:00.0",
        "amdsmi_get_gpu_asic_info": {"market_name": "AMD Instinct MI210"},
        "amdsmi_get_energy_count": {
            "energy_accumulator": 2_000_000,
            "counter_resolution": 15.5,
            "timestamp": 1,
        },
        "amdsmi_get_power_info": {
            "average_socket_power": 90,
            "current_socket_power": "N/A",
        },
        "amdsmi_get_gpu_enumeration_info": {"hip_id": number},
    }
    return SimpleNamespace(**(plain | answers))


class FakeSmi:
    """The module `amdsmi`, as far as it is asked."""

    def __init__(self, *gpus):
        self.gpus, self.inits, self.shutdowns = gpus, 0, 0

    def amdsmi_init(self):
        self.inits += 1

    def amdsmi_shut_down(self):
        self.shutdowns += 1

    def amdsmi_get_processor_handles(self):
        return list(self.gpus)

    def __getattr__(self, call):
        def ask(handle):
            answer = getattr(handle, call)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask


def found(*gpus, ordinals=None, environ=None):
    smi = FakeSmi(*gpus)
    return amd.find(ordinals, smi=smi, environ=environ or {}), smi


def test_counter_is_in_joules_and_power_in_watts():
    result, smi = found(gpu())
    (probe,) = result.probes
    assert [source.kind for source in probe.sources] == ["counter", "power"]
    assert probe.read() == (pytest.approx(31.0), 90.0)
    assert probe.id == "gpu:0000:00:00.0"
    assert probe.facts()["foreign_processes"] is None
    assert smi.shutdowns == 0
    probe.close()
    probe.close()
    assert (smi.inits, smi.shutdowns) == (1, 1)
    assert probe.read() == (None, None)


def test_name_of_the_counter_before_rocm_6_2_is_known():
    old = {"power": 10_000_000, "counter_resolution": 1.0}
    result, _ = found(gpu(amdsmi_get_energy_count=old))
    assert result.probes[0].read()[0] == 10.0


def test_chip_without_an_average_is_asked_for_the_moment_and_na_is_never_zero():
    now = {"average_socket_power": "N/A", "current_socket_power": 750}
    board = gpu(
        amdsmi_get_power_info=now, amdsmi_get_energy_count=RuntimeError("no counter")
    )
    result, _ = found(board)
    (probe,) = result.probes
    (source,) = probe.sources
    assert source.method == "amdsmi_get_power_info:current_socket_power"
    assert probe.read() == (750.0,)
    now["current_socket_power"] = "N/A"
    assert probe.read() == (None,)


def test_chip_that_tells_nothing_says_so_and_releases_the_library():
    silent = {
        "amdsmi_get_power_info": RuntimeError("guest"),
        "amdsmi_get_energy_count": RuntimeError("guest"),
    }
    result, smi = found(gpu(**silent))
    assert result.probes == ()
    assert result.unavailable[0].reason.startswith("amd: gpu:0000:00:00.0 reports")
    assert smi.shutdowns == 1


@pytest.mark.parametrize(
    ("ordinals", "environ", "expected"),
    [
        ([1], {}, ["gpu:0000:01:00.0"]),
        ([0], {"HIP_VISIBLE_DEVICES": "2,1"}, ["gpu:0000:02:00.0"]),
        (None, {"HIP_VISIBLE_DEVICES": "2"}, ["gpu:0000:02:00.0"]),
        (
            [2, 1, 0],
            {"ROCR_VISIBLE_DEVICES": "x"},
            [f"gpu:0000:0{n}:00.0" for n in (2, 0, 1)],
        ),
        ([0], {"ROCR_VISIBLE_DEVICES": "2"}, "ROCR_VISIBLE_DEVICES is set"),
        ([0], {"HIP_VISIBLE_DEVICES": "GPU-1"}, "cannot be told apart"),
    ],
)
def test_gpus_are_those_of_hips_numbers_or_none(ordinals, environ, expected):
    # AMD SMI lists them in another order
    result, _ = found(gpu(2), gpu(0), gpu(1), ordinals=ordinals, environ=environ)
    if isinstance(expected, str):
        assert result.probes == ()
        assert expected in result.unavailable[0].reason
    else:
        assert [probe.id for probe in result.probes] == expected


def test_library_that_does_not_start_is_a_reason():
    class Broken:
        def amdsmi_init(self):
            raise OSError("libamd_smi.so")

    result = amd.find(smi=Broken(), environ={})
    assert (
        result.unavailable[0].reason
    ) == "amd: AMD SMI does not start (OSError: libamd_smi.so)"
    assert "knows of no GPU" in found()[0].unavailable[0].reason


def test_two_chips_in_one_are_said():
    info = {"market_name": "AMD Instinct MI250X"}
    result, _ = found(gpu(amdsmi_get_gpu_asic_info=info))
    assert "both" in result.probes[0].facts()["warnings"][0]
