"""What can go wrong outside the code: a user's mistake, a training that diverges."""

from typing import Any


class UserError(ValueError):
    """A mistake that the user can mend: the message names file, key, value, remedy.

    The command line shows it without a traceback and exits with 2.
    """


class SelectionEndedError(Exception):
    """A selection was ended half-way.

    Attributes:
        reason: A `StopReason`, why.
    """

    def __init__(self, reason: Any) -> None:
        super().__init__(reason)
        self.reason = reason


class DivergedError(ArithmeticError):
    """The model gives values that are not finite; it must not choose examples."""
