"""Searches by the name that the command line gives them."""

from collections.abc import Sequence
from typing import Annotated, Any

from dpet_jax.config import yaml12
from dpet_jax.config.load import validate_as
from dpet_jax.errors import UserError
from dpet_jax.section import OneOf, Section
from dpet_jax.suite.searchers.base import Search
from dpet_jax.suite.searchers.brackets import Halving, Hyperband
from dpet_jax.suite.searchers.drawn import ByChance, Tpe
from dpet_jax.suite.searchers.gp import Gp
from dpet_jax.suite.searchers.grid import Grid

#: What `kind` may name without an import path; the first is the default.
SEARCHERS = (Tpe, ByChance, Grid, Gp, Hyperband, Halving)

#: Short for keys.
_SHORT: dict[str, dict[str, Any]] = {
    "energy_aware": {"kind": "gp", "per_cost": True},
    "study": {"kind": "gp", "compat": "study"},
    "study_random": {"kind": "random", "compat": "study"},
    "study_grid": {"kind": "grid", "compat": "study"},
}

#: Every name that a search has without keys of its own.
NAMES = (*OneOf(Search, SEARCHERS).by_name, *_SHORT)


class _Holder(Section):
    search: Annotated[Search, OneOf(Search, SEARCHERS)]


def search_of(text: str, option: str = "--search") -> Search:
    """Read a name, or keys such as `{kind: hyperband, eta: 4}`.

    Args:
        text: As it is written.
        option: Where, for messages.

    Raises:
        UserError: If there is no such search.
    """
    return _search(_read(text, option), option)


def searches_of(text: str, option: str = "--compare") -> tuple[Search, ...]:
    """Read several, with commas between them, none of them twice.

    Raises:
        UserError: If one is none, or there is none.
    """
    return searches_from(_read(f"[{text}]", option) or (), option)


def searches_from(read: Sequence[Any], option: str) -> tuple[Search, ...]:
    """Return searches by their names or keys, none of them twice.

    Args:
        read: Names, or mappings of keys.
        option: Where they come from, for messages.

    Raises:
        UserError: If one is none, or there is none.
    """
    searches = tuple(_search(one, option) for one in read)
    names = [search.name for search in searches]
    if not names:
        raise UserError(f"{option}: names no search; give some of {', '.join(NAMES)}")
    if len({*names}) < len(names):
        raise UserError(f"{option}: one twice among {', '.join(names)}")
    return searches


def _read(text: str, option: str) -> Any:
    try:
        return yaml12.read(text)
    except yaml12.NotYamlError as error:
        raise UserError(f"{option}: not YAML: {error}") from error


def _search(read: Any, option: str) -> Search:
    keys = read
    if isinstance(read, str):
        keys = _SHORT.get(read, {"kind": read})
        if read not in NAMES and ":" not in read:
            raise UserError(
                f"{option}: unknown {read!r}; one of {', '.join(NAMES)}, or keys, such "
                "as '{kind: hyperband, eta: 4}'"
            )
    return validate_as(_Holder, {"search": keys}, option).search
