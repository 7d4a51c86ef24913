"""Read a pickle from the network without letting it do anything.

A pickle is a program. `pickle.load` runs it with whatever functions it names, and even
the few that NumPy's arrays need can be misused: a type built from a forged state reads
memory that is not its own. This is a reader of its own instead. It knows the opcodes
that plain data needs, imports and calls nothing, and works in time and memory in
proportion to the number of opcodes, which is limited.
"""

import codecs
import struct
from typing import Any, NamedTuple

import numpy as np

# Strings at least so long stay views of the file; only pixels are.
_LONG = 4096
_GLOBALS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),  # Python 2, NumPy 1
    ("numpy._core.multiarray", "_reconstruct"),  # NumPy 2
}


class RefusedPickleError(ValueError):
    """The pickle is damaged, or asks for more than plain data."""


class _Global(NamedTuple):
    """Placeholder of a class or function that a pickle names; it is not imported."""

    module: str
    name: str


class _Bytes:
    """Placeholder of the type of an array; there is one type, unsigned bytes."""


class _Array:
    """Placeholder of an array of bytes until its shape and contents are known."""

    array: np.ndarray | None = None


def unpickle(blob: bytes, max_opcodes: int) -> dict[str, Any]:
    """Read a pickled dictionary of plain data.

    Args:
        blob: A pickle of protocol 0 to 4, by Python 2 or 3.
        max_opcodes: Steps that it may take; each makes one value at most.

    Returns:
        The dictionary. Its values are None, booleans, whole numbers, text, bytes,
        arrays of uint8, and lists, tuples and dictionaries of these. Strings of Python
        2 are bytes, as keys they are text.

    Raises:
        RefusedPickleError: If it is anything else.
    """
    reader = _Reader(blob)
    try:
        for _ in range(max_opcodes):
            if reader.step():
                return reader.result()
        raise RefusedPickleError(f"more than {max_opcodes:,} steps")
    except RefusedPickleError:
        raise
    except Exception as error:  # damage shows in as many ways as there are opcodes
        raise RefusedPickleError(
            f"damaged near byte {reader.position:,} ({type(error).__name__}: {error})"
        ) from error


