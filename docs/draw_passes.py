"""Draw passes.svg: what share of the data each method visits, pass by pass.

The methods are the real ones, asked for their plans; training is not: an example's loss
falls with its visits, faster where it is easy. So the figure shows what a method does
and nothing of what it is worth.

    python docs/draw_passes.py
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from dpet_jax.methods.base import (
    FRESH,
    MAIN,
    Method,
    Plan,
    Pool,
    Selection,
    TrainResult,
)
from dpet_jax.methods.dpet import Dpet
from dpet_jax.methods.dpet_anneal import DpetAnneal
from dpet_jax.methods.dynamic import InfoBatch
from dpet_jax.methods.one_shot import OneShot
from dpet_jax.methods.rs2 import Rs2
from dpet_jax.methods.standard import Standard

FILE = Path(__file__).parent / "passes.svg"
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "dpet-jax",  # the same bytes every time
}
NUM_EXAMPLES, NUM_CLASSES = 2000, 10
EPOCHS = 12
METHODS: dict[str, Method] = {
    "standard": Standard(passes=EPOCHS),
    "rs2": Rs2(keep_fraction=0.3, passes=40),
    "dpet (as published)": Dpet(
        warmup_passes=12, query_size=100, passes_per_round=5, max_rounds=8
    ),
    "dpet_anneal": DpetAnneal(epochs=float(EPOCHS)),
    "infobatch": InfoBatch(passes=16),
    "one_shot, keep 30 %": OneShot(by="el2n", pretrain_passes=4, passes=27),
}


class Simulated:
    """A learner whose losses fall with visits, as fast as each example is easy.

    Attributes:
        visits: Of each example.
        passes: Start and size of every pass, in shares of the data.
    """

    batch_size = 64

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.pace = draw.exponential(0.5, NUM_EXAMPLES) + 0.02
        self.visits = np.zeros(NUM_EXAMPLES)
        self.passes: list[tuple[float, float]] = []

    @property
    def losses(self) -> np.ndarray:
        """The present loss of each example."""
        return 2.3 * np.exp(-self.pace * self.visits).astype(np.float32)

    def score(self, names: Any, index_set: np.ndarray, model: str = MAIN) -> Any:
        """Give the losses for every score."""
        del model
        return {name: self.losses[index_set] for name in names}

    def select(
        self,
        selector: str,
        index_set: np.ndarray,
        num_select: int,
        model: str = MAIN,
        **options: Any,
    ) -> Selection:
        """Take the highest losses, or values that are given."""
        del selector, model
        values = options.get("values")
        values = self.losses[index_set] if values is None else values
        best = np.argsort(-values, kind="stable")[:num_select]
        return Selection(index_set[best], values[best].astype(np.float32))

    def fresh(self, seed: int) -> str:
        """Draw nothing."""
        del seed
        return FRESH

    def train(self, plan: Plan, model: str = MAIN) -> TrainResult:
        """Run through a plan, and keep how long its passes are."""
        del model
        sets = np.broadcast_to(plan.index_set, (plan.passes, plan.size))
        for rows in sets:
            start = sum(size for _, size in self.passes)
            self.passes.append((start, rows.size / NUM_EXAMPLES))
            self.visits[rows] += 1
        rows = np.unique(sets)
        losses = self.losses[rows]
        correct = losses < np.log(2)
        nothing = np.zeros(rows.size, np.float32)
        return TrainResult(rows, losses, correct, nothing, nothing)


def passes_of(method: Method) -> list[tuple[float, float]]:
    """Return start and size of every pass of a method, in shares of the data."""
    labels = np.arange(NUM_EXAMPLES, dtype=np.int32) % NUM_CLASSES
    state = method.start(Pool(NUM_EXAMPLES, labels, NUM_CLASSES), 0)
    learner = Simulated()
    while True:
        state, plan = method.plan(state, learner)
        if plan is None:
            return learner.passes
        state = method.observe(state, learner.train(plan))


def draw() -> Figure:
    """Draw a panel for each method."""
    figure = Figure(figsize=(6.8, 3.4), layout="constrained")
    for number, (name, method) in enumerate(METHODS.items()):
        axes = figure.add_subplot(2, 3, number + 1)
        starts, sizes = np.array(passes_of(method)).T
        look = {"color": "#0072b2", "edgecolor": "w", "linewidth": 0.4}
        axes.bar(starts, 100 * sizes, sizes, align="edge", **look)
        axes.set(title=name, xlim=(0, 13), ylim=(0, 105))
        if number >= 3:
            axes.set_xlabel("training visits, in epochs")
        if number % 3 == 0:
            axes.set_ylabel("% of the data in a pass")
    return figure


if __name__ == "__main__":
    with rc_context(STYLE):
        draw().savefig(FILE, metadata={"Date": None})
