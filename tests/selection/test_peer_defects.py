"""What the published code of other projects gets wrong, as checks that ours passes.

Each check is given our function and then the other's formula, which has to fail it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.methods.base import Pool, Selection
from dpet_jax.methods.dynamic import InfoBatch
from dpet_jax.methods.rs2 import rs2_passes
from dpet_jax.scores import grand_last_layer, least_confidence, score_pool
from dpet_jax.scores.factors import last_layer_gradients
from dpet_jax.selection import craig, herding, top_k
from dpet_jax.selection.greedy import sample_size
from dpet_jax.selection.per_class import per_class


def must_fail(check, formula):
    with pytest.raises(AssertionError):
        check(formula)


def confidence(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)).max(axis=1)


def test_the_least_confident_are_picked_and_not_the_most():
    # DeepCore, methods/uncertainty.py: without class balance, scores are sorted
    # descending though small ones are uncertain
    def check(pick):
        logits = np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32)
        certainty = confidence(logits)
        taken = np.asarray(pick(logits, 5))
        rest = np.setdiff1d(np.arange(50), taken)
        assert certainty[taken].max() < certainty[rest].min()

    def ours(logits, num_select):
        labels = np.zeros(len(logits), np.int32)
        scores = jax.jit(jax.vmap(least_confidence))(jnp.asarray(logits), labels)
        return top_k(scores, num_select)

    def peers(logits, num_select):
        return np.argsort(confidence(logits))[::-1][:num_select]

    check(ours)
    must_fail(check, peers)


def test_confidence_is_a_probability_and_not_a_logit():
    # DeepCore, RS2, Park et al., Play-it-Straight: the largest raw logit
    def check(score):
        sure, torn = jnp.array([2.0, -9.0, -9.0]), jnp.array([5.0, 5.0, 4.9])
        assert score(torn, jnp.int32(0)) > score(sure, jnp.int32(0))

    check(least_confidence)
    must_fail(check, lambda logits, _: -jnp.max(logits))


def test_herding_draws_the_mean_near_and_does_not_push_it_away():
    # DeepCore, RS2, methods/herding.py: argmax of the distance to the running target
    def check(pick):
        features = np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32)
        mean = features.mean(axis=0)
        error = np.linalg.norm(features[pick(features, 20)].mean(axis=0) - mean)
        by_chance = [
            np.linalg.norm(features[rows[:20]].mean(axis=0) - mean)
            for rows in np.random.default_rng(2).permuted(
                np.tile(np.arange(200), (50, 1)), axis=1
            )
        ]
        assert error < min(by_chance)

    def ours(features, num_select):
        return np.asarray(herding(jnp.asarray(features), num_select).indices)

    def peers(features, num_select):
        mean, picked = features.mean(axis=0), []
        for turn in range(num_select):
            target = (turn + 1) * mean - features[picked].sum(axis=0)
            distance = np.linalg.norm(target - features, axis=1)
            distance[picked] = -np.inf
            picked.append(int(distance.argmax()))
        return picked

    check(ours)
    must_fail(check, peers)


def test_the_last_batch_of_a_pool_is_scored_like_every_other():
    # DeepCore, modyn: a mean over the batch divides each gradient by the batch's rows,
    # fewer in the last batch
    rng = np.random.default_rng(3)
    logits = jnp.asarray(rng.normal(size=(130, 10)), jnp.float32)
    features = jnp.asarray(rng.normal(size=(130, 16)), jnp.float32)
    labels = jnp.asarray(rng.integers(10, size=130), jnp.int32)
    alone = jax.jit(jax.vmap(grand_last_layer))(logits, labels, features)

    def check(norms):
        np.testing.assert_allclose(norms(), alone, rtol=1e-5)

    def ours():
        def apply_fn(params, rows):
            del params
            return rows[:, :10], rows[:, 10:]

        pool = jnp.concatenate([logits, features], axis=1)
        names = ("grand_last_layer",)
        scores = score_pool(apply_fn, {}, pool, labels, names, batch_size=128)
        return scores["grand_last_layer"]

    def peers():
        sizes = np.where(np.arange(130) < 128, 128, 2)
        return 128 * np.asarray(alone) / sizes

    check(ours)
    must_fail(check, peers)


def test_stochastic_greedy_looks_at_enough_candidates_to_be_greedy():
    # DeepCore's optimizer has epsilon = 0.9: one candidate a pick, which is chance
    def check(size):
        assert size(50_000, 5_000) >= 10 * math.log(100)

    check(lambda n, k: sample_size(n, k, 0.01))
    must_fail(check, lambda n, k: max(round(-math.log(0.9) * n / k), 1))


def _gradients(n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n).astype(np.int32)
    logits, features = rng.normal(size=(n, 3)), rng.normal(size=(n, 5))
    factors = last_layer_gradients(
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(labels),
        jnp.asarray(features, jnp.float32),
    )
    return factors, labels


def test_weights_of_craig_count_every_example_once():
    # DeepCore, methods/craig.py: one more than the cluster
    def check(weights):
        gradients, labels = _gradients(60, 4)
        assert weights(craig(gradients, labels, 12)).sum() == 60

    check(lambda chosen: chosen.weights)
    must_fail(check, lambda chosen: chosen.weights + 1)


def test_picks_are_mapped_back_in_the_order_in_which_they_were_scored():
    # CORDS: features come from a sampler that shuffles, positions from the list that
    # was handed to it
    labels = np.random.default_rng(5).integers(4, size=80).astype(np.int32)
    scores = np.random.default_rng(6).normal(size=80)

    def check(shuffled):
        def select(positions, count):
            seen = shuffled(positions)
            best = np.argsort(-scores[seen], kind="stable")[:count]
            return Selection(best.astype(np.int32), scores[seen][best])

        chosen = per_class(select, labels, 4, 20)
        for one in range(4):
            among = np.flatnonzero(labels == one)
            mine = chosen.indices[labels[chosen.indices] == one]
            assert set(mine) == set(among[np.argsort(-scores[among])[: len(mine)]])

    check(lambda positions: positions)
    must_fail(check, np.random.default_rng(7).permutation)


def test_gradients_are_those_of_cross_entropy_of_logits():
    # RS2's and Park's copies of DeepCore hand probabilities to a loss that takes their
    # softmax once more
    def check(norm):
        logits, label = jnp.array([4.0, 0.5, -1.0]), jnp.int32(1)
        features = jnp.array([0.3, -2.0])

        def loss(kernel, bias):
            return -jax.nn.log_softmax(logits + features @ kernel + bias)[label]

        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
        parts = gradient(jnp.zeros((2, 3)), jnp.zeros(3))
        expected = math.sqrt(sum(float(jnp.sum(part**2)) for part in parts))
        assert float(norm(logits, label, features)) == pytest.approx(expected, rel=1e-5)

    check(grand_last_layer)
    must_fail(
        check,
        lambda logits, label, features: grand_last_layer(
            jax.nn.softmax(logits), label, features
        ),
    )


@pytest.mark.parametrize("passes", [30, 50, 90, 100, 200])
def test_infobatch_weighs_nothing_while_it_anneals(passes):
    # the authors' package resets the weights only in a pass whose number equals
    # 0.875 passes + 1, which 30, 50, 90 and 100 passes do not have
    losses = np.linspace(0.0, 1.0, 40, dtype=np.float32)
    method = InfoBatch(prune_probability=0.5, annealing_start=0.875, passes=passes)
    first = math.ceil(0.875 * passes)

    begun = method.start(Pool(40, np.zeros(40, np.int32), 2), 0)

    def ours():
        for index in range(first, passes):
            state = begun._replace(passes=index, losses=losses)
            rows, weights, _ = method.choose(state)
            yield rows.size, np.ones(rows.size) if weights is None else weights

    def check(annealing):
        for size, weight in annealing:
            assert size == 40
            np.testing.assert_array_equal(weight, 1)

    def peers():
        weights = np.where(losses < losses.mean(), 2.0, 1.0)
        if (0.875 * passes).is_integer():
            weights[:] = 1
        return [(40, weights)]

    check(ours())
    if passes == 200:
        check(peers())
    else:
        must_fail(check, peers())


def test_rs2_sees_everything_before_it_sees_anything_twice():
    # RS2, uniform_no_replacement.py: where the fraction does not divide the data, the
    # pass that reaches the end wraps to the beginning of the same order
    def check(draw):
        counts = np.bincount(np.concatenate(draw(1000, 300, 10)), minlength=1000)
        assert set(counts) == {3}

    def ours(n, size, passes):
        return list(rs2_passes(n, size / n, passes, seed=0))

    def peers(n, size, passes):
        order, start, drawn = np.random.default_rng(8).permutation(n), 0, []
        for _ in range(passes):
            end = (start + size) % (n + 1)
            if start > end:
                drawn.append(np.concatenate([order[start:], order[:end]]))
                start, order = 0, np.random.default_rng(9).permutation(n)
            else:
                drawn.append(order[start:end])
                start = end
        return drawn

    check(ours)
    must_fail(check, peers)
