import pynvml

from dpet_jax import doctor


def test_without_a_driver_doctor_says_what_to_do(monkeypatch, tmp_path):
    def fail():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    monkeypatch.setattr(doctor, "_POWERCAP", tmp_path)
    found = dict(doctor.findings(tmp_path / "cache"))
    assert "install the NVIDIA driver" in found["GPU energy"]
    assert found["CPU energy"].startswith("not found")
    assert "writable" in found["compile cache"]


def test_doctor_counts_what_it_finds(monkeypatch, tmp_path):
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    for name in ("intel-rapl:0", "intel-rapl:1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text("1")
    monkeypatch.setattr(doctor, "_POWERCAP", tmp_path)
    found = dict(doctor.findings(None))
    assert found["GPU energy"] == "found: NVML sees 2 device(s)"
    assert found["CPU energy"] == "found: 2 RAPL counter(s)"
    assert found["compile cache"].startswith("off")
