"""A method's state and a plan as named arrays and plain values, and back again."""

from typing import Any

import numpy as np

from dpet_jax.methods.base import Plan, Span


def taken_apart(state: Any, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays of a method's state by dotted name, and all else as it is.

    A field may itself be a NamedTuple of arrays and numbers.
    """
    arrays, plain = {}, {}
    for key, value in state._asdict().items():
        inner = f"{name}.{key}"
        if isinstance(value, np.ndarray):
            arrays[inner] = value
        elif hasattr(value, "_asdict"):
            of_it, plain[key] = taken_apart(value, inner)
            arrays |= of_it
        else:
            plain[key] = value
    return arrays, plain


def put_together(
    like: Any, name: str, arrays: dict[str, np.ndarray], plain: dict[str, Any]
) -> Any:
    """Return the state that was taken apart; `like` gives the types."""
    found = dict(plain)
    for key, value in like._asdict().items():
        inner = f"{name}.{key}"
        if inner in arrays:
            found[key] = arrays[inner]
        elif hasattr(value, "_asdict") and isinstance(found.get(key), dict):
            found[key] = put_together(value, inner, arrays, found[key])
    return type(like)(**found)


def plan_arrays(name: str, plan: Plan) -> dict[str, np.ndarray]:
    """Return the arrays of a plan by dotted name."""
    arrays = {f"{name}.index_set": plan.index_set}
    if plan.weights is not None:
        arrays[f"{name}.weights"] = plan.weights
    return arrays


def plan_header(plan: Plan) -> dict[str, Any]:
    """Return what a plan has beside arrays; its facts are in the record already."""
    return {
        "label": plan.label,
        "passes": plan.passes,
        "schedule": list(plan.schedule or ()),
        "learning_rate": plan.learning_rate,
        "learning_rate_factor": plan.learning_rate_factor,
        "reset": plan.reset,
    }


def plan_from(name: str, arrays: dict[str, np.ndarray], header: dict[str, Any]) -> Plan:
    """Return the plan of `plan_arrays` and `plan_header`."""
    schedule = header["schedule"]
    return Plan(
        arrays[f"{name}.index_set"],
        label=header["label"],
        passes=header["passes"],
        weights=arrays.get(f"{name}.weights"),
        schedule=Span(*schedule) if schedule else None,
        # checkpoints of earlier versions have none
        learning_rate=header.get("learning_rate"),
        learning_rate_factor=header.get("learning_rate_factor", 1.0),
        reset=header["reset"],
    )
