"""What can go wrong outside the code: a user's mistake, a training that diverges."""


class UserError(ValueError):
    """A mistake that the user can mend: the message names file, key, value, remedy.

    The command line shows it without a traceback and exits with 2.
    """


class SelectionEndedError(Exception):
    """A selection was given up half-way, for the reason that is its message."""


class DivergedError(ArithmeticError):
    """The model gives values that are not finite; it must not choose examples."""
