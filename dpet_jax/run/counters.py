"""What a run has done so far, counted."""

from dataclasses import dataclass
from typing import Any


@dataclass
class Counters:
    """What a run has done so far; evaluation is left out.

    Attributes:
        full_pass_flops: FLOPs of training on every training example once.
        visits: Real rows trained on.
        executed_visits: The same with fill rows.
        scored_examples: Examples scored for selection.
        flops: Analytic FLOPs of training and scoring, fill rows included.
        grid_point: Next point of the evaluation grid, in units of its spacing.
    """

    full_pass_flops: int
    visits: int = 0
    executed_visits: int = 0
    scored_examples: int = 0
    flops: int = 0
    grid_point: int = 1

    @property
    def epochs(self) -> float:
        """Full-pass equivalents: FLOPs over those of one full training pass."""
        return self.flops / self.full_pass_flops

    @property
    def fill_share(self) -> float:
        """Fill rows over real rows: by how much training was billed too high."""
        return self.executed_visits / self.visits - 1 if self.visits else 0.0

    def shown(self) -> dict[str, Any]:
        """Return the counters as events carry them."""
        return {
            "visits": self.visits,
            "executed_visits": self.executed_visits,
            "scored_examples": self.scored_examples,
            "flops": self.flops,
            "epochs": self.epochs,
        }
