"""Which examples to train on, pass by pass, in a training loop of one's own.

The objects here hold a method of `dpet_jax.methods` and ask it, as the loop of
`dpet run` does; the loop that trains is yours, in whatever framework. Arrays are
numpy, and what is given may be anything that numpy can read.

    pruner = InfoBatchPruner(50_000, passes=30)
    for rows, weights in pruner.passes():
        for some, weight in batches(rows, weights):
            losses = step(images[some], labels[some], weight)   # mean(weight * loss)
            pruner.observe(some, losses)                        # unweighted, [b]
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from pydantic import ValidationError

from dpet_jax.errors import UserError
from dpet_jax.methods.base import (
    MAIN,
    Coreset,
    Method,
    ModelHandle,
    Plan,
    Pool,
    Selection,
    TrainResult,
    order_of_pass,
)
from dpet_jax.methods.dpet import Dpet
from dpet_jax.methods.dpet_anneal import DpetAnneal
from dpet_jax.methods.dynamic import InfoBatch
from dpet_jax.methods.saved import (
    plan_arrays,
    plan_from,
    plan_header,
    put_together,
    taken_apart,
)
from dpet_jax.section import shown

#: Maps int32[m] rows to a score for each, float[m], larger = more informative, by your
#: model as it stands.
ScoreRows: TypeAlias = Callable[[np.ndarray], Any]


class Pass(NamedTuple):
    """What to train on once, in this order.

    Attributes:
        rows: int32[m], positions in the data, none twice, in random order.
        weights: float32[m], of the losses; all 1 where the method weighs none.
    """

    rows: np.ndarray
    weights: np.ndarray


class DataPruner:
    """A method of choosing examples, asked by a training loop of one's own.

    Between two passes it must be told the training loss of every example of the first,
    by `observe`, at once or batch by batch. It gives the same passes as `dpet run`
    does for the same losses, data order and seed.

    Args:
        method: Any whose choice needs no more than losses, or scores of your model;
            those that train networks to choose by do not work in another loop.
        num_examples: n, of the data that rows are positions in.
        labels: int[n], in [0, k); needed by `coreset`, margins and balanced replays.
        seed: Decides every random draw.
        batch_size: Of your loop, which `dpet_anneal` makes whole batches of.
        score_rows: Scores examples, for methods that look at them before they choose.

    Raises:
        UserError: If the method cannot work in another loop, or lacks something.
    """

    def __init__(
        self,
        method: Method,
        num_examples: int,
        *,
        labels: Any = None,
        seed: int = 0,
        batch_size: int = 1,
        score_rows: ScoreRows | None = None,
    ) -> None:
        self.method = method
        self._n = _whole("num_examples", num_examples, 1)
        self._seed = _whole("seed", seed, 0)
        self._learner = _YourLoop(
            _whole("batch_size", batch_size, 1), self._n, score_rows
        )
        self._labels = None if labels is None else _labels(labels, self._n)
        self._check()
        known = np.zeros(self._n, np.int32) if self._labels is None else self._labels
        self._pool = Pool(self._n, known, int(known.max()) + 1)
        self._state = method.start(self._pool, self._seed)
        self._plan: Plan | None = None
        self._plan_index = -1
        self._pass_index = -1  # of the plan; the pass that was given out last
        self._visits = 0
        self._losses = np.full(self._n, np.inf, np.float32)
        self._margins = np.full(
            self._n if method.asks_margins else 0, np.inf, np.float32
        )
        self._waiting = np.zeros(self._n, bool)  # given out, and nothing said of it
        self._given = np.zeros(self._n, bool)  # by the pass that is trained on

    def __len__(self) -> int:
        """Examples that it chooses from, n."""
        return self._n

    @property
    def planned_visits(self) -> int:
        """Examples of all passes together, an estimate where it depends on losses.

        A schedule of the learning rate may run over so many.
        """
        return self.method.planned_visits(self._pool)

    @property
    def visits(self) -> int:
        """Examples of all passes given out so far."""
        return self._visits

    @property
    def plan(self) -> Plan | None:
        """What the pass given out last is a part of; None before the first.

        Its `reset` says whether the method wants a new optimizer at its beginning, its
        `schedule` where on the schedule it lies.
        """
        return self._plan

    def passes(self) -> Iterator[Pass]:
        """Yield pass after pass to the end; the caller observes in between."""
        while True:
            try:
                chosen = self.next_pass()
            except StopIteration:
                return
            yield chosen

    def next_pass(self) -> Pass:
        """Return what to train on next.

        Raises:
            StopIteration: After the last pass.
            UserError: If the losses of the pass before are not all known.
        """
        missing = int(self._waiting.sum())
        if missing:
            raise UserError(
                f"observe: {missing:,} of the {int(self._given.sum()):,} examples of "
                "the last pass have no loss yet; give those of every row before the "
                "next pass, a last batch that is not full included"
            )
        if self._plan is None or self._pass_index + 1 == self._plan.passes:
            self._next_plan()
        else:
            self._pass_index += 1
        assert self._plan is not None
        rows = order_of_pass(self._plan, self._pass_index, self._seed, self._plan_index)
        weights = np.ones(self._n, np.float32)
        if self._plan.weights is not None:
            weights[self._plan.index_set] = self._plan.weights
        self._given[:] = False
        self._given[rows] = True
        self._waiting = self._given.copy()
        self._visits += rows.size
        return Pass(rows, weights[rows])

    def observe(self, rows: Any, losses: Any, *, logits: Any = None) -> None:
        """Take the losses of some examples of the pass, at their visits in training.

        Args:
            rows: int[b], of the pass that was given out last.
            losses: float[b], unweighted, one for each row.
            logits: float[b, k], where the method ranks by margins.

        Raises:
            UserError: If a row is not of the pass, a loss is not finite, or logits are
                missing.
        """
        rows, losses = np.asarray(rows), np.asarray(losses)
        if rows.ndim != 1 or losses.shape != rows.shape:
            raise UserError(
                f"observe: rows of shape {rows.shape} and losses of {losses.shape}; "
                "give one loss for each row, not their mean"
            )
        if not np.issubdtype(rows.dtype, np.integer):
            raise UserError(f"observe: rows are {rows.dtype}; give whole numbers")
        inside = (rows >= 0) & (rows < self._n)
        if not inside.all() or not self._given[rows].all():
            others = rows[~inside] if not inside.all() else rows[~self._given[rows]]
            raise UserError(
                f"observe: example {others[0]} is not of the pass that was given out "
                "last; give rows as next_pass returned them"
            )
        losses = losses.astype(np.float32)
        if not np.isfinite(losses).all():
            raise UserError(
                f"observe: the loss of example {rows[~np.isfinite(losses)][0]} is not "
                "finite; training has diverged, so lower its learning rate"
            )
        if self.method.asks_margins:
            self._margins[rows] = self._margins_of(rows, logits)
        self._losses[rows] = losses
        self._waiting[rows] = False

    def coreset(self) -> Coreset | None:
        """Return the examples chosen so far; None for a method that chooses none.

        Raises:
            UserError: If there are no labels, by which classes get their shares.
        """
        if self._labels is None and not isinstance(self.method, Dpet):
            raise UserError("labels: a coreset has shares of classes; give labels=")
        return self.method.coreset(self._state)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes, as `arrays` by name and `plain` values."""
        arrays, plain = taken_apart(self._state, "method")
        if self._plan is not None:
            arrays = arrays | plan_arrays("plan", self._plan)
        own = {
            "losses": self._losses,
            "margins": self._margins,
            "waiting": self._waiting,
            "given": self._given,
        }
        return {
            "arrays": {name: value.copy() for name, value in (arrays | own).items()},
            "plain": {
                "of": self._identity,
                "method": plain,
                "plan": self._plan and plan_header(self._plan),
                "plan_index": self._plan_index,
                "pass_index": self._pass_index,
                "visits": self._visits,
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` returned, of an object made in the same way.

        Raises:
            UserError: If the other one had another method, data size or seed.
        """
        arrays, plain = state["arrays"], state["plain"]
        if plain["of"] != self._identity:
            raise UserError(
                f"state_dict: it is of {shown(plain['of'])}, this is "
                f"{shown(self._identity)}; make the object as the saved one was made"
            )
        arrays = {name: np.array(value) for name, value in arrays.items()}
        self._state = put_together(self._state, "method", arrays, plain["method"])
        self._plan = plain["plan"] and plan_from("plan", arrays, plain["plan"])
        self._plan_index = plain["plan_index"]
        self._pass_index = plain["pass_index"]
        self._visits = plain["visits"]
        self._losses, self._margins = arrays["losses"], arrays["margins"]
        self._waiting, self._given = arrays["waiting"], arrays["given"]

    # inside

    @property
    def _identity(self) -> dict[str, Any]:
        return {
            **self.method.model_dump(mode="json"),
            "num_examples": self._n,
            "seed": self._seed,
            "batch_size": self._learner.batch_size,
        }

    def _check(self) -> None:
        """Refuse what no loop but the program's own can do."""
        method, kind = self.method, self.method.kind
        if method.auxiliary is not None:
            raise UserError(
                f"{kind}: trains a network of its own to choose by, which only dpet "
                "run can do; take a method that goes by losses"
            )
        if method.tunes or method.asks_joules:
            raise UserError(
                f"{kind}: its tuner goes by what the loop of dpet run measures; leave "
                "tuner at null"
            )
        if method.scores and self._learner.score_rows is None:
            raise UserError(
                f"{kind}: looks at examples before it chooses; give score_rows=, a "
                f"function that maps rows to {method.scores[0]}, by your model as it "
                "stands"
            )
        if len(method.scores) > 1:
            raise UserError(
                f"{kind}: asks for {', '.join(method.scores)}; in another loop it can "
                "have one score alone, so leave dissimilarity, diversity and herding "
                "away"
            )
        replay = getattr(method, "replay", None)
        balanced = replay is not None and replay.kind == "balanced"
        if self._labels is None and (balanced or method.asks_margins):
            raise UserError(f"{kind}: goes by labels as well; give labels=")

    def _next_plan(self) -> None:
        if self._plan is not None:
            self._state = self.method.observe(self._state, self._result(self._plan))
            self._plan = None  # what was told is not told again
        self._state, plan = self.method.plan(self._state, self._learner)
        if plan is None:
            raise StopIteration
        self._plan, self._pass_index = plan, 0
        self._plan_index += 1

    def _result(self, plan: Plan) -> TrainResult:
        rows = np.unique(plan.index_set)
        # nobody told what was predicted, and nothing that works here asks
        unknown = np.zeros(0)
        margins = self._margins[rows] if self.method.asks_margins else None
        return TrainResult(rows, self._losses[rows], unknown > 0, unknown, margins)

    def _margins_of(self, rows: np.ndarray, logits: Any) -> np.ndarray:
        if logits is None:
            raise UserError(
                f"observe: {self.method.kind} ranks by margins; give logits=, or "
                "leave by at loss"
            )
        logits = np.asarray(logits)
        if logits.ndim != 2 or len(logits) != rows.size:
            raise UserError(
                f"observe: logits of shape {logits.shape} for {rows.size} rows; give "
                "one row of logits for each"
            )
        assert self._labels is not None, "checked when it was made"
        return np.asarray(_label_margins()(logits, self._labels[rows]))


class InfoBatchPruner(DataPruner):
    """InfoBatch: easy examples are skipped by chance, and others count for them.

    Args:
        num_examples: n.
        passes: Of the whole training.
        seed: Decides every random draw.
        labels: Only for `coreset`.
        keys: Others of `method: {kind: infobatch}`, such as `prune_probability`.

    Raises:
        UserError: If a key is wrong.
    """

    def __init__(
        self,
        num_examples: int,
        passes: int,
        *,
        seed: int = 0,
        labels: Any = None,
        **keys: Any,
    ) -> None:
        method = _made(InfoBatch, {"passes": passes, **keys})
        super().__init__(method, num_examples, labels=labels, seed=seed)


class StaleLossPruner(DataPruner):
    """What was learnt is left out by its last loss, and the last part is on everything.

    This is `dpet_anneal`; the learning rate should decay once, over `planned_visits`.

    Args:
        num_examples: n.
        epochs: Budget: it gives out `epochs * n` examples in all.
        seed: Decides every random draw.
        batch_size: Of your loop: all passes but the last are whole batches.
        labels: For `coreset` and `by="margin"`.
        keys: Others of `method: {kind: dpet_anneal}`, such as `drop`.

    Raises:
        UserError: If a key is wrong.
    """

    def __init__(
        self,
        num_examples: int,
        epochs: int | float,
        *,
        seed: int = 0,
        batch_size: int = 1,
        labels: Any = None,
        **keys: Any,
    ) -> None:
        method = _made(DpetAnneal, {"epochs": epochs, **keys})
        super().__init__(
            method, num_examples, labels=labels, seed=seed, batch_size=batch_size
        )


class DpetPruner(DataPruner):
    """DPET as published: a warm-up on random thirds, then rounds that add the best.

    Args:
        num_examples: n.
        score_rows: Scores examples that no round has added yet; None by chance, with
            `score="random"`.
        seed: Decides every random draw.
        labels: For a balanced replay.
        keys: Others of `method: {kind: dpet}`, such as `query_size`.

    Raises:
        UserError: If a key is wrong.
    """

    def __init__(
        self,
        num_examples: int,
        score_rows: ScoreRows | None,
        *,
        seed: int = 0,
        labels: Any = None,
        **keys: Any,
    ) -> None:
        method = _made(Dpet, keys)
        super().__init__(
            method, num_examples, labels=labels, seed=seed, score_rows=score_rows
        )


class _YourLoop:
    """What a method may ask of a loop that is not ours: one score, and its largest."""

    def __init__(
        self, batch_size: int, num_examples: int, score_rows: ScoreRows | None
    ) -> None:
        self.batch_size = batch_size
        self._n = num_examples
        self.score_rows = score_rows

    def score(
        self, names: tuple[str, ...], index_set: np.ndarray, model: ModelHandle = MAIN
    ) -> dict[str, np.ndarray]:
        """Ask the function that was given."""
        del model
        assert self.score_rows is not None, "checked when the object was made"
        values = np.asarray(self.score_rows(index_set), np.float32)
        if values.shape != index_set.shape:
            raise UserError(
                f"score_rows: returned shape {values.shape} for {index_set.size} rows; "
                "return one number for each"
            )
        return {names[0]: values}

    def select(
        self,
        selector: str,
        index_set: np.ndarray,
        num_select: int,
        model: ModelHandle = MAIN,
        **options: Any,
    ) -> Selection:
        """Take the largest scores, as the program's own loop does."""
        if selector != "top_k" or len(options.get("scores", ())) > 1:
            raise UserError(f"{selector}: only dpet run can select so; take top_k")
        import jax.numpy as jnp  # the ranking is written for it

        from dpet_jax.selection.ranking import top_k

        values = options.get("values")
        if values is None:
            (values,) = self.score(options["scores"], index_set, model).values()
        # over all examples, so that every size of the pool is one program
        table = np.full(self._n, -np.inf, np.float32)
        table[index_set] = values
        try:
            best = np.asarray(top_k(jnp.asarray(table), num_select))
        except ValueError as error:
            raise UserError(f"score_rows: {error}; see to the model") from error
        return Selection(best, table[best])

    def fresh(self, seed: int) -> ModelHandle:
        """Refuse."""
        raise UserError(f"fresh: only dpet run can draw a network (seed {seed})")

    def train(self, plan: Plan, model: ModelHandle) -> TrainResult:
        """Refuse."""
        raise UserError(f"{plan.label}: only dpet run can train the network {model!r}")


@functools.cache
def _label_margins() -> Callable[[Any, np.ndarray], Any]:
    """Return the kernel for many examples; it brings JAX in, and compiles once."""
    import jax

    from dpet_jax.scores.error import label_margin

    return jax.jit(jax.vmap(label_margin))


def _made(kind: type[Method], keys: dict[str, Any]) -> Method:
    try:
        return kind(**keys)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "keys"
        raise UserError(
            f"{where}: {first['msg']} (got {shown(first['input'])})"
        ) from error


def _whole(name: str, value: int, least: int) -> int:
    if value < least:
        raise UserError(f"{name}: {value} is below {least}; give a larger number")
    return int(value)


def _labels(labels: Any, num_examples: int) -> np.ndarray:
    labels = np.asarray(labels)
    right = labels.shape == (num_examples,) and np.issubdtype(labels.dtype, np.integer)
    if not right or labels.min() < 0:
        raise UserError(
            f"labels: {labels.dtype} of shape {labels.shape}; give the class of each "
            f"of {num_examples:,} examples, whole numbers from 0"
        )
    return labels.astype(np.int32)
