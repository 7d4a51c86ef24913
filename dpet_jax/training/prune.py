"""The main network of a learner made smaller on the device, and put back."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from dpet_jax.models.network import Network, network_from_json
from dpet_jax.models.pruning import Masks, cut, widths_of
from dpet_jax.training.learner import DeviceLearner
from dpet_jax.training.network import Compilation, DeviceNetwork
from dpet_jax.training.scoring import EVALUATION
from dpet_jax.training.transfer import get

#: Least steps of a timing, its least seconds, and how often two networks take turns.
_STEPS, _TIMED_S, _TURNS = 4, 0.2, 3
#: Batches that the first-order importance is a mean over.
_TAYLOR_BATCHES = 4


def fast_multiple() -> int:
    """Return what channels are best a multiple of on the device of this process."""
    return 16 if jax.default_backend() == "gpu" else 8


class Shears:
    """Cut channels out of a learner's main network while it is trained.

    Args:
        learner: Keeps the network; one that has trained nothing yet.
    """

    def __init__(self, learner: DeviceLearner) -> None:
        self._learner = learner
        self._original: Network = learner.main.model
        self._smaller: DeviceNetwork | None = None

    @property
    def multiple(self) -> int:
        """Of channels, which the device computes fast."""
        return fast_multiple()

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each group of the main network, as it is now."""
        return tuple(group.size for group in self._learner.main.model.channel_groups)

    def model(self) -> dict[str, Any]:
        """Return the main network, as it is now, as plain data."""
        return self._learner.main.model.to_json()

    def forward_flops(self, widths: tuple[int, ...]) -> int:
        """FLOPs of one example's forward pass with other widths."""
        model = self._original.with_channels(widths)
        return model.forward_flops(*self._learner.input_shape[:2])

    def parameter_bytes(self, widths: tuple[int, ...]) -> int:
        """Count the bytes of parameters and running statistics with other widths."""
        model = self._original.with_channels(widths)
        leaves = jax.tree.leaves(model.abstract())
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    @property
    def compile_s(self) -> float:
        """Seconds that compiling the main network's programs took."""
        return self._learner.main.compile_s

    def evaluation_flops(self, num_examples: int) -> int:
        """FLOPs of evaluating the main network on so many examples."""
        return self._learner.main.score_flops(num_examples, EVALUATION)

    # what is looked at

    def end_penalty(self) -> None:
        """Penalise the scales of the main network no longer."""
        self._learner.main.end_penalty()

    def scales(self) -> tuple[np.ndarray, ...]:
        """Return the scales of the main network, by group."""
        return self._learner.main.scales()

    def taylor(self, rows: np.ndarray) -> tuple[tuple[np.ndarray, ...], int]:
        """Return first-order importances, by group, and the FLOPs that they took.

        Args:
            rows: int32[n], the training split in an order of chance.
        """
        batch = self._learner.batch_size
        count = min(_TAYLOR_BATCHES, rows.size // batch)
        batches = rows[: count * batch].reshape(count, batch)
        network, side = self._learner.main.model, self._learner.input_shape[:2]
        each = network.forward_flops(*side) + network.backward_flops(*side)
        return self._learner.main.taylor(batches), batches.size * each

    # time

    def time_step(self) -> tuple[float, int]:
        """Return the seconds of a step of the main network, and the FLOPs of timing."""
        (seconds,), flops = self._time([self._learner.main], _STEPS, 1)
        return seconds, flops

    def compare_steps(self, step_s: float) -> tuple[float, float, int]:
        """Return the seconds of a step before and after the cut, and the FLOPs of both.

        Medians of several timings in turn, so that the noise of a shared machine meets
        both.

        Args:
            step_s: What `time_step` gave.
        """
        assert self._smaller is not None, "it was prepared"
        networks = [self._learner.main, self._smaller]
        steps = max(_STEPS, round(_TIMED_S / step_s))
        (before, after), flops = self._time(networks, steps, _TURNS)
        return before, after, flops

    def _time(
        self, networks: list[DeviceNetwork], steps: int, turns: int
    ) -> tuple[list[float], int]:
        steps = min(steps, self._learner.main.max_steps)
        took = [[one.time_steps(steps) for one in networks] for _ in range(turns)]
        flops = sum(one.train_flops for one in networks)
        count = turns * steps * self._learner.batch_size
        return np.median(took, axis=0).tolist(), count * flops

    # what is done

    def prepare(self, masks: Masks) -> Iterator[Compilation]:
        """Compile the network that masks leave; the main one stays as it is."""
        model = self._original.with_channels(widths_of(masks))
        self._smaller = self._learner.network(model)
        yield from self._smaller.compile()

    def cut(self, masks: Masks) -> None:
        """Make the prepared network the main one, with all that it has learnt.

        Parameters, statistics, the optimizer's moments: the values that stay are the
        same to the bit. The weights before are kept until `settle` or `put_back`.
        """
        main, smaller = self._learner.main, self._smaller
        assert smaller is not None, "it was prepared"
        before = main.weights()
        groups = main.model.channel_groups
        # on CPUs what is read may be the memory that training is about to overwrite
        read = jax.tree.map(np.array, get(before))
        smaller.take_over(main, cut(read, groups, masks))
        smaller.end_penalty()
        self._learner.main, self._learner.unpruned = smaller, before
        self._smaller = None

    def settle(self) -> None:
        """Drop the weights from before the cut."""
        self._learner.unpruned = None

    def put_back(self) -> Iterator[Compilation]:
        """Make the network from before the cut the main one, with its weights of then.

        What was trained since is lost to it, but not to the tables of losses.
        """
        weights = self._learner.unpruned
        assert weights is not None, "it was cut and not settled"
        network = self._learner.network(self._original)
        yield from network.compile()
        network.take_over(self._learner.main, weights)
        self._learner.main, self._learner.unpruned = network, None

    def reopen(self, model: dict[str, Any], *, on_trial: bool) -> None:
        """Take the shape of a checkpoint's network, before anything is compiled.

        Args:
            model: From `model`, when it was saved.
            on_trial: Whether the checkpoint holds the weights from before the cut.
        """
        learner = self._learner
        learner.main = learner.network(network_from_json(model))
        if on_trial:
            blank = learner.network(self._original)
            blank.redraw(blank.seed)
            learner.unpruned = blank.weights()
