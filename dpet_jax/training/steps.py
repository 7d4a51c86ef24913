"""The one compiled training program: any method, any index set, any number of steps."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float32, Int32

from dpet_jax.data.augment import Augmentation, gather_augmented, normalise
from dpet_jax.models.pruning import scales
from dpet_jax.models.quantize import straight_through
from dpet_jax.scores.error import label_margin
from dpet_jax.scores.forgetting import count_forgetting
from dpet_jax.training.average import moved
from dpet_jax.training.optimizer import update
from dpet_jax.training.repeats import only_last
from dpet_jax.training.schedule import Schedule, learning_rate
from dpet_jax.training.state import DeviceData, StepSpec, Tables, TrainState


class Hyper(NamedTuple):
    """Every traced number of the training step.

    Attributes:
        schedule: Learning rate.
        optimizer: Numbers of the optimizer's section, by key.
        label_smoothing: Probability mass spread over all classes.
        augmentation: Strengths of the random changes to each image.
        ema: Share of the average of the weights that stays; None without one.
        quantize_from: Share of the schedule after which kernels are rounded; None
            where they never are.
        old_rate: Learning rate of all layers but the last over that of the last; None,
            which costs nothing, where they are alike.
        scale_penalty: Of the L1 norm of the scales of all channels that can be cut out;
            None, which costs nothing, where nobody prunes.
    """

    schedule: Schedule
    optimizer: dict[str, Any]
    label_smoothing: Float32[Array, ""]
    augmentation: Augmentation
    ema: Float32[Array, ""] | None = None
    quantize_from: Float32[Array, ""] | None = None
    old_rate: Float32[Array, ""] | None = None
    scale_penalty: Float32[Array, ""] | None = None


class ChunkStats(NamedTuple):
    """Sums over the real rows of a chunk.

    Attributes:
        loss: Sum of unsmoothed, unweighted cross-entropies.
        correct: Correct predictions.
        visits: Real rows.
    """

    loss: Float32[Array, ""]
    correct: Int32[Array, ""]
    visits: Int32[Array, ""]


@partial(jax.jit, static_argnames="spec", donate_argnames="state")
def train_steps(
    spec: StepSpec,
    state: TrainState,
    data: DeviceData,
    rows: Int32[Array, " capacity"],
    num_steps: Int32[Array, ""],
    first_visit: Int32[Array, ""],
    weights: Float32[Array, " n"],
    hyper: Hyper,
) -> tuple[TrainState, ChunkStats]:
    """Train on the first `num_steps` batches of `rows`.

    The loss of a step is sum(w * l) / (real rows). Fill rows, which complete a last
    batch, take part in batch normalisation and nowhere else: their loss has weight 0
    and their table entries stay. An example that is in one batch several times is
    trained on as often, but the tables count one visit: that of its last row.

    Args:
        spec: What the program is specialised to.
        state: Donated: its buffers become those of the result.
        data: The data set; read, never changed. Its `places` are those of `rows`.
        rows: Batch after batch of positions in the data set; a fill row's position is
            stored as its complement `~position`, below 0.
        num_steps: Batches to train on; at most capacity / batch size.
        first_visit: Examples trained on since the schedule began.
        weights: Loss weight of each example, mean 1 over the index set.
        hyper: Every traced number of training.

    Returns:
        The new state and the sums over the chunk.
    """

    def body(index, carry):
        start = index * spec.batch_size
        coded = lax.dynamic_slice_in_dim(rows, start, spec.batch_size)
        here = data.of_batch(start, spec.batch_size)
        return train_step(spec, carry, here, coded, first_visit, weights, hyper)

    zero = ChunkStats(jnp.float32(0), jnp.int32(0), jnp.int32(0))
    return lax.fori_loop(0, num_steps, body, (state, zero))


def train_step(
    spec: StepSpec,
    carry: tuple[TrainState, ChunkStats],
    data: DeviceData,
    rows: Int32[Array, " b"],
    first_visit: Int32[Array, ""],
    weights: Float32[Array, " n"],
    hyper: Hyper,
) -> tuple[TrainState, ChunkStats]:
    """Train on one batch; `train_steps` documents the arguments.

    Args:
        spec: What the program is specialised to.
        carry: State and sums before the step.
        data: The data set, its `places` those of the batch.
        rows: The batch, fill rows as their complement.
        first_visit: Examples trained on since the schedule began, before the chunk.
        weights: Loss weight of each example.
        hyper: Every traced number of training.

    Returns:
        State and sums after the step.
    """
    state, stats = carry
    visits = first_visit + stats.visits
    augmentation = hyper.augmentation
    if augmentation.cutout_ramp is not None:
        augmentation = augmentation.at(hyper.schedule.passed(visits))
    sharded = NamedSharding(spec.mesh, PartitionSpec("data"))
    rows = lax.with_sharding_constraint(rows, sharded)
    real = rows >= 0
    batch = jnp.where(real, rows, ~rows)
    places = batch
    if data.places is not None:
        places = lax.with_sharding_constraint(data.places, sharded)
    key = jax.random.fold_in(state.key, state.step)
    # the augmentation splits its key in three, which are the keys folded with 0 to 2
    dropout_key = jax.random.fold_in(key, 3)
    pixels, visible = gather_augmented(
        *(key, data.images, places, augmentation, spec.input_size),
        data.apart(spec.mesh),
    )
    images = normalise(pixels, data.mean, data.std)
    images = jnp.where(visible, images, 0.0)
    labels = data.labels[batch]
    num_real = jnp.sum(real, dtype=jnp.int32)
    coefficient = jnp.where(real, weights[batch], 0.0) / num_real.astype(jnp.float32)

    def objective(params):
        if spec.bits is not None:
            rounding = hyper.schedule.passed(visits) >= hyper.quantize_from
            params = straight_through(params, spec.bits, rounding)
        outputs, batch_stats = spec.model.apply_train(
            dropout_key, params, state.batch_stats, images, dtype=spec.dtype
        )
        log_p = jax.nn.log_softmax(outputs.logits)
        losses = -jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
        smoothed = (1.0 - hyper.label_smoothing) * losses
        smoothed -= hyper.label_smoothing * jnp.mean(log_p, axis=1)
        correct = jnp.argmax(log_p, axis=1) == labels
        margins = None
        if spec.margins:
            margins = jax.vmap(label_margin)(outputs.logits, labels)
        visited = losses, correct, margins
        loss = jnp.sum(coefficient * smoothed)
        if hyper.scale_penalty is not None:
            prunable = scales(params, spec.model.channel_groups)
            loss += hyper.scale_penalty * sum(jnp.sum(jnp.abs(s)) for s in prunable)
        return loss, (visited, batch_stats)

    grads, (visited, batch_stats) = jax.grad(objective, has_aux=True)(state.params)
    losses, correct, _ = visited
    rate = learning_rate(hyper.schedule, visits, spec.schedules)
    params, opt_state = update(
        spec.optimizer,
        hyper.optimizer,
        rate,
        grads,
        state.opt_state,
        state.params,
        hyper.old_rate,
        spec.model.head,
    )
    average = state.average
    if average is not None and hyper.ema is not None:
        weights_now = {"params": params, "batch_stats": batch_stats}
        average = moved(average, weights_now, hyper.ema)
    # a fill row's target lies outside the tables, where a scatter drops it
    outside = state.losses.shape[0]
    entry = jnp.where(real, batch, outside)
    tables = Tables(state.losses, state.correct, state.forgetting, state.margins)
    if spec.mesh.size == 1:
        tables = _noted(tables, batch, entry, visited)
    else:
        tables = _noted_in_parts(spec.mesh, tables, batch, entry, visited)
    state = TrainState(
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        step=state.step + 1,
        key=state.key,
        average=average,
        **tables._asdict(),
    )
    stats = ChunkStats(
        loss=stats.loss + jnp.sum(jnp.where(real, losses, 0.0)),
        correct=stats.correct + jnp.sum(correct & real, dtype=jnp.int32),
        visits=stats.visits + num_real,
    )
    return state, stats


_Visited = tuple[Float32[Array, " b"], Bool[Array, " b"], Float32[Array, " b"] | None]


def _noted(
    tables: Tables,
    batch: Int32[Array, " b"],
    entry: Int32[Array, " b"],
    visited: _Visited,
) -> Tables:
    """Return the tables after a batch.

    Args:
        tables: Before it.
        batch: Rows of the batch.
        entry: Where each is written down, the last of equal ones; outside the tables
            if nowhere.
        visited: Loss, whether the prediction was right, and margin of each.
    """
    entry = only_last(entry, tables.losses.shape[0])
    losses, correct, margins = visited
    counts = jax.vmap(count_forgetting)(
        tables.forgetting[batch], tables.correct[batch], correct
    )
    return Tables(
        losses=tables.losses.at[entry].set(losses, mode="drop"),
        correct=tables.correct.at[entry].set(correct, mode="drop"),
        forgetting=tables.forgetting.at[entry].set(counts, mode="drop"),
        margins=None
        if tables.margins is None
        else tables.margins.at[entry].set(margins, mode="drop"),
    )


def _noted_in_parts(
    mesh: Mesh,
    tables: Tables,
    batch: Int32[Array, " b"],
    entry: Int32[Array, " b"],
    visited: _Visited,
) -> Tables:
    """Return the tables after a batch, of which every device has its examples' part.

    Every device is told of the whole batch, as it would be for a copy of the tables.
    """

    def part(tables, batch, entry, visited):
        size = tables.losses.shape[0]
        first = lax.axis_index("data") * size
        here = (entry >= first) & (entry < first + size)
        return _noted(
            tables,
            jnp.clip(batch - first, 0, size - 1),
            jnp.where(here, entry - first, size),
            visited,
        )

    by_example, whole = PartitionSpec("data"), PartitionSpec()
    return jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(by_example, whole, whole, whole),
        out_specs=by_example,
    )(tables, batch, entry, visited)
