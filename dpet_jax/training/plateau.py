"""What to do where validation accuracy has stopped rising: a smaller rate, or the end.

The looks at the model decide, and nothing else, so that a resumed run that has read how
they went goes on as it would have.
"""

from typing import Annotated, NamedTuple

from pydantic import Field

from dpet_jax.section import Fraction, Number, Section, Share


class PlateauConfig(Section):
    """Let the learning rate fall where accuracy stops rising, and end the run at last.

    With `falls: 0` this is early stopping. The last weights are kept, not the best.

    Source:
        Prechelt (1998), "Early Stopping - But When?"; the falls are those of PyTorch's
        ReduceLROnPlateau.
    """

    patience: Annotated[int, Field(ge=1, le=10_000), Number] = Field(
        3, description="looks at the model without a new best accuracy"
    )
    min_gain: Share = Field(0.0, description="by which a new best must be better")
    factor: Fraction = Field(0.1, description="of the learning rate, at each fall")
    falls: Annotated[int, Field(ge=0, le=100), Number] = Field(
        0, description="before a plateau ends the run; 0 ends it at the first"
    )

    def after(self, state: "Plateau", accuracy: float) -> "Plateau":
        """Return what is known after one more look.

        Args:
            state: What was known before it.
            accuracy: That the look found.
        """
        if accuracy > state.best + self.min_gain or state.looks == 0:
            return state._replace(best=accuracy, since=0, looks=state.looks + 1)
        since = state.since + 1
        reached = since >= self.patience
        return Plateau(
            state.best,
            0 if reached else since,
            state.looks + 1,
            state.reached + reached,
        )

    def rate(self, state: "Plateau") -> float:
        """Return what the learning rate is multiplied by."""
        return float(self.factor ** min(state.reached, self.falls))

    def over(self, state: "Plateau") -> bool:
        """Return whether the run has come to its end."""
        return state.reached > self.falls


class Plateau(NamedTuple):
    """How accuracy has gone on.

    Attributes:
        best: Highest so far.
        since: Looks since it, or since the last plateau was reached.
        looks: All of them.
        reached: Plateaus so far.
    """

    best: float = 0.0
    since: int = 0
    looks: int = 0
    reached: int = 0
