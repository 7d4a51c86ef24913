"""The command line as a program: `dpet`, or `python -m dpet_jax` off the path.

Before anything else is imported it sees to it that memory comes in large pages. XLA on
a CPU asks for the memory that a program works in at every call and returns it after;
glibc maps what is larger than 32 MB anew each time, and the system hands it out page by
page. With pages of 4 kB that is a quarter of a training step of ResNet-18 at half width
in batches of 512.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

#: What tells glibc, which looks at it once, to ask for large pages, and since when.
_TUNABLES, _LARGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
_SINCE = (2, 35)
#: Where Linux says whether a program gets large pages: always, if it asks, or never.
_SYSTEM = Path("/sys/kernel/mm/transparent_hugepage/enabled")
#: Marks a process that was started anew.
_STARTED = "DPET_LARGE_PAGES"


def main() -> int:
    """Run the command line, in large pages where they have to be asked for."""
    wanted = command_in_large_pages(os.environ, _libc(), _SYSTEM)
    if wanted is not None:
        command, variables = wanted
        os.execve(command[0], command, variables)
    if os.environ.pop(_STARTED, None):
        del os.environ[_TUNABLES]  # programs that are started from here have their own
    from dpet_jax.cli import main as run

    return run()


def command_in_large_pages(
    environ: Mapping[str, str], libc: str, system: Path
) -> tuple[list[str], dict[str, str]] | None:
    """Return how to start this process so that it asks for large pages.

    Args:
        environ: The process environment.
        libc: Name and version of the C library, such as "glibc 2.36".
        system: The file in which Linux says who gets large pages.

    Returns:
        The command and its environment; None where it would change nothing, or the user
        tunes the C library himself.
    """
    name, _, version = libc.partition(" ")
    if name != "glibc" or _TUNABLES in environ or not sys.executable:
        return None
    if tuple(int(part) for part in version.split(".")[:2]) < _SINCE:
        return None
    try:
        asked = "[madvise]" in system.read_text(encoding="ascii")
    except OSError:
        return None
    if not asked:
        return None
    ours = {_TUNABLES: _LARGE_PAGES, _STARTED: "1"}
    return [sys.executable, *sys.orig_argv[1:]], {**environ, **ours}


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):  # another C library, another system
        return ""


if __name__ == "__main__":
    sys.exit(main())
