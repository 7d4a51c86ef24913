"""Every second and joule belongs to one phase, the innermost open window's."""

import copy
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpet_jax.energy import PHASES
from dpet_jax.energy.accounts.ledger import Edge, Ledger, Row
from dpet_jax.energy.sensing.curve import Totals

TWO_J = Totals(2.0)


class Book:
    """A ledger over a component of constant power in virtual time."""

    def __init__(self, watts=10.0, edge_j2=lambda *_: 0.0):
        self.t, self.joules, self.watts, self.compile_s = 100.0, 5.0, watts, 7.0
        self.ledger = Ledger(self.edge(), edge_j2)
        self.frames = []

    def edge(self):
        return Edge(self.t, {"gpu": Totals(energy_j=self.joules)}, self.compile_s)

    def pass_by(self, seconds):
        self.t += seconds
        self.joules += self.watts * seconds

    def enter(self, phase, label=None):
        self.frames.append(self.ledger.enter(phase, label, self.edge()))
        return self.frames[-1]

    def leave(self, sync="explicit"):
        return self.ledger.leave(self.frames.pop(), self.edge(), sync)

    def turn(self):
        self.ledger.turn(self.edge())

    def rows(self):
        self.turn()
        return self.ledger.rows()

    def spent(self):
        return {name: row.s for name, row in self.rows()[0].items() if row.s}

    def joules_by_phase(self):
        rows = self.rows()[0]
        return {name: row.totals["gpu"].energy_j for name, row in rows.items() if row.s}


@pytest.fixture
def book():
    return Book()


# phases


def test_canonical_phases_are_those_of_the_report():
    names = "compile data select train eval checkpoint idle other"
    assert tuple(names.split()) == PHASES


def test_what_is_outside_every_window_is_other(book):
    book.pass_by(2)
    assert book.spent() == {"other": 2}
    book.enter("train")
    book.pass_by(3)
    book.leave()
    book.pass_by(4)
    assert book.spent() == {"train": 3, "other": 6}
    assert book.joules_by_phase() == {"train": 30, "other": 60}


def test_inner_window_pauses_the_outer_one(book):
    book.enter("train")
    book.pass_by(1)
    book.enter("eval")
    book.pass_by(10)
    book.enter("compile")
    book.pass_by(100)
    book.leave()
    book.pass_by(20)
    book.leave()
    book.pass_by(2)
    book.leave()
    assert book.spent() == {"train": 3, "eval": 30, "compile": 100}
    assert book.joules_by_phase() == {"train": 30, "eval": 300, "compile": 1000}


def test_inclusive_sums_hold_what_inner_windows_used(book):
    book.enter("train")
    book.pass_by(1)
    book.enter("eval")
    book.pass_by(10)
    book.leave()
    book.leave()
    phases, _ = book.rows()
    assert phases["train"].inclusive_s == 11
    assert phases["train"].inclusive_j == {"gpu": 110}
    assert phases["eval"].inclusive_s == 10
    assert phases["other"].inclusive_s == 0


def test_closing_a_window_returns_its_seconds_and_all_that_was_used_inside(book):
    book.enter("train")
    book.pass_by(1)
    book.enter("eval")
    book.pass_by(10)
    assert book.leave() == (10, {"gpu": Totals(energy_j=100.0)})
    assert book.leave() == (11, {"gpu": Totals(energy_j=110.0)})


def test_window_inside_one_of_the_same_phase_counts_its_time_once(book):
    book.enter("train")
    book.pass_by(1)
    book.enter("train")
    book.pass_by(5)
    book.leave()
    book.leave()
    assert book.spent() == {"train": 6}
    phases, _ = book.rows()
    assert phases["train"].inclusive_s == 6
    assert phases["train"].inclusive_j == {"gpu": 60}
    assert phases["train"].count == 2


def test_same_phase_further_out_counts_time_once_too(book):
    book.enter("train")
    book.enter("eval")
    book.enter("train")
    book.pass_by(5)
    book.leave()
    assert book.rows()[0]["train"].inclusive_s == 5
    book.leave()
    book.leave()
    assert book.rows()[0]["train"].inclusive_s == 5


