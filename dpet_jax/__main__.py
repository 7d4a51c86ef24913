"""The command line as `python -m dpet_jax`, for where `dpet` is not on the path."""

import sys

from dpet_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
