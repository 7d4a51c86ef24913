"""From a plan to the rows of each step: shuffled passes, filled-up last batches."""

import numpy as np

from dpet_jax.methods.base import Plan, generator


class Batches:
    """The steps of one plan, any stretch of them at a time.

    Every pass is shuffled by its own generator, so that a run taken up in the middle of
    a plan sees the same rows. A pass whose size is no multiple of the batch size ends
    with a batch that is filled up by wrapping around to the pass's own beginning.

    Args:
        plan: What to train on.
        batch_size: Rows of a step.
        seed: The run's seed.
        plan_index: Position of the plan in the run.
    """

    def __init__(self, plan: Plan, batch_size: int, seed: int, plan_index: int) -> None:
        self.plan = plan
        self.batch_size = batch_size
        self.seed = seed
        self.plan_index = plan_index
        self.steps_per_pass = -(-plan.size // batch_size)
        self.num_steps = self.steps_per_pass * plan.passes
        self._pass: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int32))

    def rows(self, first_step: int, num_steps: int) -> np.ndarray:
        """Return int32[num_steps * batch size], fill rows as their complement ~row."""
        steps = range(first_step, first_step + num_steps)
        pieces = []
        for step in steps:
            pass_index, within = divmod(step, self.steps_per_pass)
            start = within * self.batch_size
            pieces.append(self._coded(pass_index)[start : start + self.batch_size])
        return np.concatenate(pieces)

    def visits_before(self, step: int) -> int:
        """Count the real rows of the steps before one."""
        pass_index, within = divmod(step, self.steps_per_pass)
        return pass_index * self.plan.size + min(
            within * self.batch_size, self.plan.size
        )

    def _coded(self, pass_index: int) -> np.ndarray:
        if self._pass[0] != pass_index:
            rows = self.plan.index_set
            rows = rows[pass_index] if rows.ndim == 2 else rows
            stream = f"order of pass {pass_index}"
            shuffled = generator(self.seed, stream, self.plan_index).permutation(rows)
            missing = self.steps_per_pass * self.batch_size - shuffled.size
            fill = ~np.resize(shuffled, missing)
            coded = np.concatenate([shuffled, fill]).astype(np.int32)
            self._pass = (pass_index, coded)
        return self._pass[1]
