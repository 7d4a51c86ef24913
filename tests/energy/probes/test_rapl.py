"""CPU packages and memory are counted once each, and a failed reading is never 0."""

import os
from pathlib import Path

import pytest
from fakes.clock import FakeClock
from fakes.rapl import (
    DRAM_RANGE_J,
    SERVER_RANGE_J,
    FakePowercap,
    laptop,
    server,
    two_dies,
)

from dpet_jax.energy.probes.rapl import METHOD, RaplProbe, find
from dpet_jax.energy.probes.source import Probe


@pytest.fixture
def search():
    """Look for domains as `find` does, and close them when the test is over."""
    opened = []

    def search(tree):
        found = find(tree.root)
        opened.extend(found.probes)
        return found

    yield search
    for probe in opened:
        probe.close()


def ids(found):
    return [probe.id for probe in found.probes]


def only(found):
    (probe,) = found.probes
    return probe


# which domains count


def test_every_package_counts_with_its_memory_and_no_part_of_it(tmp_path, search):
    found = search(server(tmp_path))
    assert [(p.id, p.component, p.scope) for p in found.probes] == [
        ("cpu:package-0", "cpu", "package"),
        ("dram:package-0", "dram", "dram"),
        ("cpu:package-1", "cpu", "package"),
        ("dram:package-1", "dram", "dram"),
    ]
    assert found.unavailable == ()
    assert all(isinstance(probe, Probe) for probe in found.probes)


def test_both_dies_of_a_socket_count(tmp_path, search):
    found = search(two_dies(tmp_path))
    assert ids(found) == ["cpu:package-0-die-0", "cpu:package-0-die-1"]


def test_neither_psys_nor_the_mmio_twin_is_added_to_a_package(tmp_path, search):
    assert ids(search(laptop(tmp_path))) == ["cpu:package-0"]


def test_twin_of_the_memory_is_not_counted_either(tmp_path, search):
    tree = server(tmp_path, sockets=1)
    tree.add("intel-rapl-mmio:0", "package-0")
    tree.add("intel-rapl-mmio:0:0", "dram")
    assert ids(search(tree)) == ["cpu:package-0", "dram:package-0"]


def test_mmio_counts_where_it_is_the_only_node(tmp_path, search):
    tree = FakePowercap(tmp_path)
    tree.add("intel-rapl-mmio:0", "package-0", energy_j=7.0)
    tree.add("intel-rapl:0", "psys")
    found = search(tree)
    assert ids(found) == ["cpu:package-0"]
    assert only(found).read() == (7.0,)


def test_psys_counts_only_where_there_is_no_package(tmp_path, search):
    tree = FakePowercap(tmp_path)
    tree.add("intel-rapl:0", "psys")
    tree.add("intel-rapl:1", "psys-1")
    found = search(tree)
    assert ids(found) == ["cpu:psys", "cpu:psys-1"]
    assert {(p.component, p.scope) for p in found.probes} == {("cpu", "psys")}
    assert found.unavailable == ()


def test_twin_of_psys_is_not_added_to_it(tmp_path, search):
    tree = FakePowercap(tmp_path)
    tree.add("intel-rapl:0", "psys")
    tree.add("intel-rapl-mmio:0", "psys")
    assert ids(search(tree)) == ["cpu:psys"]


def test_second_psys_is_no_package(tmp_path, search):
    tree = laptop(tmp_path)
    tree.add("intel-rapl:2", "psys-1")
    assert ids(search(tree)) == ["cpu:package-0"]


def test_memory_goes_to_the_package_it_lies_in(tmp_path, search):
    tree = FakePowercap(tmp_path)
    for number in (10, 2, 1):
        tree.add(f"intel-rapl:{number}", f"package-{number}")
        tree.add(f"intel-rapl:{number}:0", "dram", energy_j=float(number))
    found = search(tree)
    read = {probe.id: probe.read()[0] for probe in found.probes}
    assert list(read)[::2] == ["cpu:package-1", "cpu:package-2", "cpu:package-10"]
    assert read["dram:package-1"] == 1.0
    assert read["dram:package-10"] == 10.0


