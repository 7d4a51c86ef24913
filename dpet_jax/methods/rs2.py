"""RS2: a fresh random subset in every pass."""

from dpet_jax.methods.base import Plan
from dpet_jax.methods.sampling import rs2_passes
from dpet_jax.methods.standard import OnePlan


def rs2(keep_fraction: float, passes: int, *, replacement: bool = False) -> OnePlan:
    """Train each pass on its own random subset of round(keep_fraction * n) examples.

    Args:
        keep_fraction: Share of the data in a pass, in (0, 1].
        passes: How many passes; a paper's "epochs of RS2" are these.
        replacement: Draw passes independently of one another.

    Source:
        Okanovic et al. (2024), "Repeated Random Sampling for Minimizing the
        Time-to-Accuracy of Learning".
    """

    def make_plan(num_examples: int, seed: int) -> Plan:
        subsets = rs2_passes(
            num_examples, keep_fraction, passes, seed, replacement=replacement
        )
        return Plan(subsets, label="rs2", passes=passes)

    return OnePlan(make_plan)
