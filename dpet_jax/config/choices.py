"""What there is to choose from, one line each, read from the code itself."""

import inspect
from typing import Any, get_args

from pydantic import BaseModel

from dpet_jax.config import experiment as schema
from dpet_jax.methods import sections as method_sections
from dpet_jax.scores.gradient.norms import gradient_norms
from dpet_jax.scores.pool import FEATURE_SCORES, SCORES
from dpet_jax.section import one_of
from dpet_jax.selection.by_name import SELECTORS


def choices() -> dict[str, dict[str, str]]:
    """Return the choices by title, each name with the first line of its docstring."""
    kernels = SCORES | FEATURE_SCORES | {"grand": gradient_norms}
    scores = {name: _first_line(kernel) for name, kernel in kernels.items()}
    scores["random"] = "No score: the control that picks by chance."
    chosen_by = {name: _first_line(one) for name, one in SELECTORS.items()}
    chosen_by["forgetting"] = "How often training forgot an example: forgetting events."
    return {
        "methods (method.kind)": _kinds(schema.Config, "method"),
        "scores (method.score)": {
            name: scores[name] for name in get_args(method_sections.Score)
        },
        "and one-shot choices (method.by)": {
            name: chosen_by[name]
            for name in get_args(method_sections.ChosenBy)
            if name not in scores
        },
        "models (model.kind)": _kinds(schema.Config, "model"),
        "data sources (data.kind)": _kinds(schema.Config, "data"),
        "optimizers (train.optimizer.kind)": _kinds(schema.TrainConfig, "optimizer"),
        "schedules (train.schedule.kind)": _kinds(schema.TrainConfig, "schedule"),
    }


def _kinds(section: type[BaseModel], field: str) -> dict[str, str]:
    kinds = one_of(section, field)
    assert kinds is not None, f"{field} is of one kind"
    return {name: _first_line(member) for name, member in kinds.by_name.items()}


def _first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]