class _Reader:
    """A stack, a memo and a position, moved on one opcode at a time."""

    def __init__(self, blob: bytes) -> None:
        self.view = memoryview(blob)
        self.position = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}

    def step(self) -> bool:
        """Carry out one opcode; return whether it was the last one."""
        opcode = bytes(self.take(1))
        if opcode == b".":
            return True
        try:
            carry_out = _OPCODES[opcode]
        except KeyError:
            raise RefusedPickleError(f"it uses the opcode {opcode!r}") from None
        carry_out(self)
        return False

    def result(self) -> dict[str, Any]:
        """Return the dictionary that is left when the pickle ends."""
        (found,) = self.stack
        if not isinstance(found, dict):
            raise RefusedPickleError(
                f"it holds a {type(found).__name__}, no dictionary"
            )
        return {
            key: value.array if isinstance(value, _Array) else value
            for key, value in found.items()
        }

    def take(self, count: int) -> memoryview:
        """Return the next bytes."""
        if not 0 <= count <= len(self.view) - self.position:
            raise RefusedPickleError(
                f"{count:,} bytes are said to follow byte {self.position:,} of "
                f"{len(self.view):,}"
            )
        self.position += count
        return self.view[self.position - count : self.position]

    def number(self, form: str) -> int:
        """Return the next bytes as a number, little end first."""
        (number,) = struct.unpack(f"<{form}", self.take(struct.calcsize(form)))
        return number

    def line(self) -> bytes:
        """Return the next line, without its end."""
        ahead = bytes(self.view[self.position : self.position + _LONG])
        line, end, _ = ahead.partition(b"\n")
        if not end:
            raise RefusedPickleError(f"no end of the line at byte {self.position:,}")
        self.position += len(line) + 1
        return line

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def push_string(self, length: int) -> None:
        """Put a string of bytes on the stack."""
        taken = self.take(length)
        self.push(taken if length >= _LONG else bytes(taken))

    def pop_to_mark(self) -> list[Any]:
        """Take the values above the last mark from the stack."""
        at = self.marks.pop()
        values = self.stack[at:]
        del self.stack[at:]
        return values

    def append(self, values: list[Any]) -> None:
        """Append values to the list on top of the stack."""
        if not isinstance(self.stack[-1], list):
            raise RefusedPickleError("it appends to what is no list")
        self.stack[-1].extend(values)

    def set_items(self, pairs: list[Any]) -> None:
        """Put keys and values into the dictionary on top of the stack."""
        into = self.stack[-1]
        if not isinstance(into, dict) or len(pairs) % 2:
            raise RefusedPickleError("it sets items of what is no dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | bytes):
                raise RefusedPickleError("a key is no text")
            into[key if isinstance(key, str) else key.decode("latin1")] = value

    def push_dict(self, pairs: list[Any]) -> None:
        """Put a dictionary on the stack."""
        self.push({})
        self.set_items(pairs)

    def push_global(self, module: str, name: str) -> None:
        """Put the placeholder of one of the few known names on the stack."""
        if (module, name) not in _GLOBALS:
            raise RefusedPickleError(f"it asks for {module}.{name}")
        self.push(_Global(module, name))

    def reduce(self) -> None:
        """Replace the two calls that arrays are made by with placeholders."""
        given, called = self.stack.pop(), self.stack.pop()
        match called, given:
            case _Global(name="dtype"), (b"u1" | "u1", _, _):
                self.push(_Bytes())
            case (
                _Global(name="_reconstruct"),
                (_Global(name="ndarray"), (0,), b"b" | "b"),
            ):
                self.push(_Array())
            case _Global(name="dtype"), _:
                raise RefusedPickleError(f"an array of {_shown(given)}, not of uint8")
            case _:
                raise RefusedPickleError(f"it calls {_shown(called)}")

    def build(self) -> None:
        """Complete a placeholder with its state."""
        state, built = self.stack.pop(), self.stack[-1]
        match built, state:
            case _Bytes(), (3, b"|" | "|", None, None, None, -1, -1, 0):
                pass
            case _Array(), (1, tuple() as shape, _Bytes(), 0 | 1 as columns, raw):
                built.array = _array(shape, "F" if columns else "C", raw)
            case _:
                raise RefusedPickleError(
                    f"it builds {type(built).__name__.strip('_').lower()} from a state "
                    "that arrays of uint8 do not have"
                )


def _array(shape: tuple[Any, ...], order: Any, raw: Any) -> np.ndarray:
    if not isinstance(raw, bytes | memoryview):
        raise RefusedPickleError("an array without its bytes")
    count = 1
    for side in shape:
        if type(side) is not int or not 0 <= side <= len(raw):
            raise RefusedPickleError(f"an array of shape {_shown(shape)}")
        count *= side
    if len(shape) > 4 or count != len(raw):
        raise RefusedPickleError(
            f"an array of shape {_shown(shape)} in {len(raw):,} bytes"
        )
    return np.frombuffer(raw, np.uint8).reshape(shape, order=order)


def _shown(value: Any) -> str:
    # Never the repr of a container: nested lists that share elements have no end of it.
    if isinstance(value, tuple):
        return f"({', '.join(_shown(v) for v in value[:4] if type(v) is not tuple)})"
    if type(value) in (int, str, bytes):
        return repr(value)[:40]
    return value.name if isinstance(value, _Global) else type(value).__name__


def _quoted(line: bytes) -> bytes:
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise RefusedPickleError("a string without quotes")
    text, _ = codecs.escape_decode(line[1:-1])
    return text


def _long(reader: _Reader) -> None:
    digits = reader.take(reader.number("B"))
    if len(digits) > 8:
        raise RefusedPickleError("a number of more than 64 bits")
    reader.push(int.from_bytes(digits, "little", signed=True))


def _text(form: str) -> Any:
    def push(reader: _Reader) -> None:
        raw = bytes(reader.take(reader.number(form)))
        reader.push(raw.decode("utf-8", "surrogatepass"))

    return push


def _string(form: str) -> Any:
    return lambda reader: reader.push_string(reader.number(form))


def _number(form: str) -> Any:
    return lambda reader: reader.push(reader.number(form))


def _last(count: int) -> Any:
    def push(reader: _Reader) -> None:
        if len(reader.stack) < count:
            raise RefusedPickleError("too few values for a tuple")
        values = reader.stack[len(reader.stack) - count :]
        del reader.stack[len(reader.stack) - count :]
        reader.push(tuple(values))

    return push


def _store(index: Any) -> Any:
    def store(reader: _Reader) -> None:
        reader.memo[index(reader)] = reader.stack[-1]

    return store


def _recall(index: Any) -> Any:
    return lambda reader: reader.push(reader.memo[index(reader)])


def _int_line(reader: _Reader) -> int:
    return int(reader.line().rstrip(b"L"))


def _setting(reader: _Reader) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    reader.set_items([key, value])


def _appending(reader: _Reader) -> None:
    value = reader.stack.pop()
    reader.append([value])


def _global_lines(reader: _Reader) -> None:
    module = reader.line().decode("ascii")
    reader.push_global(module, reader.line().decode("ascii"))


def _global_of_stack(reader: _Reader) -> None:
    name, module = reader.stack.pop(), reader.stack.pop()
    reader.push_global(str(module), str(name))


_OPCODES: dict[bytes, Any] = {
    b"\x80": lambda reader: reader.take(1),  # protocol
    b"\x95": lambda reader: reader.take(8),  # length of a frame
    b"N": lambda reader: reader.push(None),
    b"\x88": lambda reader: reader.push(True),
    b"\x89": lambda reader: reader.push(False),
    b"I": lambda reader: reader.push(_int_line(reader)),
    b"L": lambda reader: reader.push(_int_line(reader)),
    b"J": _number("i"),
    b"K": _number("B"),
    b"M": _number("H"),
    b"\x8a": _long,
    b"S": lambda reader: reader.push(_quoted(reader.line())),
    b"T": _string("i"),
    b"U": _string("B"),
    b"B": _string("I"),
    b"C": _string("B"),
    b"\x8e": _string("Q"),
    b"V": lambda reader: reader.push(reader.line().decode("raw-unicode-escape")),
    b"X": _text("I"),
    b"\x8c": _text("B"),
    b"(": lambda reader: reader.marks.append(len(reader.stack)),
    b")": lambda reader: reader.push(()),
    b"]": lambda reader: reader.push([]),
    b"}": lambda reader: reader.push({}),
    b"t": lambda reader: reader.push(tuple(reader.pop_to_mark())),
    b"l": lambda reader: reader.push(reader.pop_to_mark()),
    b"d": lambda reader: reader.push_dict(reader.pop_to_mark()),
    b"\x85": _last(1),
    b"\x86": _last(2),
    b"\x87": _last(3),
    b"a": _appending,
    b"e": lambda reader: reader.append(reader.pop_to_mark()),
    b"s": _setting,
    b"u": lambda reader: reader.set_items(reader.pop_to_mark()),
    b"p": _store(_int_line),
    b"q": _store(lambda reader: reader.number("B")),
    b"r": _store(lambda reader: reader.number("I")),
    b"\x94": _store(lambda reader: len(reader.memo)),
    b"g": _recall(_int_line),
    b"h": _recall(lambda reader: reader.number("B")),
    b"j": _recall(lambda reader: reader.number("I")),
    b"c": _global_lines,
    b"\x93": _global_of_stack,
    b"R": lambda reader: reader.reduce(),
    b"b": lambda reader: reader.build(),
}
