"""The accelerator's side, on a tiny data set: selection, a proxy, what is counted."""

from contextlib import contextmanager
from dataclasses import replace

import jax
import numpy as np
import pytest

from dpet_jax.config.experiment import METHODS
from dpet_jax.config.load import validate
from dpet_jax.errors import DivergedError
from dpet_jax.methods.base import FRESH, MAIN, PROXY, Plan, Pool, Span
from dpet_jax.methods.coreset import SavedCoreset
from dpet_jax.methods.one_shot import SELECTORS as SELECTORS_OF_ONE_SHOT
from dpet_jax.run import build as parts
from dpet_jax.run.trainer import Trainer
from dpet_jax.selection.by_name import SELECTORS
from dpet_jax.selection.ranking import blend, rank, stretch
from dpet_jax.training.chunks import Batches, Chunks, Pace
from dpet_jax.training.compilation import compile_counts
from dpet_jax.training.learner import DeviceLearner

CONFIG = validate(
    {
        "model": {"kind": "resnet", "stem": 16, "channels": [16], "blocks": [1]},
        "train": {"batch_size": 32, "augment": {"translate": 1}},
        "method": {"proxy": {"width_multiplier": 0.5}},
    },
    "test",
)
ASKED = (
    *("entropy", "cross_entropy", "margin", "el2n"),
    *("grand_last_layer", "artifact_margin_none"),
)
#: For selectors, beside the scores.
OUTPUTS = ("logits", "features")


@pytest.fixture(scope="module")
def data():
    return parts.build_data(CONFIG)


@pytest.fixture(scope="module")
def spec(data):
    model = parts.build_model(CONFIG, data)
    return parts.build_learner_spec(CONFIG, model, (*ASKED, *OUTPUTS))


@pytest.fixture
def learner(data, spec):
    learner = DeviceLearner(data, spec, parts.build_hyper(CONFIG), seed=0)
    list(learner.compile())
    return learner


def train(learner, rows):
    handle = learner.main.train(
        np.asarray(rows, np.int32), len(rows) // 32, Span(0, 1000), 0
    )
    learner.main.wait(handle)


def copied(learner):
    return jax.tree.map(np.asarray, learner.snapshot())


