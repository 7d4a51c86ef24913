"""The one exception for a user's mistake, shown without a traceback (exit code 2)."""


class UserError(ValueError):
    """A mistake that the user can mend: the message names file, key, value, remedy."""
