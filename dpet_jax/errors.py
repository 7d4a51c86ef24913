"""What can go wrong outside the code: a user's mistake, a training that diverges."""

import errno
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """A mistake that the user can mend: the message names file, key, value, remedy.

    The command line shows it without a traceback and exits with 2.
    """


class FolderInUseError(UserError):
    """Another process runs in the folder; when it has ended, this one could."""


class DamagedFileError(UserError):
    """A file that the program wrote is no longer as it wrote it.

    Args:
        path: The file.
        reason: What is wrong with it.
        line: The line that is; None for the file as a whole.
    """

    def __init__(self, path: Path, reason: str, line: int | None = None) -> None:
        self.path, self.reason = path, reason
        place = "" if line is None else f"line {line}: "
        super().__init__(
            f"{path}: damaged: {place}{reason or 'cannot be read'}; put it back as it "
            "was, or choose another place and run anew"
        )


_REMEDIES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "allow larger files there (ulimit -f)",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "allow more open files on this machine",
    errno.ENOENT: "it was there when the command began; do not move or delete it",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it writable",
}


def system_failure(error: OSError, folder: Path) -> str:
    """Return one sentence on what the system refused, and what to do about it.

    Args:
        error: What it answered.
        folder: What the command was writing to, if the error names no file.
    """
    what = error.strerror or " ".join(str(error).split())
    remedy = _REMEDIES.get(error.errno or 0, "see to it")
    return f"{error.filename or folder}: {what}; {remedy}, and start the command again"


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
