"""What training said about every example in the course of a run, kept for nothing."""

from typing import NamedTuple

import numpy as np

from dpet_jax.methods.base import TrainResult


class LossHistory(NamedTuple):
    """Sums over looks at the tables that the training step fills anyway.

    The loop looks whenever it evaluates, which is when nothing runs on the device. An
    example that was not visited since the last look counts with what it had then.

    Attributes:
        looks: int32[n], looks at which the example had been trained on.
        loss_sum: float64[n], of its last training losses at these.
        margin_sum: float64[n], of its last `TrainResult.margins` at these; empty where
            the method does not ask for them.
    """

    looks: np.ndarray
    loss_sum: np.ndarray
    margin_sum: np.ndarray

    @classmethod
    def begin(cls, num_examples: int, *, margins: bool) -> "LossHistory":
        """Return the history before the first look."""
        return cls(
            np.zeros(num_examples, np.int32),
            np.zeros(num_examples, np.float64),
            np.zeros(num_examples if margins else 0, np.float64),
        )

    def after(self, result: TrainResult) -> "LossHistory":
        """Return the history after a look at all examples.

        Args:
            result: Of all of them; losses that are not finite are unknown.
        """
        known = np.isfinite(result.losses)
        margins = self.margin_sum
        if result.margins is not None:
            margins = margins + np.where(known, result.margins, 0.0)
        return LossHistory(
            self.looks + known.astype(np.int32),
            self.loss_sum + np.where(known, result.losses, 0.0),
            margins,
        )

    def means(self) -> dict[str, np.ndarray]:
        """Return mean losses, and margins if known; NaN where nobody looked."""
        looks = np.where(self.looks > 0, self.looks, np.nan)
        means = {"mean_loss": (self.loss_sum / looks).astype(np.float32)}
        if self.margin_sum.size:
            means["mean_margin"] = (self.margin_sum / looks).astype(np.float32)
        return means