def test_windows_of_one_name_aggregate(book):
    for seconds in (1, 2, 3):
        book.enter("train")
        book.pass_by(seconds)
        book.leave()
        book.pass_by(10)
    phases, _ = book.rows()
    assert phases["train"].s == phases["train"].inclusive_s == 6
    assert phases["train"].count == 3
    assert phases["other"].count == 0


def test_phases_add_up_to_the_whole_at_every_moment(book):
    for number, phase in enumerate(PHASES, start=1):
        book.pass_by(0.5)
        book.enter(phase)
        book.pass_by(number)
        assert sum(book.spent().values()) == pytest.approx(book.t - 100)
        assert sum(book.joules_by_phase().values()) == pytest.approx(book.joules - 5)
        if number % 2:  # the others stay open inside one another
            book.leave()
    assert sum(book.spent().values()) == 0.5 * 8 + 36


def test_edge_that_comes_late_to_the_ledger_puts_everything_in_its_place(book):
    # another thread asks for rows after the edge was read and before it is booked
    book.pass_by(2)
    book.enter("train")
    book.pass_by(3)
    edge = book.edge()
    book.pass_by(0.5)
    book.turn()
    book.ledger.leave(book.frames.pop(), edge, "explicit")
    book.pass_by(1)
    assert book.spent() == {"other": 3.5, "train": 3}
    assert book.joules_by_phase() == {"other": 35, "train": 30}


