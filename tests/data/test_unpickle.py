import contextlib
import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpet_jax.data.unpickle import RefusedPickleError, unpickle

STEPS = 10_000


def refusal(blob, steps=STEPS):
    with pytest.raises(RefusedPickleError) as caught:
        unpickle(blob, steps)
    return str(caught.value)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_plain_data_of_every_protocol_comes_back(protocol):
    value = {
        "numbers": [0, 1, 255, 256, 70_000, -5, 2**40, -(2**40)],
        "others": [None, True, False, (), (1,), (1, 2), (1, 2, 3, 4)],
        "text": ["a", "é €", "", "x" * 300],
        "inside": {"a": {"b": [[], {}]}},
    }
    assert unpickle(pickle.dumps(value, protocol), STEPS) == value


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_bytes_of_python_3_come_back(protocol, order):
    data = np.asarray(np.arange(12, dtype=np.uint8).reshape(3, 4), order=order)
    loaded = unpickle(pickle.dumps({"data": data, "b": b"\xff"}, protocol), STEPS)
    np.testing.assert_array_equal(loaded["data"], data)
    assert loaded["data"].dtype == np.uint8
    assert loaded["b"] == b"\xff"


def test_a_pickle_of_python_2_comes_back(pickled):
    data = np.arange(6000, dtype=np.uint8).reshape(3, 2000)
    loaded = unpickle(pickled({"data": data, "labels": [3, 4], "n": ["cat"]}), STEPS)
    np.testing.assert_array_equal(loaded["data"], data)
    assert (loaded["labels"], loaded["n"]) == ([3, 4], [b"cat"])
    # protocol 0 of Python 2: a line for everything
    text = (
        b"(dp1\nS'label_names'\np2\n(lp3\nS'it\\'s'\np4\naS\"b\"\nag4\nasS'n'\nI10\ns."
    )
    assert unpickle(text, STEPS) == {"label_names": [b"it's", b"b", b"it's"], "n": 10}


class Call:
    """Unpickles by calling a function."""

    def __init__(self, function, *given):
        self.reduced = function, given

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_function_that_a_pickle_names_is_never_called(tmp_path, protocol):
    victim = tmp_path / "made"
    blob = pickle.dumps({"data": Call(os.mkdir, str(victim))}, protocol)
    assert "mkdir" in refusal(blob)
    assert not victim.exists()
    pickle.loads(blob)  # the trap works: the plain loader falls into it
    assert victim.exists()


@pytest.mark.parametrize(
    "harmless", [bytearray(b"x"), 1.5, {1}, np.arange(3), np.array([None]), 1j]
)
def test_what_is_no_plain_data_is_refused(harmless):
    refusal(pickle.dumps({"data": harmless}, 4))


@pytest.mark.parametrize("value", [[1], 3, None, "x", np.zeros(3, np.uint8)])
def test_what_is_no_dictionary_is_refused(value):
    refusal(pickle.dumps(value, 4))


NAMES = {
    "array": b"cnumpy.core.multiarray\n_reconstruct\n",
    "ndarray": b"cnumpy\nndarray\n",
    "dtype": b"cnumpy\ndtype\n",
}
EMPTY = NAMES["array"] + b"(" + NAMES["ndarray"] + b"K\x00\x85U\x01btR"
U1 = NAMES["dtype"] + b"(U\x02u1K\x00K\x01tR"
PLAIN = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def array(dtype=U1 + PLAIN, shape=b"K\x02K\x03\x86", order=b"\x89", raw=b"U\x06abcdef"):
    state = b"(K\x01" + shape + dtype + order + raw + b"tb"
    return b"\x80\x02}U\x04data" + EMPTY + state + b"s."


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def test_the_array_that_the_forgeries_below_change_is_a_good_one():
    assert unpickle(array(), STEPS)["data"].tolist() == [[97, 98, 99], [100, 101, 102]]
    columns = unpickle(array(order=b"\x88"), STEPS)["data"]
    assert columns.tolist() == [[97, 99, 101], [98, 100, 102]]


def kind(code, state=PLAIN):
    return NAMES["dtype"] + b"(U" + bytes([len(code)]) + code + b"K\x00K\x01tR" + state


