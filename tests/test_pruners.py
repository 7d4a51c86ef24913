"""Choosing in a loop of one's own: the passes of `dpet run`, in anybody's loop."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes.learner import FixedScores
from flax import linen, nnx

from dpet_jax.errors import UserError
from dpet_jax.methods.base import Pool, TrainResult
from dpet_jax.methods.dynamic import (
    EpsilonGreedy,
    LossThreshold,
    StaleSelectiveBackprop,
)
from dpet_jax.methods.one_shot import OneShot
from dpet_jax.methods.rs2 import Rs2
from dpet_jax.methods.standard import Standard
from dpet_jax.pruners import (
    DataPruner,
    DpetPruner,
    InfoBatchPruner,
    StaleLossPruner,
)
from dpet_jax.scores.error import label_margin
from dpet_jax.training.chunks import Batches

N = 300
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, N).astype(np.int32)
SCORES = RNG.normal(size=N).astype(np.float32)


def losses_at(visits):
    """Losses of all examples after so many visits."""
    return np.random.default_rng(visits).gamma(2.0, size=N).astype(np.float32)


def logits_at(visits):
    return np.random.default_rng([visits, 1]).normal(size=(N, 3)).astype(np.float32)


@jax.jit
def margins_of(logits):
    return jax.vmap(label_margin)(logits, jnp.asarray(LABELS))


class Scores(FixedScores):
    batch_size = 16

    def score(self, names, index_set, model="main"):
        del model
        return {name: self.scores[index_set] for name in names}


def own_run(method, seed, batch_size=16):
    """Return rows and weights of every pass, as the loop of a run trains on them."""
    learner = Scores(SCORES)
    learner.batch_size = batch_size
    state, found, visits = method.start(Pool(N, LABELS, 3), seed), [], 0
    table = np.full(N, np.inf, np.float32)
    margins = np.full(N, np.inf, np.float32)
    for plan_index in range(1000):
        state, plan = method.plan(state, learner)
        if plan is None:
            return found
        # whole passes, as batches of a pass's size are
        batches = Batches(plan, plan.size, seed, plan_index)
        for index in range(plan.passes):
            rows = batches.rows(index, 1)
            weights = np.ones(N, np.float32)
            if plan.weights is not None:
                weights[plan.index_set] = plan.weights
            found.append((rows, weights[rows]))
            visits += rows.size
            table[rows] = losses_at(visits)[rows]
            if method.asks_margins:
                margins[rows] = margins_of(logits_at(visits))[rows]
        rows, no = np.unique(plan.index_set), np.zeros(0)
        asked = margins[rows] if method.asks_margins else None
        result = TrainResult(rows, table[rows], no > 0, no, asked)
        state = method.observe(state, result)
    raise AssertionError("it does not end")


def drive(pruner, most=None):
    """Run through a pruner as its user does; in batches, in any order of rows."""
    found = []
    for rows, weights in itertools.islice(pruner.passes(), most):
        found.append((rows, weights))
        observe(pruner, rows, 1 if pruner.method.asks_margins else 3)
    return found


def observe(pruner, rows, parts=1):
    losses, logits = losses_at(pruner.visits), logits_at(pruner.visits)
    for some in np.array_split(rows[::-1], parts):
        asked = logits[some] if pruner.method.asks_margins else None
        pruner.observe(some, losses[some], logits=asked)


def dpet(**keys):
    keys = {"warmup_passes": 2, "query_size": 40, "passes_per_round": 3} | keys
    return DpetPruner(N, lambda rows: SCORES[rows], seed=4, labels=LABELS, **keys)


def of(method, **options):
    return DataPruner(method, N, seed=4, labels=LABELS, batch_size=16, **options)


PRUNERS = {
    "infobatch": lambda: InfoBatchPruner(N, 7, seed=4, prune_probability=0.4),
    "loss": lambda: StaleLossPruner(N, 6, seed=4, batch_size=16),
    "margin": lambda: StaleLossPruner(
        N, 5.5, seed=4, batch_size=16, by="margin", labels=LABELS
    ),
    "unbiased": lambda: StaleLossPruner(
        N, 5, seed=4, batch_size=16, unbiased=True, drop=0.4
    ),
    "dpet": dpet,
    "dpet by chance": lambda: DpetPruner(N, None, seed=4, score="random", max_rounds=2),
    "dpet, memory": lambda: dpet(
        replay={"kind": "loss", "ratio": 0.5, "anchor": 0.2}, max_rounds=3, boost={}
    ),
    "threshold": lambda: of(LossThreshold(passes=7, subset_size=50)),
    "stale": lambda: of(StaleSelectiveBackprop(passes=5, refresh_by="training")),
    "looking": lambda: of(
        StaleSelectiveBackprop(passes=5), score_rows=lambda rows: SCORES[rows]
    ),
    "greedy": lambda: of(EpsilonGreedy(passes=4)),
    "rs2": lambda: of(Rs2(passes=6)),
    "standard": lambda: of(Standard(passes=2)),
}


@pytest.mark.parametrize("name", PRUNERS)
def test_passes_are_those_of_the_methods_own_run(name):
    pruner = PRUNERS[name]()
    expected = own_run(pruner.method, seed=4)
    found = drive(pruner)
    assert len(found) == len(expected) > 1
    for (rows, weights), (own_rows, own_weights) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(rows, own_rows)
        np.testing.assert_array_equal(weights, own_weights)
    assert pruner.visits == sum(rows.size for rows, _ in found)
    assert len(pruner) == N


@pytest.mark.parametrize("name", PRUNERS)
def test_a_pruner_that_was_saved_goes_on_as_it_would_have(name, tmp_path):
    whole = drive(PRUNERS[name]())
    for stop in (1, len(whole) // 2):
        left = PRUNERS[name]()
        drive(left, stop - 1)
        rows, _ = left.next_pass()
        left_half, right_half = np.array_split(rows, 2)
        observe(left, left_half)
        state = left.state_dict()
        np.savez(tmp_path / "state.npz", **state["arrays"])
        with np.load(tmp_path / "state.npz") as arrays:
            plain = json.loads(json.dumps(state["plain"]))
            state = {"arrays": dict(arrays), "plain": plain}
        again = PRUNERS[name]()
        again.load_state_dict(state)
        # what goes on in the one that was saved is nothing to the other
        observe(left, right_half)
        left.next_pass()
        observe(again, right_half)
        for (rows, weights), (own_rows, own_weights) in zip(
            drive(again), whole[stop:], strict=True
        ):
            np.testing.assert_array_equal(rows, own_rows)
            np.testing.assert_array_equal(weights, own_weights)


def test_planned_visits_are_the_methods_and_what_it_kept_is_a_coreset():
    pruner = StaleLossPruner(N, 6, batch_size=16, labels=LABELS, coreset_fraction=0.2)
    drive(pruner)
    assert pruner.planned_visits == pruner.visits == 6 * N
    coreset = pruner.coreset()
    assert coreset.indices.size == 60
    assert (coreset.columns["kept"] > 0).any()
    rounds = dpet(max_rounds=2)
    labels = [rounds.plan.label for _ in drive_lazily(rounds)]
    assert labels == [*["warm-up"] * 2, *["round 1"] * 3, *["round 2"] * 3]
    assert rounds.plan is None
    np.testing.assert_array_equal(
        rounds.coreset().indices, np.argsort(-SCORES, kind="stable")[:80]
    )


def drive_lazily(pruner):
    for rows, _ in pruner.passes():
        yield rows
        observe(pruner, rows)


def test_what_was_not_observed_is_named():
    pruner = InfoBatchPruner(N, 5)
    rows, _ = pruner.next_pass()
    pruner.observe(rows[:200], np.ones(200))
    with pytest.raises(UserError, match="100 of the 300 examples of the last pass"):
        pruner.next_pass()
    pruner.observe(rows[200:], np.ones(100))
    pruner.next_pass()


def test_observing_what_cannot_be_is_refused():
    pruner = StaleLossPruner(N, 6, labels=LABELS, by="margin")
    ones, zeros = np.ones(2), np.zeros((2, 3))
    with pytest.raises(UserError, match="example 3 is not of the pass"):
        pruner.observe([3, 4], ones, logits=zeros)
    pruner.next_pass()
    for rows, losses, logits, message in (
        ([3, N], ones, zeros, f"example {N} is not of the pass"),
        ([3, -1], ones, zeros, "example -1 is not of the pass"),
        ([3, 4], [1.0, np.nan], zeros, "loss of example 4 is not finite"),
        ([3, 4], 1.0, zeros, "one loss for each row, not their mean"),
        ([0.5, 1.0], ones, zeros, "give whole numbers"),
        ([3, 4], ones, None, "ranks by margins; give logits="),
        ([3, 4], ones, np.zeros(3), "one row of logits for each"),
    ):
        with pytest.raises(UserError, match=message):
            pruner.observe(rows, losses, logits=logits)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InfoBatchPruner(N, 0), r"passes: .*greater than or equal to 1"),
        (lambda: InfoBatchPruner(0, 5), "num_examples: 0 is below 1"),
        (lambda: StaleLossPruner(N, 5, dorp=0.3), "dorp: .*not permitted"),
        (lambda: StaleLossPruner(N, 5, drop=0.6, drop_highest=0.4), "leave nothing"),
        (lambda: StaleLossPruner(N, 5, by="margin"), "give labels="),
        (lambda: InfoBatchPruner(N, 5, labels=LABELS[1:]), "the class of each of 300"),
        (lambda: InfoBatchPruner(N, 5).coreset(), "give labels="),
        (lambda: DpetPruner(N, None), "give score_rows=, a function .* rows to margin"),
        (lambda: dpet(tuner={}), "leave tuner at null"),
        (lambda: dpet(proxy={}), "only dpet run can do"),
        (lambda: dpet(dissimilarity={"kind": "kl"}), "asks for margin, cross_entropy"),
        (lambda: of(OneShot()), "trains a network of its own"),
        (lambda: DpetPruner(N, print, replay={"kind": "balanced"}), "give labels="),
    ],
)
def test_what_no_other_loop_can_do_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda rows: rows[1:] * 1.0, "one number for each"),
        (lambda rows: np.where(rows == 3, np.nan, 1.0), "NaN"),
    ],
)
def test_scores_that_rank_nothing_are_refused(score, message):
    pruner = DpetPruner(N, score, warmup_passes=1)
    rows, _ = pruner.next_pass()
    observe(pruner, rows)
    with pytest.raises(UserError, match=message):
        pruner.next_pass()


def test_a_state_of_another_method_or_seed_is_refused():
    state = InfoBatchPruner(N, 5, seed=1).state_dict()
    for other in (InfoBatchPruner(N, 5), InfoBatchPruner(N, 6, seed=1)):
        with pytest.raises(UserError, match="make the object as the saved one"):
            other.load_state_dict(state)


# three loops

BATCH = 50
CENTRES = RNG.normal(size=(3, 8))
IMAGES = (CENTRES[LABELS] + 0.5 * RNG.normal(size=(N, 8))).astype(np.float32)


def batches(rows, weights):
    """Cut a pass into batches of one shape; what fills the last one up weighs 0."""
    for start in range(0, rows.size, BATCH):
        some = rows[start : start + BATCH]
        fill = BATCH - some.size
        yield (
            np.concatenate([some, np.resize(rows, fill)]),
            np.pad(weights[start : start + BATCH], (0, fill)),
            some.size,
        )


def train(pruner, step):
    """Run a loop of one's own; return its last mean loss and the examples seen."""
    for rows, weights in pruner.passes():
        for some, weight, real in batches(rows, weights):
            losses = step(IMAGES[some], LABELS[some], weight)
            pruner.observe(some[:real], losses[:real])
    everything = slice(0, BATCH)
    last = step(IMAGES[everything], LABELS[everything], np.zeros(BATCH, np.float32))
    return float(np.mean(last)), pruner.visits