def test_all_that_was_added_up_is_kept_by_channel():
    first = {"a": Totals(1.0, 2, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)}
    later = {
        "a": Totals(2.0, 4, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0),
        "b": Totals(energy_j=3.0),
    }
    ledger = Ledger(Edge(0.0, first), lambda *_: 0.0)
    ledger.enter("train", None, Edge(1.0, later))
    phases, _ = ledger.rows()
    assert phases["other"].totals == {
        "a": Totals(1.0, 2, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
        "b": Totals(energy_j=3.0),
    }


# open windows


def test_rows_hold_an_open_window_up_to_now(book):
    book.enter("select")
    book.pass_by(3)
    assert book.spent() == {"select": 3}
    book.pass_by(4)
    book.leave()
    assert book.spent() == {"select": 7}


def test_inclusive_sums_hold_open_windows_as_far_as_they_have_come(book):
    book.enter("train", "round 1")
    book.pass_by(1)
    book.enter("train")
    book.pass_by(2)
    book.enter("eval", "test")
    book.pass_by(4)
    phases, labels = book.rows()
    assert phases["train"].inclusive_s == 7
    assert phases["train"].inclusive_j == {"gpu": 70}
    assert phases["eval"].inclusive_s == 4
    assert labels["round 1"].inclusive_s == 7
    assert labels["test"].inclusive_j == {"gpu": 40}
    assert phases["train"].count == labels["test"].count == 0
    # and asking changes nothing
    assert book.rows() == (phases, labels)
    for _ in range(3):
        book.leave()
    phases, labels = book.rows()
    assert phases["train"].inclusive_s == 7
    assert labels["round 1"].inclusive_s == 7


def test_rows_are_left_alone_by_later_edges(book):
    book.enter("train", "round 1")
    book.pass_by(1)
    kept = book.rows()
    again = copy.deepcopy(kept)
    book.pass_by(1)
    book.leave()
    assert kept == again
    assert book.rows()[0]["train"].s == 2


# windows of several threads, and windows left out of order


def in_a_thread(work):
    """Do something in a thread of its own, which is over when this returns."""
    result = []
    thread = threading.Thread(target=lambda: result.append(work()))
    thread.start()
    thread.join()
    return result[0]


def test_windows_of_two_threads_keep_their_own_time_whichever_ends_first(book):
    for ends_first in ("train", "data"):
        begin = book.t
        train = book.enter("train")
        book.pass_by(4)
        data = in_a_thread(lambda: book.enter("data", "loader"))
        book.pass_by(6)
        frames = {"train": train, "data": data}
        first = frames.pop(ends_first)
        spent_first = book.ledger.leave(first, book.edge(), "none")
        book.pass_by(2)
        ((_, last),) = frames.items()
        spent_last = book.ledger.leave(last, book.edge(), "none")
        whole = {"train": 10 if ends_first == "train" else 12, "data": 6}
        whole["data"] += 2 if ends_first == "train" else 0
        got = {ends_first: spent_first, last.phase: spent_last}
        assert {name: spent[0] for name, spent in got.items()} == whole
        joules = {name: spent[1]["gpu"].energy_j for name, spent in got.items()}
        assert joules == {name: 10 * s for name, s in whole.items()}
        assert book.t - begin == 12
    phases, labels = book.rows()
    # 6 s each time are shared, 2 s at the end belong to whoever is left
    assert phases["train"].s == (4 + 3) + (4 + 3 + 2)
    assert phases["data"].s == (3 + 2) + 3
    assert phases["train"].inclusive_s == 10 + 12
    assert phases["data"].inclusive_s == labels["loader"].inclusive_s == 8 + 6
    assert phases["data"].totals["gpu"].energy_j == 80
    assert sum(book.spent().values()) == 24


def test_threads_in_one_phase_at_once_count_its_time_once(book):
    mine = book.enter("train", "round 1")
    book.pass_by(1)
    other = in_a_thread(lambda: book.enter("train", "round 1"))
    book.pass_by(2)
    book.ledger.leave(mine, book.edge(), "none")
    book.pass_by(4)
    assert book.rows()[0]["train"].inclusive_s == 7, "open windows too"
    book.ledger.leave(other, book.edge(), "none")
    phases, labels = book.rows()
    assert phases["train"].s == phases["train"].inclusive_s == 7
    assert phases["train"].inclusive_j == labels["round 1"].inclusive_j == {"gpu": 70}
    assert (phases["train"].count, labels["round 1"].count) == (2, 2)


def test_thread_inherits_no_label_of_another(book):
    book.enter("train", "round 1")
    assert in_a_thread(lambda: book.enter("data").label) is None


def test_outer_window_may_be_left_before_the_inner_one(book):
    outer = book.enter("train", "round 1")
    book.pass_by(1)
    inner = book.enter("eval", "test")
    book.pass_by(2)
    spent_outer = book.ledger.leave(outer, book.edge(), "none")
    book.pass_by(4)
    spent_inner = book.ledger.leave(inner, book.edge(), "none")
    book.pass_by(8)
    assert (spent_outer[0], spent_inner[0]) == (3, 6)
    assert spent_outer[1]["gpu"].energy_j == 30
    assert spent_inner[1]["gpu"].energy_j == 60
    assert book.spent() == {"train": 1, "eval": 6, "other": 8}
    phases, _ = book.rows()
    assert (phases["train"].inclusive_s, phases["eval"].inclusive_s) == (3, 6)


def test_edges_of_shared_time_are_those_at_which_a_share_changes():
    book = Book(10.0, remembering([]))
    book.enter("train")
    book.pass_by(1)
    other = in_a_thread(lambda: book.enter("data"))
    book.pass_by(1)
    book.ledger.leave(other, book.edge(), "none")
    book.pass_by(1)
    phases, _ = book.rows()
    # the first stretch, and both ends of the shared time
    assert charged(phases) == {"train": 3 * 10_010, "data": 2 * 10_010}
    assert phases["train"].edges == 3


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from("ab>"), st.integers(0, 3)),
        max_size=30,
    )
)
def test_whatever_order_windows_come_and_go_in_phases_add_up(steps):
    """Against a plain list of who was open in every second."""
    book, clock_s = Book(10.0), 0
    stacks, expected, inclusive = {0: [], 1: [], 2: []}, {}, {}
    ident = threading.get_ident
    for thread, what, seconds in steps:
        threading.get_ident = lambda thread=thread: thread
        try:
            if what == ">":
                if stacks[thread]:  # any of the thread's, not the innermost alone
                    frame = stacks[thread].pop(clock_s % len(stacks[thread]))
                    book.ledger.leave(frame, book.edge(), "none")
            else:
                stacks[thread].append(book.ledger.enter(what, None, book.edge()))
        finally:
            threading.get_ident = ident
        book.pass_by(seconds)
        clock_s += seconds
        tops = [stack[-1].phase for stack in stacks.values() if stack] or ["other"]
        for phase in tops:
            expected[phase] = expected.get(phase, 0) + seconds / len(tops)
        for phase in {frame.phase for stack in stacks.values() for frame in stack}:
            inclusive[phase] = inclusive.get(phase, 0) + seconds
    phases, _ = book.rows()
    for phase in expected:
        if expected[phase]:
            assert phases[phase].s == pytest.approx(expected[phase])
            joules = phases[phase].totals["gpu"].energy_j
            assert joules == pytest.approx(10 * expected[phase])
    for phase, whole_s in inclusive.items():
        if phase in phases:
            assert phases[phase].inclusive_s == pytest.approx(whole_s)