def test_two_packages_of_one_name_have_different_ids(tmp_path, search):
    tree = FakePowercap(tmp_path)
    tree.add("intel-rapl:0", "package-0")
    tree.add("intel-rapl:1", "package-0")
    assert ids(search(tree)) == ["cpu:package-0", "cpu:package-0@intel-rapl:1"]


def test_zones_of_other_drivers_are_left_alone(tmp_path, search):
    tree = laptop(tmp_path)
    tree.add("dtpm:0", "package-0")
    assert ids(search(tree)) == ["cpu:package-0"]


# what a domain reports


def test_counter_gives_joules(tmp_path, search):
    tree = FakePowercap(tmp_path)
    tree.add("intel-rapl:0", "package-0", energy_j=1234.567891)
    assert only(search(tree)).read() == (1234.567891,)


def test_open_probe_sees_the_energy_grow(tmp_path, search):
    clock = FakeClock()
    tree = laptop(tmp_path, clock)
    tree["intel-rapl:0"].watts = 40.0
    probe = only(search(tree))
    before = probe.read()[0]
    clock.wait(5.0)
    assert probe.read()[0] - before == pytest.approx(200.0)


def test_file_stays_open_between_readings(tmp_path, search, monkeypatch):
    probe = only(search(laptop(tmp_path)))
    monkeypatch.setattr(os, "open", None)
    assert probe.read() == (0.0,)


def test_each_domain_wraps_at_its_own_range(tmp_path, search):
    found = search(server(tmp_path, sockets=1))
    package, dram = found.probes
    assert package.sources[0].wrap_j == pytest.approx(SERVER_RANGE_J)
    assert dram.sources[0].wrap_j == pytest.approx(DRAM_RANGE_J)


def test_counter_and_range_make_up_a_wrap(tmp_path, search):
    tree = laptop(tmp_path)
    tree["intel-rapl:0"].set_j(SERVER_RANGE_J - 3.0)
    probe = only(search(tree))
    before = probe.read()[0]
    tree["intel-rapl:0"].set_j(SERVER_RANGE_J + 5.0)
    after = probe.read()[0]
    assert after == pytest.approx(5.0)
    assert after - before + probe.sources[0].wrap_j == pytest.approx(8.0)


@pytest.mark.parametrize("range_text", [None, "", "0", "unknown"])
def test_range_that_is_not_known_is_none(range_text, tmp_path, search):
    tree = FakePowercap(tmp_path)
    domain = tree.add("intel-rapl:0", "package-0", range_j=None)
    if range_text is not None:
        (domain.path / "max_energy_range_uj").write_text(range_text)
    assert only(search(tree)).sources[0].wrap_j is None


def test_source_is_a_measured_counter_that_is_worse_for_memory(tmp_path, search):
    package, dram = search(server(tmp_path, sockets=1)).probes
    (source,) = package.sources
    assert (source.method, source.kind, source.quality) == (
        METHOD,
        "counter",
        "measured",
    )
    assert source.rel_uncertainty == 0.05
    assert source.update_period_s == 0.001
    assert dram.sources[0].rel_uncertainty == 0.10


def test_facts_say_that_a_package_is_shared_with_whom_nobody_knows(tmp_path, search):
    tree = laptop(tmp_path)
    assert only(search(tree)).facts() == {
        "name": "package-0",
        "path": str(tree.root / "intel-rapl:0" / "energy_uj"),
        "max_range_j": pytest.approx(SERVER_RANGE_J),
        "shared": "package",
        "foreign_processes": None,
    }


# readings that fail


@pytest.mark.parametrize("garbage", ["", "\n", "busy\n", "-1\n"])
def test_garbage_is_none_and_never_zero(garbage, tmp_path, search):
    tree = laptop(tmp_path)
    probe = only(search(tree))
    tree["intel-rapl:0"].write(garbage)
    assert probe.read() == (None,)
    tree["intel-rapl:0"].set_j(12.0)
    assert probe.read() == (12.0,)


def test_file_that_vanishes_is_none_until_it_is_back(tmp_path, search):
    tree = laptop(tmp_path)
    probe = only(search(tree))
    tree["intel-rapl:0"].vanish()
    assert probe.read() == (None,)
    assert probe.read() == (None,)
    tree["intel-rapl:0"].set_j(9.0)
    assert probe.read() == (9.0,)