def weighted(logits, labels, weights):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (weights * losses).mean(), losses


def nnx_step():
    model = nnx.Linear(8, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.5), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, images, labels, weights):
        def loss(model):
            return weighted(model(images), labels, weights)

        grads, losses = nnx.grad(loss, has_aux=True)(model)
        optimizer.update(model, grads)
        return losses

    return lambda *batch: step(model, optimizer, *batch)


def linen_step():
    model, optimizer = linen.Dense(3), optax.sgd(0.5)
    variables = model.init(jax.random.key(0), IMAGES[:1])
    return functional(model.apply, variables, optimizer)


def equinox_step():
    eqx = pytest.importorskip(
        "equinox", reason="the extra adapters is not installed: equinox"
    )
    model = eqx.nn.Linear(8, 3, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def apply(params, images):
        return jax.vmap(eqx.combine(params, static))(images)

    return functional(apply, params, optax.sgd(0.5))


def functional(apply, params, optimizer):
    @jax.jit
    def step(params, opt_state, images, labels, weights):
        def loss(params):
            return weighted(apply(params, images), labels, weights)

        grads, losses = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, losses

    state = params, optimizer.init(params)

    def keeping(*batch):
        nonlocal state
        *state, losses = step(*state, *batch)
        return losses

    return keeping


@pytest.mark.parametrize("loop", [nnx_step, linen_step, equinox_step])
def test_three_loops_train_on_less_and_learn_the_task(loop):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        loss, visits = train(InfoBatchPruner(N, 8), loop())
        assert loss < 0.4
        assert 4 * N < visits < 7 * N
