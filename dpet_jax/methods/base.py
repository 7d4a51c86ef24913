"""The contracts between a method, the learner it asks and the loop that trains.

A method only decides. It never trains, evaluates, stops or saves, and it never imports
JAX: it moves positions in the training split, as numpy arrays.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from dpet_jax.section import Kind

#: A NamedTuple of plain arrays and numbers, all of which a checkpoint saves.
MethodState: TypeAlias = Any

#: Names a network that a learner keeps.
ModelHandle: TypeAlias = str
#: The network that the run is about; the loop alone trains it.
MAIN: ModelHandle = "main"
#: The narrow network that scores for it, where one is configured.
PROXY: ModelHandle = "proxy"
#: The network that `Learner.fresh` draws, for methods that train one to choose by.
FRESH: ModelHandle = "fresh"


class Pool(NamedTuple):
    """The training split as a method sees it.

    Attributes:
        num_examples: n.
        labels: int32[n], each in [0, num_classes).
        num_classes: k.
        source_rows: int[n], where each example stands in the data as they were read;
            None if nobody knows.
        dataset: Name of the data set.
        fingerprint: Of its images and labels; "" if nobody knows.
    """

    num_examples: int
    labels: np.ndarray
    num_classes: int
    source_rows: np.ndarray | None = None
    dataset: str = ""
    fingerprint: str = ""


class Auxiliary(NamedTuple):
    """A network beside the main one, which a method has trained to choose by.

    Attributes:
        handle: `PROXY` follows the main model's plans and scores in its place; `FRESH`
            is trained on plans of the method's own.
        width_multiplier: Its width over that of the main model, in (0, 1].
    """

    handle: ModelHandle
    width_multiplier: float = 1.0


class Span(NamedTuple):
    """Where a plan lies on the learning-rate schedule, in visits.

    Attributes:
        start: Visits of the schedule that lie before the plan.
        horizon: Visits over which the schedule runs from its beginning to its end.
        cyclic: Let a cosine climb again past the horizon.
    """

    start: int
    horizon: int
    cyclic: bool = False


@dataclass(frozen=True)
class Plan:
    """What to train on next.

    Attributes:
        index_set: int32[m] of positions in the training split, or int32[passes, m] with
            one row for each pass.
        label: What people see and what is metered: "warm-up", "round 3".
        passes: How often to run over the index set.
        weights: float32[m] loss weights of a one-row index set, or None for equal ones;
            they multiply the loss as they are, so weights of mean 1 leave the step's
            size alone.
        schedule: Its place on the schedule; None leaves that to `train.schedule`.
        learning_rate: Peak of its schedule; None is the optimizer's.
        learning_rate_factor: Multiplies that peak.
        reset: What starts anew before the first step.
        facts: Numbers that explain the choice, for the record.
        stretch: Its place in a warm-up or a round that is given in pieces, over which a
            schedule that restarts with each plan runs; None where it is whole.
    """

    index_set: np.ndarray
    label: str
    passes: int = 1
    weights: np.ndarray | None = None
    schedule: Span | None = None
    learning_rate: float | None = None
    learning_rate_factor: float = 1.0
    reset: Literal["none", "optimizer", "all"] = "none"
    facts: dict[str, Any] = field(default_factory=dict)
    stretch: Span | None = None

    def __post_init__(self) -> None:
        """Refuse a plan that cannot be trained on."""
        rows = self.index_set.shape[0] if self.index_set.ndim == 2 else self.passes
        if self.index_set.size == 0 or self.passes < 1 or rows != self.passes:
            raise ValueError(
                f"plan {self.label!r}: {self.passes} passes over an index set of shape "
                f"{self.index_set.shape}"
            )

    @property
    def size(self) -> int:
        """Examples in a pass, m."""
        return int(self.index_set.shape[-1])

    @property
    def visits(self) -> int:
        """Examples trained on in all passes together."""
        return self.size * self.passes


class Selection(NamedTuple):
    """What a selector picked, most informative first.

    Attributes:
        indices: int32[m] of positions in the training split.
        gains: float32[m], the score or marginal gain at which each entered.
        weights: float32[m] loss weights, or None for equal ones.
    """

    indices: np.ndarray
    gains: np.ndarray
    weights: np.ndarray | None = None


def takes_examples(function: Any) -> bool:
    """Return whether a function is a selector of the user's own, by its arguments.

    It takes (examples, num_select), and calls the first one so, as a score does not.
    """
    if not callable(function) or inspect.isclass(function):
        return False
    try:
        signature = inspect.signature(function)
        signature.bind(None, None)
    except (TypeError, ValueError):  # takes other arguments, or nobody knows which
        return False
    return next(iter(signature.parameters)) == "examples"


class Coreset(NamedTuple):
    """The examples that a method chose, in the order in which they entered.

    Attributes:
        indices: int32[m] of positions in the training split.
        round_index: int32[m], the round in which each entered.
        scores: float32[m], the score at which each entered; NaN where chance chose.
        columns: More that the method knows of each example, arrays by name.
        by_product: Whether training on all data left it: the run itself pruned nothing.
    """

    indices: np.ndarray
    round_index: np.ndarray
    scores: np.ndarray
    columns: Mapping[str, np.ndarray] = MappingProxyType({})
    by_product: bool = False

    @classmethod
    def empty(cls) -> "Coreset":
        """Return a coreset without examples."""
        return cls(
            np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32)
        )

    def extended(self, round_index: int, chosen: Selection) -> "Coreset":
        """Return the coreset after a round has added a selection."""
        entered = np.full(chosen.indices.size, round_index, np.int32)
        return Coreset(
            np.concatenate([self.indices, chosen.indices]).astype(np.int32),
            np.concatenate([self.round_index, entered]).astype(np.int32),
            np.concatenate([self.scores, chosen.gains]).astype(np.float32),
        )


class Cost(NamedTuple):
    """What choosing and training have cost.

    Attributes:
        epochs: Full-pass equivalents.
        seconds: Of the phases `select`, `tuner` and `train`.
        joules: Of these, gross; None where nobody measures them.
    """

    epochs: int | float
    seconds: int | float
    joules: int | float | None

    def since(self, before: "Cost") -> "Cost":
        """Return what was added after an earlier sum."""
        known = self.joules is not None and before.joules is not None
        return Cost(
            self.epochs - before.epochs,
            self.seconds - before.seconds,
            self.joules - before.joules if known else None,  # type: ignore[operator]
        )


class TrainResult(NamedTuple):
    """What training a plan taught about its examples.

    Attributes:
        index_set: int32[m], the distinct positions trained on, ascending.
        losses: float32[m], the last training loss of each.
        correct: bool[m], whether the last training prediction of each was right.
        forgetting: float32[m], how often each was forgotten since its network was
            drawn; infinite if it was never predicted right.
        margins: float32[m], 1 - (p of the label - the largest other p) at the last
            training visit of each, in [0, 2]; None unless the method asks for it.
        cost: What choosing the plan and training on it cost; None unless the loop
            trained on it.
    """

    index_set: np.ndarray
    losses: np.ndarray
    correct: np.ndarray
    forgetting: np.ndarray
    margins: np.ndarray | None = None
    cost: Cost | None = None


@runtime_checkable
class Learner(Protocol):
    """What a method may ask of the accelerator."""

    @property
    def batch_size(self) -> int:
        """Rows of a training step."""
        ...

    def score(
        self, names: tuple[str, ...], index_set: np.ndarray, model: ModelHandle = MAIN
    ) -> dict[str, np.ndarray]:
        """Score examples without augmentation, all names from one forward pass."""
        ...

    def select(
        self,
        selector: str,
        index_set: np.ndarray,
        num_select: int,
        model: ModelHandle = MAIN,
        **options: Any,
    ) -> Selection:
        """Run a selector over candidates and return `num_select` of them."""
        ...

    def fresh(self, seed: int) -> ModelHandle:
        """Draw a network other than `MAIN` anew; the one drawn before is gone.

        The seed decides its parameters, its augmentation and its batches.
        """
        ...

    def train(self, plan: Plan, model: ModelHandle) -> TrainResult:
        """Train a model other than `MAIN` on a whole plan; its cost is selection's.

        The batches and the randomness are those that the loop would use for the model's
        next plan.
        """
        ...


class Method(Kind, ABC):
    """How examples are chosen: keys of a config, their checks, and the algorithm.

    Fields are the keys under `method`. Only `planned_visits`, `start` and `plan` have
    to be written.
    """

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of every score the method asks for."""
        return ()

    @property
    def asks_margins(self) -> bool:
        """Whether training is to give `TrainResult.margins` away too."""
        return False

    @property
    def auxiliary(self) -> Auxiliary | None:
        """The network beside the main one that it needs; None for most methods."""
        return None

    @property
    def proxied(self) -> bool:
        """Whether an auxiliary network scores in place of the main one."""
        return self.auxiliary is not None and self.auxiliary.handle == PROXY

    @property
    def paced(self) -> bool:
        """Whether its plans say themselves where on the schedule they lie."""
        return False

    @property
    def tunes(self) -> bool:
        """Whether it sets keys of its own as it goes, metered as the phase `tuner`."""
        return False

    @property
    def ends_early(self) -> bool:
        """Whether it may train on less than `planned_visits`."""
        return False

    @property
    def asks_joules(self) -> bool:
        """Whether it goes by `Cost.joules`."""
        return False

    @abstractmethod
    def planned_visits(self, pool: Pool) -> int:
        """Count the visits of all plans together, if nothing stops the run earlier.

        Where the method ends plans early, or chooses their sizes, the most that there
        may be.
        """

    @abstractmethod
    def start(self, pool: Pool, seed: int) -> MethodState:
        """Return the state before the first plan.

        Raises:
            UserError: If the method cannot run on this pool.
        """

    @abstractmethod
    def plan(
        self, state: MethodState, learner: Learner
    ) -> tuple[MethodState, Plan | None]:
        """Score, select and return what to train on next; None when finished."""

    def tune(self, state: MethodState, learner: Learner) -> MethodState:
        """Return the state with what it sets before a plan; by default it is the same.

        It is called before every `plan` of a method that `tunes`.
        """
        del learner
        return state

    def lasting(self, visits: int, num_examples: int) -> "Method | None":
        """Return the same method over another number of visits, from any state of it.

        Args:
            visits: Of all its plans together.
            num_examples: n.

        Returns:
            None, as by default, where its plans do not follow such a number.
        """
        del visits, num_examples
        return None

    def observe(self, state: MethodState, result: TrainResult) -> MethodState:
        """Return the state after a plan was trained; by default it is the same."""
        del result
        return state

    def coreset(self, state: MethodState) -> Coreset | None:
        """Return the examples chosen so far; None for a method that chooses none."""
        del state
        return None


