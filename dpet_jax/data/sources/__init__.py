"""One module per kind of source, each with `read(...) -> Source`.

Import the one needed: nothing is imported here, so that a run pays only for the
libraries of its own source.
"""
