"""From a config to its method, and from a method's coreset to a file and back."""

from pathlib import Path
from typing import Any

import numpy as np

from dpet_jax.config import experiment as schema
from dpet_jax.data import Data
from dpet_jax.errors import UserError
from dpet_jax.methods import sections
from dpet_jax.methods.active_learning import ActiveLearning
from dpet_jax.methods.base import Coreset, Method
from dpet_jax.methods.coreset import saved_coreset
from dpet_jax.methods.dpet import Dpet
from dpet_jax.methods.dynamic import (
    Dynamic,
    EpsilonGreedy,
    InfoBatch,
    LossThreshold,
    Rule,
    StaleSelectiveBackprop,
)
from dpet_jax.methods.one_shot import Choice, Kind, OneShot
from dpet_jax.methods.query import Query
from dpet_jax.methods.rs2 import rs2
from dpet_jax.methods.selective_backprop import SelectiveBackprop
from dpet_jax.methods.standard import standard

#: Selectors whose papers solve one problem for each class.
_PER_CLASS = ("craig", "grad_match", "herding", "facility_location", "graph_cut")


def build_method(config: schema.Config, data: Data) -> Method:
    """Make the method."""
    section = config.method
    match section:
        case sections.StandardMethod():
            return standard(section.passes)
        case sections.Rs2Method():
            return rs2(
                section.keep_fraction, section.passes, replacement=section.replacement
            )
        case sections.CoresetMethod():
            return saved_coreset(load_coreset(section.path, data), section.passes)
        case sections.OneShotMethod():
            return _one_shot(section)
        case sections.SelectiveBackpropMethod():
            return SelectiveBackprop(
                section.beta,
                passes=section.passes,
                look_ahead=section.look_ahead,
                history_size=section.history_size,
                batch_size=config.train.batch_size,
            )
        case (
            sections.InfoBatchMethod()
            | sections.LossThresholdMethod()
            | sections.StaleSelectiveBackpropMethod()
            | sections.EpsilonGreedyMethod()
        ):
            return Dynamic(_rule(section), passes=section.passes)
        case sections.ActiveLearningMethod():
            return ActiveLearning(
                Query(
                    section.score,
                    section.query_size,
                    section.candidate_fraction,
                    diversity=section.diversity.kind,
                    shortlist=section.diversity.shortlist,
                ),
                initial_size=section.initial_size,
                passes_per_round=section.passes_per_round,
                max_rounds=section.max_rounds,
                from_scratch=section.from_scratch,
            )
        case _:
            query = Query(
                section.score,
                section.query_size,
                section.candidate_fraction,
                section.dissimilarity.kind,
                section.dissimilarity.weight,
                artifact=section.compat == "artifact",
                diversity=section.diversity.kind,
                shortlist=section.diversity.shortlist,
            )
            return Dpet(
                query,
                warmup_passes=section.warmup_passes,
                keep_fraction=section.keep_fraction,
                passes_per_round=section.passes_per_round,
                max_rounds=section.max_rounds,
            )


def _one_shot(section: sections.OneShotMethod) -> OneShot:
    by = section.by
    kind: Kind = "selector"
    if by in ("random", "forgetting"):
        kind = by
    elif by in sections.NETWORK_SCORES:
        kind = "score"
    per_class, weighted = section.per_class, section.weighted
    choice = Choice(
        by,
        kind,
        per_class=by in _PER_CLASS if per_class is None else per_class,
        weighted=by in sections.WEIGHTED_SELECTORS if weighted is None else weighted,
        pretrain_passes=section.pretrain_passes,
        networks=section.networks,
    )
    return OneShot(
        choice,
        keep_fraction=section.keep_fraction,
        passes=section.passes,
        choose_every=section.choose_every,
    )


def _rule(
    section: sections.InfoBatchMethod
    | sections.LossThresholdMethod
    | sections.StaleSelectiveBackpropMethod
    | sections.EpsilonGreedyMethod,
) -> Rule:
    match section:
        case sections.InfoBatchMethod():
            return InfoBatch(section.prune_probability, section.annealing_start)
        case sections.LossThresholdMethod():
            return LossThreshold(
                section.prune_fraction,
                section.refresh_every,
                section.threshold_per,
                section.subset_size,
                section.drop_highest,
            )
        case sections.StaleSelectiveBackpropMethod():
            return StaleSelectiveBackprop(section.beta, section.refresh_every)
        case sections.EpsilonGreedyMethod():
            return EpsilonGreedy(section.keep_fraction, section.epsilon)


def coreset_arrays(chosen: Coreset, data: Data) -> dict[str, np.ndarray]:
    """Return what coreset.npz holds: rows of the source, not of this run's split."""
    return {
        "source_rows": data.source_rows[chosen.indices],
        "labels": data.labels[chosen.indices],
        "round": chosen.round_index,
        "score": chosen.scores,
        "pool_class_counts": np.bincount(
            data.labels[data.train_rows], minlength=data.num_classes
        ),
        "fingerprint": np.array(data.fingerprint),
        "dataset": np.array(data.name),
    }


def load_coreset(path: Path, data: Data) -> Coreset:
    """Read a coreset.npz and find its rows in this run's training split.

    Raises:
        UserError: If the file is no coreset, was chosen from other data, or holds rows
            that this run keeps for validation.
    """
    key = f"method.path: {path}"
    try:
        with np.load(path, allow_pickle=False) as file:
            saved: dict[str, Any] = dict(file)
        rows, rounds, scores = saved["source_rows"], saved["round"], saved["score"]
        fingerprint = str(saved["fingerprint"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(
            f"{key}: is no coreset ({error}); give the coreset.npz of a finished run"
        ) from error
    if fingerprint != data.fingerprint:
        raise UserError(
            f"{key}: was chosen from {saved.get('dataset', 'other data')!s} with "
            f"fingerprint {fingerprint[:12]}, but this run reads {data.name} with "
            f"{data.fingerprint[:12]}; use the same data and data.image_size"
        )
    if rows.size == 0:
        raise UserError(f"{key}: holds no examples; give a run that selected some")
    train_rows = data.source_rows[: data.num_train]
    order = np.argsort(train_rows)
    found = np.searchsorted(train_rows, rows, sorter=order)
    positions = order[np.minimum(found, data.num_train - 1)]
    outside = train_rows[positions] != rows
    if outside.any():
        raise UserError(
            f"{key}: {int(outside.sum())} of its {rows.size} rows are in this run's "
            "validation split; use the data.split_seed and data.validation_fraction "
            "that it was chosen with"
        )
    return Coreset(positions.astype(np.int32), rounds, scores)
