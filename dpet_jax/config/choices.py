"""What there is to choose from, one line each, read from the code itself."""

import inspect
from typing import Any

from pydantic import BaseModel

from dpet_jax.config import experiment as schema
from dpet_jax.methods.dpet import Dpet
from dpet_jax.scores.registry import lookup, selectable_scores
from dpet_jax.section import kind_of, one_of
from dpet_jax.selection.by_name import SELECTORS
from dpet_jax.selection.transfer import MEASURES
from dpet_jax.trackers import TRACKERS


def choices() -> dict[str, dict[str, str]]:
    """Return the choices by title, each name with the first line of its docstring."""
    selectors = {name: _first_line(one) for name, one in SELECTORS.items()}
    selectors["forgetting"] = "How often training forgot an example: forgetting events."
    return {
        "methods (method.kind)": _kinds(schema.Config, "method"),
        "replays (method.replay.kind of dpet and active_learning)": _kinds(
            Dpet, "replay"
        ),
        "scores (method.score, method.by of one_shot; or package.module:function)": {
            name: lookup(name).summary for name in selectable_scores()
        },
        "selectors (method.by of one_shot, or method.diversity.kind)": selectors,
        "models (model.kind)": _kinds(schema.Config, "model"),
        "data sources (data.kind)": _kinds(schema.Config, "data"),
        "measures of how a network fits (pool.by)": {
            name: _first_line(one) for name, one in MEASURES.items()
        },
        "optimizers (train.optimizer.kind)": _kinds(schema.TrainConfig, "optimizer"),
        "schedules (train.schedule.kind)": _kinds(schema.TrainConfig, "schedule"),
        "trackers (track)": {kind_of(one): _first_line(one) for one in TRACKERS},
    }


def _kinds(section: type[BaseModel], field: str) -> dict[str, str]:
    kinds = one_of(section, field)
    assert kinds is not None, f"{field} is of one kind"
    return {name: _first_line(member) for name, member in kinds.by_name.items()}


def _first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]