def span_of(
    plan: Plan,
    horizon: Literal["plan", "method"] | int | float,
    visits: int,
    method: Method,
    pool: Pool,
) -> Span:
    """Return where a plan lies on the schedule.

    Args:
        plan: The plan; it may say so itself.
        horizon: How long a schedule runs: over each plan, over all that the method
            plans, or over so many epochs.
        visits: Of the run before the plan.
        method: Of the run.
        pool: Likewise.
    """
    if plan.schedule is not None:
        return plan.schedule
    if horizon == "plan":
        return plan.stretch or Span(0, plan.visits)
    if horizon == "method":
        return Span(visits, method.planned_visits(pool))
    return Span(visits, round(horizon * pool.num_examples))


def generator(seed: int, stream: str, index: int = 0) -> np.random.Generator:
    """Make the random generator of one decision, on demand.

    Nothing hidden needs saving: seed, stream and index give the same numbers again.

    Args:
        seed: The run's seed.
        stream: What is decided; streams are independent of one another.
        index: Which time it is decided, such as the round.
    """
    return np.random.default_rng([seed, *stream.encode(), index])


def order_of_pass(
    plan: Plan, pass_index: int, seed: int, plan_index: int
) -> np.ndarray:
    """Shuffle one pass of a plan, as the loop trains on it: int32[m].

    Args:
        plan: What is trained on.
        pass_index: Which of its passes, from 0.
        seed: The run's seed.
        plan_index: Position of the plan in the run.
    """
    rows = plan.index_set
    rows = rows[pass_index] if rows.ndim == 2 else rows
    draw = generator(seed, f"order of pass {pass_index}", plan_index)
    return draw.permutation(rows).astype(np.int32)