def assert_equal(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_learner_is_what_the_loop_asks_for(learner):
    assert isinstance(learner, Trainer)


def test_programs_of_the_proxy_are_made_ready_by_name(learner):
    before = compile_counts().programs
    done = list(learner.compile())
    assert [compilation.what for compilation in done] == [
        *("init", "train_steps", "score_pool", "first calls"),
        *("proxy init", "proxy train_steps", "proxy score_pool", "proxy first calls"),
        "ranking",
    ]
    assert compile_counts().programs == before


# scores and selections


def test_only_what_a_method_names_and_an_evaluation_needs_is_compiled(learner):
    rows = np.arange(3, dtype=np.int32)
    with pytest.raises(ValueError, match="asks for least_confidence but does not name"):
        learner.score(("entropy", "least_confidence"), rows)
    compiled = learner.main.score(rows, ())
    assert set(compiled) == {*ASKED, *OUTPUTS, "zero_one"}


@pytest.mark.parametrize("model", [MAIN, PROXY])
def test_every_score_is_aligned_with_the_index_set(learner, model):
    index_set = np.array([700, 3, 1454, 41], np.int32)
    names = (*ASKED, "zero_one")
    scores = learner.score(names, index_set, model)
    assert tuple(scores) == names
    again = learner.score(names, index_set[::-1].copy(), model)
    for name in names:
        assert scores[name].shape == (4,)
        np.testing.assert_allclose(scores[name], again[name][::-1], rtol=1e-5)
    np.testing.assert_allclose(
        scores["artifact_margin_none"], scores["margin"] - 1, atol=1e-5
    )


def test_scoring_is_counted_by_examples_and_with_its_padding_by_flops(learner, spec):
    index_set = np.arange(501, dtype=np.int32)
    learner.score(("margin",), index_set)
    main = 1000 * spec.step.model.forward_flops(8, 8)
    assert (learner.scored_examples, learner.select_flops) == (501, main)
    learner.select("top_k", index_set, 3, PROXY, scores=("margin",))
    proxy = 1000 * spec.auxiliary[1].forward_flops(8, 8)
    assert (learner.scored_examples, learner.select_flops) == (1002, main + proxy)
    assert 3 * proxy < main
    assert learner.selection_visits == 0


def test_evaluation_is_not_counted_as_scoring(learner):
    learner.evaluate("test")
    assert (learner.scored_examples, learner.select_flops) == (0, 0)


@pytest.mark.parametrize("model", [MAIN, PROXY])
@pytest.mark.parametrize("num_select", [0, 1, 7, 500, 501, 1300])
def test_select_takes_the_largest_scores_of_the_candidates(learner, model, num_select):
    candidates = np.arange(100, 1400, dtype=np.int32)
    selection = learner.select(
        "top_k", candidates, num_select, model, scores=("entropy",)
    )
    scores = learner.score(("entropy",), candidates, model)["entropy"]
    order = np.argsort(-scores, kind="stable")[:num_select]
    np.testing.assert_array_equal(selection.indices, candidates[order])
    np.testing.assert_array_equal(selection.gains, scores[order])
    assert selection.indices.dtype == np.int32


def test_models_answer_for_themselves(learner):
    pool = np.arange(300, dtype=np.int32)
    main, proxy = (
        learner.select("top_k", pool, 50, model, scores=("entropy",)).indices.tolist()
        for model in (MAIN, PROXY)
    )
    assert set(main) != set(proxy)


def test_select_blends_two_scores(learner):
    candidates = np.arange(300, dtype=np.int32)
    names = ("entropy", "cross_entropy")
    all_second = learner.select("top_k", candidates, 5, scores=names, weight=1.0)
    second = learner.select("top_k", candidates, 5, scores=names[1:])
    np.testing.assert_array_equal(all_second.indices, second.indices)
    np.testing.assert_allclose(all_second.gains.max(), 1.0)


@pytest.mark.parametrize("num_select", [4, 501, 5000])
def test_more_than_there_are_cannot_be_selected(learner, num_select):
    with pytest.raises(ValueError, match=f"cannot take {num_select} of 3"):
        learner.select(
            "top_k", np.arange(3, dtype=np.int32), num_select, scores=("margin",)
        )


@pytest.mark.parametrize("names", [("margin",), ("margin", "el2n")])
def test_scores_that_are_no_numbers_choose_nothing(learner, names):
    broken = copied(learner)
    broken[MAIN]["params"] = jax.tree.map(lambda w: w * np.nan, broken[MAIN]["params"])
    learner.restore(broken)
    pool = np.arange(300, dtype=np.int32)
    with pytest.raises(DivergedError, match="of the pool hold NaN"):
        learner.select("top_k", pool, 3, scores=names)
    assert learner.select("top_k", pool, 3, PROXY, scores=names).indices.size == 3


def test_what_is_unknown_is_refused(learner):
    pool = np.arange(3, dtype=np.int32)
    with pytest.raises(ValueError, match="no selector called 'magic'"):
        learner.select("magic", pool, 1, scores=("margin",))
    with pytest.raises(
        ValueError, match="no model called 'twin'; there is main, proxy"
    ):
        learner.score(("margin",), pool, "twin")


def test_no_sequence_of_pools_subsets_and_models_compiles_anything(learner):
    for ranking in (blend, rank, stretch):
        ranking.clear_cache()  # of what other tests have asked for
    list(learner.compile())
    rng = np.random.default_rng(0)
    before = compile_counts().programs
    for size in (1455, 1, 77, 500, 1000, 501):
        pool = rng.permutation(1455)[:size].astype(np.int32)
        for model in (MAIN, PROXY):
            for num_select in {1, min(size, 77), size}:
                learner.select("top_k", pool, num_select, model, scores=("el2n",))
            learner.select(
                "top_k", pool, 1, model, scores=("margin", "el2n"), weight=size / 2000
            )
            learner.score(("grand_last_layer", "margin"), pool, model)
        plan = Plan(pool, "x", passes=2, reset="all")
        learner.main.begin(plan, size)
        learner.train(plan, PROXY)
    learner.evaluate("validation")
    assert compile_counts().programs == before


# training a proxy


def test_train_gives_the_bits_of_the_loop(data, spec, learner):
    """A second learner whose main model has the proxy's shape plays the loop."""
    plans = [
        Plan(np.arange(100, dtype=np.int32), "a", 3, schedule=Span(0, 400)),
        Plan(np.arange(70, dtype=np.int32), "b", 2, reset="optimizer"),
        Plan(
            *(np.arange(50, dtype=np.int32), "c", 1),
            weights=np.linspace(1, 3, 50, dtype=np.float32),
            reset="all",
        ),
    ]
    _, narrow = spec.auxiliary
    alone = replace(spec, step=replace(spec.step, model=narrow), auxiliary=None)
    loop = DeviceLearner(data, alone, parts.build_hyper(CONFIG), seed=0)
    list(loop.compile())
    for index, plan in enumerate(plans):
        loop.main.begin(plan, index)
        batches = Batches(plan, 32, 0, index)
        span = plan.schedule or Span(0, plan.visits)
        for step in range(batches.num_steps):
            rows, visits = batches.rows(step, 1), batches.visits_before(step)
            loop.main.wait(loop.main.train(rows, 1, span, visits))
        expected, got = loop.main.result(plan.index_set), learner.train(plan, PROXY)
        assert_equal(got, expected)
    assert_equal(copied(learner)[PROXY], copied(loop)[MAIN])


def test_training_a_proxy_is_counted_and_leaves_the_main_model_alone(learner, spec):
    before = copied(learner)
    plan = Plan(np.arange(50, dtype=np.int32), "x", 3)
    learner.train(plan, PROXY)
    each = spec.auxiliary[1].forward_flops(8, 8)
    assert learner.select_flops == 3 * 160 * each  # 150 rows fill up to 160
    assert (learner.selection_visits, learner.scored_examples) == (150, 0)
    after = copied(learner)
    assert_equal(before[MAIN], after[MAIN])
    assert (int(before[PROXY]["plans"]), int(after[PROXY]["plans"])) == (0, 1)


@pytest.mark.parametrize(
    ("model", "message"),
    [(MAIN, "the loop alone trains the main model"), ("twin", "no model called")],
)
def test_only_other_models_that_exist_can_be_trained(learner, model, message):
    with pytest.raises(ValueError, match=message):
        learner.train(Plan(np.arange(3, dtype=np.int32), "x"), model)


def test_proxy_whose_loss_is_no_number_is_told(data, spec):
    config = CONFIG.model_dump(mode="json")
    config["train"]["optimizer"]["learning_rate"] = 1e30
    hyper = parts.build_hyper(validate(config, "test"))
    learner = DeviceLearner(data, spec, hyper, seed=0)
    list(learner.compile())
    with pytest.raises(DivergedError, match="loss of the proxy model is no number"):
        learner.train(Plan(np.arange(1455, dtype=np.int32), "x", 4), PROXY)


def test_a_restored_snapshot_goes_on_to_the_same_bits(data, spec, learner):
    rows = np.arange(64, dtype=np.int32)
    plans = [Plan(rows[: 40 + index], f"{index}", 2) for index in range(2)]
    train(learner, rows)
    learner.train(plans[0], PROXY)
    saved = copied(learner)
    second = DeviceLearner(data, spec, parts.build_hyper(CONFIG), seed=0)
    list(second.compile())
    second.restore(saved)
    for one in (learner, second):
        train(one, rows)
        one.train(plans[1], PROXY)
    assert_equal(copied(learner), copied(second))


def test_nothing_is_transferred_unasked_while_choosing_and_training(learner):
    pool = np.arange(300, dtype=np.int32)
    with jax.transfer_guard("disallow"):
        learner.main.begin(Plan(pool, "x", reset="all"), 1)
        train(learner, np.arange(64))
        learner.main.result(pool)
        learner.train(Plan(pool, "x", reset="all"), PROXY)
        learner.score(("margin", "grand_last_layer"), pool)
        learner.select("top_k", pool, 20, PROXY, scores=("margin",))
        learner.select("top_k", pool, 20, scores=("margin", "el2n"), weight=0.3)
        learner.evaluate("validation")


# looking at the main model


def test_evaluate_agrees_with_the_model_itself(learner, data):
    evaluation = learner.evaluate("validation")
    rows = data.validation_rows
    wrong = learner.score(("zero_one",), rows)["zero_one"]
    assert evaluation.accuracy == pytest.approx(1 - wrong.mean())
    of_class = data.labels[rows] == 3
    assert evaluation.per_class_accuracy[3] == pytest.approx(1 - wrong[of_class].mean())


def test_memory_of_the_host_is_known(learner):
    assert learner.memory()["host_mib"] > 50


# choosing in other ways, and fresh networks


def one_shot(data, **method):
    """Make the learner of a one-shot method."""
    tree = {"method": {"kind": "one_shot", **method}}
    tree |= {key: CONFIG.model_dump(mode="json")[key] for key in ("model", "train")}
    config = validate(tree, "test")
    spec = parts.build_learner_spec(config, parts.build_model(config, data))
    learner = DeviceLearner(data, spec, parts.build_hyper(config), seed=0)
    list(learner.compile())
    return learner


def test_values_of_the_host_are_ranked_like_scores(learner):
    candidates = np.arange(100, 800, dtype=np.int32)
    values = np.random.default_rng(0).normal(size=700).astype(np.float32)
    before = learner.scored_examples
    chosen = learner.select("top_k", candidates, 40, values=values)
    order = np.argsort(-values, kind="stable")[:40]
    np.testing.assert_array_equal(chosen.indices, candidates[order])
    np.testing.assert_array_equal(chosen.gains, values[order])
    assert learner.scored_examples == before
    values[3] = np.nan
    with pytest.raises(DivergedError, match="NaN"):
        learner.select("top_k", candidates, 40, values=values)


def test_each_class_gets_its_share_of_the_best(learner, data):
    everything = np.arange(data.num_train, dtype=np.int32)
    labels = data.labels[: data.num_train]
    # all examples of class 0 score above all others
    values = np.where(labels == 0, 10, 0) + np.linspace(0, 1, data.num_train)
    values = values.astype(np.float32)
    chosen = learner.select("top_k", everything, 100, values=values, per_class=True)
    counts = np.bincount(labels[chosen.indices], minlength=10)
    shares = np.bincount(labels) * 100 / data.num_train
    assert np.all(np.abs(counts - shares) < 1)
    for label in range(10):
        of_class = chosen.indices[labels[chosen.indices] == label]
        best = np.flatnonzero(labels == label)[::-1][: counts[label]]
        np.testing.assert_array_equal(of_class, best)
    np.testing.assert_array_equal(chosen.gains, values[chosen.indices])
    # no prefix is far from the shares either
    for size in (20, 50):
        some = np.bincount(labels[chosen.indices[:size]], minlength=10)
        assert np.all(np.abs(some - shares * size / 100) < 2)


@pytest.mark.parametrize("name", sorted(SELECTORS))
@pytest.mark.parametrize("per_class", [False, True])
def test_every_selector_chooses_distinct_candidates_for_one_network(
    data, name, per_class
):
    learner = one_shot(data, by="k_center")
    pool = np.arange(40, 440, dtype=np.int32)
    model = learner.fresh(7)
    before = learner.scored_examples
    chosen = learner.select(name, pool, 30, model, per_class=per_class, seed=3)
    assert chosen.indices.dtype == np.int32
    assert np.unique(chosen.indices).size == 30
    assert np.isin(chosen.indices, pool).all()
    assert learner.scored_examples - before == 400
    if per_class and name != "stratified":
        labels = data.labels[pool]
        counts = np.bincount(data.labels[chosen.indices], minlength=10)
        assert np.all(np.abs(counts - np.bincount(labels) * 30 / 400) < 1)


PASS_BY_PASS = (
    *("infobatch", "loss_threshold", "stale_selective_backprop"),
    *("selective_backprop", "epsilon_greedy"),
)
SMALL = {"keep_fraction": 0.2, "passes": 2}
DECIDING = [
    *({"kind": kind, "passes": 3} for kind in PASS_BY_PASS),
    {"kind": "dpet_anneal", "epochs": 3, "drop": 0.5},
    {"kind": "standard", "passes": 1},
    {"kind": "rs2", **SMALL},
    {
        "kind": "active_learning",
        "query_size": 40,
        "passes_per_round": 1,
        "score": "el2n",
    },
    *(
        {"kind": "dpet", "warmup_passes": 1, "query_size": 40, "max_rounds": 2, **how}
        for how in (
            {"dissimilarity": {"kind": "kl"}},
            {"diversity": {"kind": "stratified"}},
        )
    ),
    *(
        {"kind": "one_shot", "by": by, "pretrain_passes": 1, **SMALL}
        for by in (*SELECTORS_OF_ONE_SHOT, "el2n", "grand_last_layer", "forgetting")
    ),
    {"kind": "one_shot", "by": "glister", "choose_every": 1, **SMALL},
]


def decisions(method, data, learner):
    """Play a method; return the index set and the weights of every plan."""
    pool = Pool(200, data.labels[:200], data.num_classes)  # a few are enough
    state, found = method.start(pool, 1), []
    while True:
        state, plan = method.plan(state, learner)
        if plan is None:
            return found
        found.append((plan.index_set, plan.weights))
        plan = replace(plan, schedule=Span(0, plan.visits))
        index, place = len(found) - 1, {"batch_size": 32, "seed": 1, "pace": Pace()}
        learner.main.begin(plan, index)
        chunks = Chunks(learner.main, plan, plan_index=index, **place)
        while chunks.left:
            chunks.start(chunks.next_steps(chunks.left))
        list(chunks.drain())
        state = method.observe(state, learner.main.result(plan.index_set))


def test_no_method_decides_by_examples_that_targets_are_reached_on(data):
    """Everything about validation and test is replaced, and nothing may change."""
    rng = np.random.default_rng(5)
    images, labels = data.images.copy(), data.labels.copy()
    held_out = np.arange(data.num_train, labels.size)
    images[held_out] = rng.integers(0, 256, images[held_out].shape)
    labels[held_out] = rng.permutation(labels[held_out])
    other = replace(data, images=images, labels=labels)
    methods = [validate({"method": tree}, "test").method for tree in DECIDING]
    assert {type(method) for method in methods} == {*METHODS} - {SavedCoreset}
    names = dict.fromkeys(name for method in methods for name in method.scores)
    model = parts.build_model(CONFIG, data)
    spec = replace(
        parts.build_learner_spec(CONFIG, model, tuple(names)), auxiliary=(FRESH, model)
    )
    learners = [
        DeviceLearner(one, spec, parts.build_hyper(CONFIG), seed=1)
        for one in (data, other)
    ]
    for learner in learners:
        list(learner.compile())
    for method in methods:
        assert_equal(*(decisions(method, data, learner) for learner in learners))


def test_the_first_selection_of_a_process_costs_what_later_ones_do(
    data, spec, monkeypatch
):
    """What is compiled, and done for the first time, is apart from selecting."""
    monkeypatch.setattr("dpet_jax.training.learner._rehearsed", set())
    # no other test scores in batches of this size, so that nothing is compiled yet
    rare = replace(spec, score_batch_size=331, scores=OUTPUTS, auxiliary=None)
    learner = DeviceLearner(data, rare, parts.build_hyper(CONFIG), seed=0)
    list(learner.compile())
    inside = []

    @contextmanager
    def compiling():
        before = compile_counts().programs
        yield
        inside.append(compile_counts().programs - before)

    learner.compiling = compiling
    pool, values = np.arange(90, dtype=np.int32), np.arange(90, dtype=np.float32)
    for name, options, windows in (
        ("top_k", {"values": values}, 1),
        ("k_center", {"seed": 1}, 1),
        ("stratified", {"seed": 1}, 2),  # its classes may be of other sizes
    ):
        chosen = []
        for _ in range(2):
            before, known = compile_counts().programs, sum(inside)
            scored = learner.scored_examples
            chosen.append(learner.select(name, pool, 9, **options))
            assert compile_counts().programs - before == sum(inside) - known
            assert learner.scored_examples - scored == 90 * (name != "top_k")
        assert_equal(*chosen)
        assert len(inside) == windows
        assert inside[0] > 0
        assert sum(inside[1:]) == 0
        inside.clear()


def test_unknown_selector_is_named(learner):
    with pytest.raises(ValueError, match=r"no selector called 'magic'; there is top_k"):
        learner.select("magic", np.arange(9, dtype=np.int32), 2)


def test_fresh_networks_are_new_trained_apart_and_never_saved(data):
    learner = one_shot(data, by="el2n")
    rows = np.arange(64, dtype=np.int32)
    before = copied(learner)
    assert set(before) == {MAIN}
    scores = []
    for seed in (1, 1, 2):
        model = learner.fresh(seed)
        result = learner.train(Plan(rows, "x", 2), model)
        assert np.isfinite(result.losses).all()
        scores.append(learner.score(("el2n",), rows, model)["el2n"])
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.allclose(scores[0], scores[2])
    assert_equal(before, copied(learner))
    assert learner.selection_visits == 3 * 128
    programs = compile_counts().programs
    learner.train(Plan(rows, "x", 1), learner.fresh(3))
    assert compile_counts().programs == programs


def test_a_narrow_network_is_drawn_where_one_is_to_choose(data):
    narrow = one_shot(data, by="el2n", proxy={"width_multiplier": 0.5})
    whole = one_shot(data, by="el2n")
    rows = np.arange(100, dtype=np.int32)
    costs = []
    for learner in (narrow, whole):
        learner.score(("el2n",), rows, learner.fresh(0))
        costs.append(learner.select_flops)
    assert 3 * costs[0] < costs[1]


def test_what_is_raised_between_chunks_ends_the_training_of_a_fresh_network(data):
    learner = one_shot(data, by="el2n")
    seen = []

    def stop(plan, visits, loss, accuracy):
        seen.append((plan.label, visits))
        assert np.isfinite(loss)
        assert 0 <= accuracy <= 1
        if len(seen) == 2:
            raise KeyboardInterrupt

    learner.between_chunks = stop
    plan = Plan(np.arange(data.num_train, dtype=np.int32), "long", 50)
    with pytest.raises(KeyboardInterrupt):
        learner.train(plan, learner.fresh(0))
    assert len(seen) == 2
    assert seen[0][0] == "long"
    assert 0 < seen[1][1] < learner.selection_visits < plan.visits
