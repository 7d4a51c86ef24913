"""A journal that anything may have happened to ends in a report or in a UserError."""

import copy
import json
import random

import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, counter, power
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpet_jax.energy import EnergyMeter, Found, Unavailable, report_from_journal
from dpet_jax.energy.accounts.journal import read, read_until
from dpet_jax.errors import UserError

STRANGE = [
    *(None, True, False, 0, -1, 1e308, -1e308, 10**400, "", "x", "nan", [], {}),
    *([[]], {"a": {}}, [None], float("nan"), float("inf"), float("-inf"), "=1+1"),
]
MANY = 60


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    """The lines of a run of two segments with labels, anomalies and two channels."""
    path = tmp_path_factory.mktemp("journal") / "energy.jsonl"
    earlier = None
    for _ in range(2):
        clock = FakeClock()
        probes = (
            FakeProbe(clock, counter(lambda t: 200.0 * min(t, 4.0)), power(200.0)),
            FakeProbe(clock, power(50.0), id="node:B", component="node"),
        )
        probes[0].known = {"temperature_c": 40, "name": "A card"}
        no_cpu = Unavailable("cpu", "denied", "as root")
        meter = EnergyMeter(Found(probes, (no_cpu,)), clock=clock, period_s=0.25)
        with meter:
            if earlier is not None:
                meter.resume(earlier)
            meter.keep_journal(path)
            meter.measure_idle(1.0)
            with meter.window("train", index=1), meter.window("checkpoint"):
                clock.wait(1.0)
            clock.wait(3.0)
        earlier = meter.accounts()
    return path.read_bytes()


def outcome(path):
    """Read a journal in every way there is; only a UserError may come out."""
    message, report = "", None
    try:
        read_until(path, "checkpoint", 2)
        report = report_from_journal(path)
        json.dumps([str(report), report.data])
    except UserError as error:
        message = str(error)
    assert report is not None or message.startswith(str(path))
    return message or report


def places(value, at=()):
    """Return the path of everything inside plain data."""
    found = [at]
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            found += places(inner, (*at, key))
    return found


def replaced(value, at, new):
    value = copy.deepcopy(value)
    if not at:
        return new
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[at[-1]]
    else:
        inner[at[-1]] = new
    return value


def test_sound_journal_gives_a_report(journal, tmp_path):
    path = tmp_path / "energy.jsonl"
    path.write_bytes(journal)
    data = outcome(path).data
    assert data["complete"]
    assert data["time"]["segments"] == 2


def test_any_value_of_a_line_may_be_another_or_missing(journal, tmp_path):
    path, random_ = tmp_path / "energy.jsonl", random.Random(4)
    lines = journal.split(b"\n")
    refused = 0
    for _ in range(MANY):
        number = random_.choice([0, 0, *range(len(lines) - 1)])
        line = json.loads(lines[number])
        at = random_.choice(places(line))
        new = random_.choice([*STRANGE, ...]) if at else random_.choice(STRANGE)
        damaged = json.dumps(replaced(line, at, new)).encode()
        path.write_bytes(b"\n".join([*lines[:number], damaged, *lines[number + 1 :]]))
        refused += isinstance(outcome(path), str)
    assert MANY / 4 < refused < MANY


def test_file_may_end_anywhere(journal, tmp_path):
    path, random_ = tmp_path / "energy.jsonl", random.Random(5)
    first = journal.index(b"\n") + 1
    for end in [0, 1, first - 1, first, *random_.sample(range(len(journal)), 20)]:
        path.write_bytes(journal[:end])
        result = outcome(path)
        assert isinstance(result, str) == (end < first)
        assert end >= first or "holds no energy record" in result


def test_bytes_may_be_flipped(journal, tmp_path):
    path, random_ = tmp_path / "energy.jsonl", random.Random(6)
    for _ in range(MANY // 2):
        damaged = bytearray(journal)
        for _ in range(random_.choice([1, 3, 50])):
            damaged[random_.randrange(len(damaged))] = random_.randrange(256)
        path.write_bytes(bytes(damaged))
        outcome(path)


@settings(
    deadline=None,
    derandomize=True,
    max_examples=MANY,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.recursive(
                st.sampled_from(STRANGE),
                lambda inner: st.dictionaries(
                    st.sampled_from(
                        ["event", "start", "state", "patch", "phases", "labels", "a"]
                    ),
                    st.sampled_from(["start", "sample", "window"]) | inner,
                    max_size=4,
                ),
                max_leaves=8,
            ).map(lambda value: json.dumps(value).encode()),
        ),
        max_size=4,
    )
)
def test_anything_at_all_may_be_in_it(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "anything.jsonl"
    path.write_bytes(b"\n".join([*lines, b""]))
    assert isinstance(outcome(path), str)


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"event":"start","state":{"a":'])
def test_deep_nesting_is_refused(opening, tmp_path):
    path = tmp_path / "energy.jsonl"
    path.write_text(opening * 100_000 + "\n")
    assert "no energy record" in outcome(path)
    path.write_text(opening * 100_000 + '\n{"event": "sample", "patch": {}}\n')
    assert "line 1: it is nested too deeply" in outcome(path)


def test_rubbish_before_another_segment_loses_that_segments_end_only(journal, tmp_path):
    path = tmp_path / "energy.jsonl"
    lines = journal.split(b"\n")
    starts = [
        n for n, line in enumerate(lines) if line.startswith(b'{"event": "start"')
    ]
    lines[starts[1] - 1] = b"\0\0\xff{"
    path.write_bytes(b"\n".join(lines))
    data = outcome(path).data
    assert (data["complete"], data["time"]["segments"]) == (True, 2)


def test_damage_in_the_middle_is_named_with_its_line_and_a_remedy(journal, tmp_path):
    path = tmp_path / "energy.jsonl"
    lines = journal.split(b"\n")
    lines[3] = lines[3][:-9]
    path.write_bytes(b"\n".join(lines))
    message = outcome(path)
    assert message.startswith(f"{path}: damaged: line 4: ")
    assert message.endswith("cut it off before this line, whose energy is then lost")


def test_journal_of_a_later_version_is_refused_with_both_versions(journal, tmp_path):
    path = tmp_path / "energy.jsonl"
    path.write_bytes(journal.replace(b"meter-state/2", b"meter-state/3"))
    message = outcome(path)
    assert "schema: is 'dpet-jax/meter-state/3'" in message
    assert "reads dpet-jax/meter-state/1 and dpet-jax/meter-state/2" in message


def test_journal_that_is_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)