# labels


def test_label_of_the_outer_window_covers_what_is_inside(book):
    assert book.ledger.open == (("other", None),)
    frame = book.enter("train", "round 1")
    assert (frame.phase, frame.label) == ("train", "round 1")
    book.pass_by(1)
    assert book.enter("eval").label == "round 1"
    assert book.ledger.open == (("eval", "round 1"),)
    book.pass_by(2)
    book.leave()
    book.leave()
    book.pass_by(4)
    _, labels = book.rows()
    assert labels.keys() == {"round 1"}
    assert labels["round 1"].s == labels["round 1"].inclusive_s == 3
    assert labels["round 1"].totals["gpu"].energy_j == 30
    assert labels["round 1"].inclusive_j == {"gpu": 30}


def test_label_of_its_own_takes_a_window_out_of_the_outer_label(book):
    book.enter("train", "round 1")
    book.pass_by(1)
    book.enter("eval", "test")
    book.pass_by(2)
    book.leave()
    book.leave()
    _, labels = book.rows()
    assert {name: row.s for name, row in labels.items()} == {"round 1": 1, "test": 2}
    assert labels["round 1"].inclusive_s == 3


def test_label_is_counted_by_its_outermost_windows(book):
    for _ in range(2):
        book.enter("train", "round 1")
        book.enter("eval")
        book.leave()
        book.enter("select", "round 1")
        book.leave()
        book.leave()
    _, labels = book.rows()
    assert labels["round 1"].count == 2
    book.enter("eval")
    book.leave()
    assert book.rows()[1].keys() == {"round 1"}


# what is known about windows


def test_time_in_windows_too_short_for_sensors_is_counted(book):
    for seconds in (0.25, 0.5, 0.75, 1.0, 3.0):
        book.enter("eval", "test")
        book.pass_by(seconds)
        book.leave()
    phases, labels = book.rows()
    assert phases["eval"].short_s == 1.5
    assert phases["eval"].count == 5
    assert labels["test"].short_s == 0


def test_ways_of_waiting_for_the_device_are_collected(book):
    for sync in ("explicit", "none", "explicit"):
        book.enter("eval")
        book.leave(sync)
    assert book.rows()[0]["eval"].sync == {"explicit", "none"}


def test_seconds_spent_compiling_belong_to_the_window_they_fell_into(book):
    book.compile_s += 1
    book.enter("train", "round 1")
    book.compile_s += 2
    book.enter("compile", "warm-up")
    book.compile_s += 4
    book.leave()
    book.compile_s += 8
    phases, labels = book.rows()
    assert {name: row.compile_s for name, row in phases.items()} == {
        "other": 1,
        "train": 10,
        "compile": 4,
    }
    assert labels["round 1"].compile_s == 10


# edges


def remembering(calls):
    def edge_j2(channel, before_w, after_w):
        calls.append((channel, before_w, after_w))
        return 1000 * before_w + after_w

    return edge_j2


def charged(rows):
    return {name: row.edge_j2["gpu"] for name, row in rows.items() if row.edge_j2}


def test_edge_is_charged_to_both_its_sides():
    book = Book(10.0, remembering([]))
    book.pass_by(1)
    book.watts = 200.0
    book.enter("train")
    book.pass_by(1)
    book.leave()
    book.watts = 30.0
    book.pass_by(1)
    phases, _ = book.rows()
    first, rise, fall = 10_010, 10_200, 200_030
    assert charged(phases) == {"other": first + rise + fall, "train": rise + fall}


