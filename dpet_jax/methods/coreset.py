"""The coreset file that a run leaves, and the method that trains on one."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from dpet_jax.arrays import read_arrays
from dpet_jax.errors import UserError
from dpet_jax.methods.base import Coreset, Learner, Method, Plan, Pool
from dpet_jax.section import Passes, UserPath

# What a coreset is read from: kinds of NumPy's types, and axes.
_KINDS = {
    "source_rows": ("iu", 1),
    "round": ("iu", 1),
    "score": ("f", 1),
    "fingerprint": ("U", 0),
    "dataset": ("U", 0),
}


class SavedCoresetState(NamedTuple):
    """The coreset that was read, and whether its plan was given out.

    Attributes:
        planned: Whether it was.
        indices: int32[m], positions in the training split.
        round_index: int32[m], the round in which each entered.
        scores: float32[m], the score at which each entered.
    """

    planned: bool
    indices: np.ndarray
    round_index: np.ndarray
    scores: np.ndarray


class SavedCoreset(Method):
    """Train on a saved coreset.npz, every example in every pass."""

    kind: Literal["coreset"] = "coreset"
    path: UserPath = Field(description="a run's coreset.npz")
    passes: Passes = Field(200, description="over the coreset")

    def planned_visits(self, pool: Pool) -> int:
        """Count the passes over the coreset."""
        return self.passes * load_coreset(self.path, pool).indices.size

    def start(self, pool: Pool, seed: int) -> SavedCoresetState:
        """Read the file and find its rows in this run's training split.

        Raises:
            UserError: As `load_coreset`.
        """
        del seed
        return SavedCoresetState(False, *load_coreset(self.path, pool)[:3])

    def plan(
        self, state: SavedCoresetState, learner: Learner
    ) -> tuple[SavedCoresetState, Plan | None]:
        """Give the only plan."""
        del learner
        if state.planned:
            return state, None
        rows = np.sort(state.indices)
        return state._replace(planned=True), Plan(rows, "coreset", passes=self.passes)

    def coreset(self, state: SavedCoresetState) -> Coreset:
        """Return the coreset as it was read; it is this run's own too."""
        return Coreset(state.indices, state.round_index, state.scores)


def coreset_arrays(chosen: Coreset, pool: Pool) -> dict[str, np.ndarray]:
    """Return what coreset.npz holds: rows of the source, not of this run's split."""
    assert pool.source_rows is not None, "a run knows where its examples stand"
    return {
        "source_rows": pool.source_rows[chosen.indices],
        "labels": pool.labels[chosen.indices],
        "round": chosen.round_index,
        "score": chosen.scores,
        **chosen.columns,
        "pool_class_counts": np.bincount(pool.labels, minlength=pool.num_classes),
        "fingerprint": np.array(pool.fingerprint),
        "dataset": np.array(pool.dataset),
    }


def load_coreset(path: Path, pool: Pool) -> Coreset:
    """Read a coreset.npz and find its rows in a training split.

    Raises:
        UserError: If the file is no coreset, was chosen from other data, or holds rows
            that this run keeps for validation.
    """
    key = f"method.path: {path}"
    saved = _read(path, key)
    rows, rounds, scores = saved["source_rows"], saved["round"], saved["score"]
    fingerprint = str(saved["fingerprint"])
    if fingerprint != pool.fingerprint:
        raise UserError(
            f"{key}: was chosen from {saved['dataset']} with "
            f"fingerprint {fingerprint[:12]}, but this run reads {pool.dataset} with "
            f"{pool.fingerprint[:12]}; use the same data and data.image_size"
        )
    if rows.size == 0:
        raise UserError(f"{key}: holds no examples; give a run that selected some")
    assert pool.source_rows is not None, "a fingerprint comes with its rows"
    order = np.argsort(pool.source_rows)
    found = np.searchsorted(pool.source_rows, rows, sorter=order)
    positions = order[np.minimum(found, pool.num_examples - 1)]
    outside = pool.source_rows[positions] != rows
    if outside.any():
        raise UserError(
            f"{key}: {int(outside.sum())} of its {rows.size} rows are in this run's "
            "validation split; use the data.split_seed and data.validation_fraction "
            "that it was chosen with"
        )
    return Coreset(positions.astype(np.int32), rounds, scores)


def _read(path: Path, key: str) -> dict[str, np.ndarray]:
    """Read the arrays of a coreset and check that they are what a run writes."""
    try:
        saved, _ = read_arrays(path, tuple(_KINDS))
    except UserError as error:
        raise UserError(
            f"{key}: is no coreset ({error}); give the coreset.npz of a finished run"
        ) from error
    wrong = [
        name
        for name, (kinds, ndim) in _KINDS.items()
        if name not in saved
        or saved[name].dtype.kind not in kinds
        or saved[name].ndim != ndim
    ]
    lengths = {array.shape for array in saved.values() if array.ndim}
    if wrong or len(lengths) > 1:
        raise UserError(
            f"{key}: is no coreset ({', '.join(wrong) or 'arrays'} missing or of "
            "another shape or type); give the coreset.npz of a finished run"
        )
    rows = saved["source_rows"]
    if len(np.unique(rows)) < len(rows):
        raise UserError(f"{key}: holds a row twice; give the file as a run wrote it")
    return saved