def test_stale_file_is_opened_again_within_the_same_reading(
    tmp_path, search, monkeypatch
):
    tree = laptop(tmp_path)
    probe = only(search(tree))
    tree["intel-rapl:0"].set_j(5.0)
    pread, failures = os.pread, iter([OSError(19, "No such device")])

    def stale_once(*arguments):
        for failure in failures:
            raise failure
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", stale_once)
    assert probe.read() == (5.0,)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_failing_probe_leaves_no_files_open(tmp_path, search):
    tree = laptop(tmp_path)
    before = open_files()
    probe = only(search(tree))
    tree["intel-rapl:0"].write("busy")
    for _ in range(5):
        probe.read()
    assert open_files() <= before + 1
    probe.close()
    assert open_files() == before


def test_closed_probe_reads_none_and_opens_nothing(tmp_path, search):
    before = open_files()
    probe = only(search(laptop(tmp_path)))
    probe.close()
    probe.close()
    assert probe.read() == (None,)
    assert open_files() == before


# what cannot be measured


def deny(monkeypatch, named):
    """Refuse files whose path holds a word, as the kernel does to all but root."""
    real = os.open

    def refusing(path, *arguments, **options):
        if named in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)


def test_denied_counters_are_named_with_the_remedy(tmp_path, search, monkeypatch):
    tree = server(tmp_path)
    deny(monkeypatch, "energy_uj")
    found = search(tree)
    assert found.probes == ()
    cpu, dram = found.unavailable
    first = tree.root / "intel-rapl:0"
    assert cpu.component == "cpu"
    assert cpu.reason == f"powercap: permission denied ({first}/energy_uj)"
    assert "as root" in cpu.remedy
    assert f"chmod g+r {tree.root}/*/energy_uj" in cpu.remedy
    assert dram.component == "dram"
    assert "intel-rapl:0:1" in dram.reason


def test_what_may_be_read_is_measured_beside_what_may_not(
    tmp_path, search, monkeypatch
):
    tree = server(tmp_path)
    deny(monkeypatch, "intel-rapl:1/")
    found = search(tree)
    assert ids(found) == ["cpu:package-0", "dram:package-0", "dram:package-1"]
    (missing,) = found.unavailable
    assert missing.component == "cpu"
    assert "intel-rapl:1/energy_uj" in missing.reason


def absent(folder):
    return folder / "none"


def empty(folder):
    folder.joinpath("empty").mkdir()
    return folder / "empty"


def masked(folder):
    """As Docker does: the links are there, what they point to is not."""
    root = folder / "links"
    root.mkdir()
    root.joinpath("intel-rapl:0").symlink_to(folder / "masked" / "intel-rapl:0")
    return root


@pytest.mark.parametrize("make", [absent, empty, masked])
def test_hidden_powercap_is_unavailable_with_the_likely_cause(make, tmp_path):
    root = make(tmp_path)
    found = find(root)
    assert found.probes == ()
    (missing,) = found.unavailable
    assert missing.component == "cpu"
    assert str(root) in missing.reason
    assert "a virtual machine or container hides it" in missing.reason
    assert "modprobe intel_rapl_msr" in missing.remedy


def test_counter_that_holds_nothing_is_unavailable_not_zero(tmp_path, search):
    tree = laptop(tmp_path)
    tree["intel-rapl:0"].write("")
    before = open_files()
    found = search(tree)
    assert found.probes == ()
    assert found.unavailable[0].reason == (
        f"powercap: cannot read {tree.root}/intel-rapl:0/energy_uj (it holds no number)"
    )
    assert open_files() == before


def test_missing_counter_is_reported_with_the_systems_reason(tmp_path, search):
    tree = laptop(tmp_path)
    tree["intel-rapl:0"].vanish()
    assert "(No such file or directory)" in search(tree).unavailable[0].reason


def test_package_without_a_memory_counter_says_so(tmp_path, search):
    (missing,) = search(laptop(tmp_path)).unavailable
    assert missing.component == "dram"
    assert missing.remedy


def test_probe_of_a_missing_file_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        RaplProbe(tmp_path, "package-0", "package", "cpu:package-0")