def test_edge_is_charged_to_labels_too():
    book = Book(10.0, remembering([]))
    book.pass_by(1)
    book.enter("train", "round 1")
    book.pass_by(1)
    book.leave()
    book.pass_by(1)
    assert charged(book.rows()[1]) == {"round 1": 2 * 10_010}


def test_edge_between_two_phases_of_one_label_cancels_in_it():
    book = Book(10.0, remembering([]))
    book.pass_by(1)
    book.enter("select", "round 1")
    book.pass_by(1)
    book.leave()
    book.enter("train", "round 1")
    book.pass_by(1)
    book.leave()
    book.pass_by(1)
    phases, labels = book.rows()
    assert charged(labels) == {"round 1": 2 * 10_010}
    assert charged(phases) == {
        "other": 3 * 10_010,
        "select": 2 * 10_010,
        "train": 2 * 10_010,
    }


def test_edge_between_two_labels_of_one_phase_cancels_in_it():
    book = Book(10.0, remembering([]))
    for label in ("round 1", "round 2"):
        book.enter("train", label)
        book.pass_by(1)
        book.leave()
    phases, labels = book.rows()
    assert charged(phases) == {"train": 10_010}
    assert charged(labels) == {"round 1": 2 * 10_010, "round 2": 10_010}


def test_looking_at_the_rows_is_no_edge():
    book = Book(10.0, remembering([]))
    for phase in ("train", "eval"):
        book.enter(phase)
        for _ in range(5):
            book.pass_by(1)
            book.rows()
        book.leave()
    assert charged(book.rows()[0]) == {"train": 2 * 10_010, "eval": 10_010}


def test_window_of_no_length_between_two_of_the_same_is_no_edge():
    book = Book(10.0, remembering([]))
    for _ in range(3):
        book.enter("train")
        book.pass_by(1)
        book.leave()
    assert charged(book.rows()[0]) == {"train": 10_010}


def test_power_at_an_edge_is_the_mean_of_the_windows_it_lies_between():
    # a look at the rows just before the edge, when the counter just made a step,
    # must not be taken for 7000 W
    calls = []
    book = Book(70.0, remembering(calls))
    book.enter("train")
    book.pass_by(0.99)
    book.turn()
    book.pass_by(0.01)
    book.joules += 70
    book.enter("eval")
    book.pass_by(0.5)
    book.turn()
    book.joules += 35
    book.pass_by(0.5)
    calls.clear()
    book.rows()
    assert calls == [("gpu", pytest.approx(140), pytest.approx(105))]


def test_channel_that_was_not_there_before_an_edge_is_taken_as_it_is_after():
    calls = []
    ledger = Ledger(Edge(0.0, {}), remembering(calls))
    ledger.enter("train", None, Edge(1.0, {}))
    ledger.turn(Edge(2.0, {"cpu": Totals(energy_j=50.0)}))
    ledger.rows()
    assert calls == [("cpu", 50, 50)]


# rows


def full_row():
    return Row(
        s=1.5,
        totals={"gpu": Totals(1.0, 2, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)},
        inclusive_s=2.5,
        inclusive_j={"gpu": 3.5},
        count=4,
        short_s=0.5,
        compile_s=0.25,
        edge_j2={"gpu": 6.5},
        sync=frozenset({"none", "explicit"}),
        edges=3,
    )


def test_rows_add_up_and_are_left_alone():
    row, other = full_row(), Row(sync=frozenset({"barrier"}), totals={"cpu": TWO_J})
    assert row + row + other == Row(
        s=3.0,
        totals={
            "gpu": Totals(2.0, 4, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0),
            "cpu": TWO_J,
        },
        inclusive_s=5.0,
        inclusive_j={"gpu": 7.0},
        count=8,
        short_s=1.0,
        compile_s=0.5,
        edge_j2={"gpu": 13.0},
        sync=frozenset({"none", "explicit", "barrier"}),
        edges=6,
    )
    assert row == full_row()
    assert other == Row(sync=frozenset({"barrier"}), totals={"cpu": TWO_J})