FORGED = {
    "an array of objects": array(kind(b"O8")),
    "an array of records": array(kind(b"V8")),
    "an array of floats": array(kind(b"f8")),
    "bytes that become objects by their state": array(
        U1 + b"(K\x03U\x01ONNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"
    ),
    "bytes with fields": array(
        U1 + b"(K\x03U\x01|N(U\x01atU\x01aK\x01sJ\x08\x00\x00\x00K\x01K\x3ftb"
    ),
    "bytes with named fields": array(
        U1 + b"(K\x03U\x01|N(U\x01at}U\x01aK\x01sK\x08K\x01K\x00tb"
    ),
    "bytes of another size": array(U1 + b"(K\x03U\x01|NNNK\x08K\x01K\x00tb"),
    "bytes with flags": array(
        U1 + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"
    ),
    "a type that is no type": array(b"K\x07"),
    "a shape larger than its bytes": array(shape=b"K\x02K\x04\x86"),
    "a shape of gigabytes": array(shape=number(2**40) + number(2**40) + b"\x86"),
    "a shape whose product overflows": array(
        shape=number(2**33) + number(2**31) + b"\x86"
    ),
    "a negative shape": array(shape=number(-2) + number(-3) + b"\x86"),
    "a shape of booleans": array(shape=b"\x88K\x06\x86"),
    "a shape of lists": array(shape=b"]K\x06\x86"),
    "a shape of many sides": array(shape=b"(" + b"K\x01" * 99 + b"K\x06t"),
    "a shape that is no tuple": array(shape=b"K\x06"),
    "text for bytes": array(raw=b"X\x06\x00\x00\x00abcdef"),
    "a list for bytes": array(raw=b"]"),
    "an order of its own": array(order=b"K\x07"),
    "a state of a dictionary": b"\x80\x02}U\x04data" + EMPTY + b"}bs.",
    "a subclass to be built": b"\x80\x02}U\x04data"
    + EMPTY.replace(NAMES["ndarray"], NAMES["dtype"])
    + b"s.",
    "a large empty array": b"\x80\x02}U\x04data"
    + EMPTY.replace(b"K\x00\x85", number(2**40) + b"\x85")
    + b"s.",
    "a state for a class": NAMES["ndarray"] + b"}U\x04evilK\x01sb.",
    "a call of a class": NAMES["ndarray"] + b"K\x06\x85R.",
    "a call of a number": b"K\x05)R.",
    "a new object": NAMES["ndarray"] + b"K\x06\x85\x81.",
    "an instance": b"(inumpy\nndarray\n.",
    "a persistent id": b"Pfile\n.",
    "an extension": b"\x82\x01.",
    "an attribute of a module": b"cnumpy\nload\n.",
    "a function for a value": b"}U\x01acos\nsystem\ns.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x09dtype.mro\x93.",
    "text said to be longer than the file": b"\x80\x02}U\x01aT\xff\xff\xff\x7fs.",
    "text of negative length": b"\x80\x02}U\x01aT\xff\xff\xff\xffs.",
    "text of eight bytes' length": b"\x80\x04}U\x01a\x8e" + b"\xff" * 8 + b"s.",
    "a number of kilobytes": b"\x80\x02}U\x01a\x8a\xff" + b"\x7f" * 255 + b"s.",
    "a line without end": b"}U\x01aI" + b"9" * 100_000,
    "a key that is a list": b"}]K\x01s.",
    "a key that is a tuple": b"})K\x01s.",
    "an item of a list": b"]U\x01aK\x01s.",
    "appending to a dictionary": b"}K\x01a.",
    "an odd number of items": b"}(U\x01aK\x01U\x01bu.",
    "a value that was never stored": b"}U\x01ah\x07s.",
    "an empty stack": b".",
    "a mark that is missing": b"}K\x01u.",
    "a mark for a value": b"}U\x01a(s.",
    "nothing": b"",
    "no pickle": b"hello",
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_pickles_are_refused(case):
    refusal(FORGED[case])


@pytest.mark.timeout(60)  # if anything follows all paths, it never ends
def test_lists_that_share_elements_stay_as_small_as_they_are_written():
    """Sixty tuples, each of the last one twice: 2**60 elements if they were copied."""
    shared = b"](]q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"e"
    start = b"}U\x01a" + shared + b"s"
    assert len(unpickle(start + b".", STEPS)["a"]) == 61
    assert "a key is no text" in refusal(start + b"h\x00K\x01s.")
    # nor do messages print them, nor comparisons follow them
    refusal(start + NAMES["dtype"] + b"h\x00R.")
    refusal(start + NAMES["dtype"] + b"(h\x00K\x00K\x01tR.")
    refusal(start + b"h\x00h\x00R.")
    refusal(start + b"h\x00h\x00b.")
    refusal(start + EMPTY + b"h\x00b.")
    refusal(start + U1 + b"(K\x03h\x00NNNK\x01K\x01K\x00tb.")
    refusal(start + array(shape=b"h\x00")[3:])
    refusal(start + array(shape=b"h\x00h\x00\x86")[3:])


def test_a_list_that_holds_itself_is_plain_data():
    loop = unpickle(b"}U\x01a]q\x00h\x00as.", STEPS)["a"]
    assert loop[0] is loop


def test_steps_are_counted():
    blob = pickle.dumps({"a": list(range(100))}, 2)
    assert len(unpickle(blob, 300)["a"]) == 100
    assert "more than 100 steps" in refusal(blob, 100)
    assert "more than 1,000 steps" in refusal(b"]" * 1_000_000, 1000)


@pytest.mark.timeout(60)
def test_depth_and_places_in_the_memo_cost_no_more_than_their_opcodes():
    deep = b"}U\x01a" + b"]" * 20_000 + b"a" * 19_999 + b"s."
    assert unpickle(deep, 50_000)["a"] is not None
    far = b"}r\xff\xff\xff\xffU\x01aK\x01s."
    assert unpickle(far, STEPS) == {"a": 1}


GOOD = [
    array(),
    pickle.dumps({"labels": [1, 2, 300], "n": ["a", b"b"], "t": (1, None)}, 2),
    pickle.dumps({"data": np.arange(8, dtype=np.uint8), "x": {"y": [True]}}, 4),
    b"(dp1\nS'names'\np2\n(lp3\nS'a'\np4\nag4\nasI10\nV\\u1234\ns.",
]


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_pickles_end_in_plain_data_or_a_refusal(data):
    blob = bytearray(data.draw(st.sampled_from(GOOD)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(blob)))
        match data.draw(st.sampled_from(["change", "cut", "insert"])):
            case "change":
                blob[at : at + 1] = data.draw(st.binary(max_size=2))
            case "cut":
                del blob[at : at + data.draw(st.integers(0, 9))]
            case "insert":
                piece = st.sampled_from([EMPTY, U1, PLAIN, b"h\x00", b"(", b"t", b"b"])
                blob[at:at] = data.draw(piece | st.binary(max_size=9))
    with contextlib.suppress(RefusedPickleError):
        assert isinstance(unpickle(bytes(blob), STEPS), dict)
