"""What of earlier rounds a round trains on again, beside its new examples.

A kind says how many old examples a pass has, which alone decides what a round costs,
and which they are.
"""

from abc import abstractmethod
from typing import Literal

import numpy as np
from pydantic import Field

from dpet_jax.methods.base import Learner, Pool, TrainResult, generator
from dpet_jax.methods.query import RoundState
from dpet_jax.section import Kind, Positive, Share


class Replay(Kind):
    """Which old examples a round trains on.

    A replay of your own is a subclass with keys, `old_in_pass` and `old_rows`; a config
    names it by its import path.
    """

    anchor: Share = Field(
        0.0, description="share of each pass that chance draws from all other data"
    )

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of everything that choosing old examples asks the learner for."""
        return ()

    def start(self, pool: Pool) -> np.ndarray:
        """Return what it goes by for each example; an empty array if by nothing."""
        del pool
        return np.zeros(0, np.float32)

    def observe(self, known: np.ndarray, result: TrainResult) -> np.ndarray:
        """Return what it goes by after a plan was trained; by default it is the same.

        Args:
            known: As `start` or the last call returned it.
            result: What training taught.
        """
        del result
        return known

    @abstractmethod
    def old_in_pass(self, new: int, old: int, passes: int) -> int:
        """Count the old examples of a pass.

        Args:
            new: Examples that the round has added.
            old: Examples that the rounds before it have added.
            passes: Of the round.
        """

    @abstractmethod
    def old_rows(self, state: RoundState, passes: int, learner: Learner) -> np.ndarray:
        """Choose them: int32[m], or int32[passes, m] with a row for each pass.

        Args:
            state: With the new examples in it already.
            passes: Of the round.
            learner: Scores with the model as it stands before the round.
        """

    def pass_size(self, new: int, old: int, passes: int, num_examples: int) -> int:
        """Count all examples of a pass, anchors included; at most all there are."""
        chosen = new + self.old_in_pass(new, old, passes)
        return min(num_examples, round(chosen / (1 - self.anchor)))

    def rows(self, state: RoundState, passes: int, learner: Learner) -> np.ndarray:
        """Return a round's index set: new examples, old ones and anchors.

        Anchors are drawn anew for each pass, from what the pass does not hold yet: a
        sample without the bias of selection, against forgetting the rest.

        Returns:
            int32[m], or int32[passes, m] where the passes differ; ascending.
        """
        replayed = self.old_rows(state, passes, learner)
        if replayed.ndim == 1 and self.anchor == 0:
            return np.sort(np.concatenate([state.new, replayed])).astype(np.int32)
        replayed = np.broadcast_to(replayed, (passes, replayed.shape[-1]))
        n, new = state.num_examples, state.new
        size = self.pass_size(new.size, state.old.size, passes, n)
        rows = np.empty((passes, size), np.int32)
        for index, row in enumerate(rows):
            chosen = np.concatenate([new, replayed[index]])
            others = np.setdiff1d(np.arange(n, dtype=np.int32), chosen)
            draw = generator(state.seed, f"anchors of pass {index}", state.last_round)
            anchors = draw.permutation(others)[: size - chosen.size]
            row[:] = np.sort(np.concatenate([chosen, anchors]))
        return rows


class All(Replay):
    """All old examples in every pass, as DPET has it."""

    kind: Literal["all"] = "all"

    def old_in_pass(self, new: int, old: int, passes: int) -> int:
        """Return all."""
        del new, passes
        return old

    def old_rows(self, state: RoundState, passes: int, learner: Learner) -> np.ndarray:
        """Return all."""
        del passes, learner
        return state.old


class NewOnly(Replay):
    """No old examples: a round trains on what it has added alone."""

    kind: Literal["none"] = "none"

    def old_in_pass(self, new: int, old: int, passes: int) -> int:
        """Return 0."""
        del new, old, passes
        return 0

    def old_rows(self, state: RoundState, passes: int, learner: Learner) -> np.ndarray:
        """Return none."""
        del passes, learner
        return state.old[:0]


class Chunk(Replay):
    """A chunk of the old examples in each pass, the chunks in turn (Re-Play).

    There are min(floor(old / new), passes) chunks of the shuffled old examples, and
    pass e has chunk e mod that number. The last chunk is filled up from the first, so
    that all are of one size and no example is left out.

    Source:
        The code of the authors of DPET for its replay; it begins once half of the data
        are selected, this from the second round on.
    """

    kind: Literal["chunk"] = "chunk"

    def old_in_pass(self, new: int, old: int, passes: int) -> int:
        """Return the size of a chunk."""
        return -(-old // _chunks(new, old, passes))

    def old_rows(self, state: RoundState, passes: int, learner: Learner) -> np.ndarray:
        """Shuffle anew in each round."""
        del learner
        sizes = (state.new.size, state.old.size, passes)
        order = generator(state.seed, "replay", state.last_round).permutation(state.old)
        chunks = np.resize(order, (_chunks(*sizes), self.old_in_pass(*sizes)))
        return chunks[np.arange(passes) % len(chunks)]


def _chunks(new: int, old: int, passes: int) -> int:
    return max(1, min(old // new, passes))


class _Memory(Replay):
    """A memory of bounded size, the same in all passes of a round."""

    ratio: Positive = Field(1.0, description="size over that of the new examples")

    def old_in_pass(self, new: int, old: int, passes: int) -> int:
        """Return the size of the memory, at most all old examples."""
        del passes
        return min(round(self.ratio * new), old)

    def old_rows(self, state: RoundState, passes: int, learner: Learner) -> np.ndarray:
        """Fill the memory; nothing needs to be chosen where it holds all."""
        size = self.old_in_pass(state.new.size, state.old.size, passes)
        if size in (0, state.old.size):
            return state.old[:size]
        return self.chosen(state, size, learner)

    @abstractmethod
    def chosen(self, state: RoundState, size: int, learner: Learner) -> np.ndarray:
        """Choose so many of the old examples, at least 1 and not all."""


class Uniform(_Memory):
    """Old examples drawn at random, anew in each round."""

    kind: Literal["uniform"] = "uniform"

    def chosen(self, state: RoundState, size: int, learner: Learner) -> np.ndarray:
        """Draw without replacement."""
        del learner
        draw = generator(state.seed, "replay", state.last_round)
        return draw.permutation(state.old)[:size]


class Reservoir(_Memory):
    """A memory that goes on from round to round: a uniform sample of a stream.

    The t-th example, from 0, replaces the one in place j, drawn from 0 to t, if the
    memory has such a place. What is drawn depends on t alone, so the memory is found
    again from the order in which examples entered, and nothing needs saving.

    Source:
        Vitter (1985), "Random Sampling with a Reservoir", algorithm R.
    """

    kind: Literal["reservoir"] = "reservoir"

    def chosen(self, state: RoundState, size: int, learner: Learner) -> np.ndarray:
        """Run through the stream."""
        del learner
        turns = np.arange(state.old.size)
        drawn = generator(state.seed, "reservoir").random(turns.size)
        places = np.where(turns < size, turns, (drawn * (turns + 1)).astype(np.int64))
        memory = np.zeros(size, np.int32)
        for turn in np.flatnonzero(places < size):
            memory[places[turn]] = state.old[turn]
        return memory


class Balanced(_Memory):
    """A memory with equal shares of the classes, as far as they have examples.

    An example of a class that is not the largest in the full memory replaces a random
    one of the largest; within the largest, reservoir sampling goes on. As in
    `reservoir`, nothing needs saving but the labels.

    Source:
        Chrysakis & Moens (2020), "Online Continual Learning from Imbalanced Data",
        where a class that was the largest once counts as such for good.
    """

    kind: Literal["balanced"] = "balanced"

    def start(self, pool: Pool) -> np.ndarray:
        """Return the labels."""
        return np.asarray(pool.labels, np.int32)

    def chosen(self, state: RoundState, size: int, learner: Learner) -> np.ndarray:
        """Run through the stream."""
        del learner
        labels = state.known[state.old].tolist()
        members: list[list[int]] = [[] for _ in range(max(labels) + 1)]
        seen = [0] * len(members)
        drawn = generator(state.seed, "balanced").random(len(labels)).tolist()
        for turn, (row, label) in enumerate(
            zip(state.old.tolist(), labels, strict=True)
        ):
            own, largest = members[label], max(members, key=len)
            seen[label] += 1
            if turn < size:
                own.append(row)
            elif len(own) < len(largest):
                del largest[int(drawn[turn] * len(largest))]
                own.append(row)
            else:
                place = int(drawn[turn] * seen[label])
                if place < len(own):
                    own[place] = row
        return np.array([row for rows in members for row in rows], np.int32)


class Herding(_Memory):
    """Old examples that stay close to their class's mean of the features.

    In each round anew, by the model as it stands; looking at all old examples is paid
    for as selection. Classes have shares in proportion to their old examples.

    Source:
        Rebuffi et al. (2017), "iCaRL: Incremental Classifier and Representation
        Learning", algorithm 4.
    """

    kind: Literal["herding"] = "herding"

    @property
    def scores(self) -> tuple[str, ...]:
        """What the selector reads."""
        return ("logits", "features")

    def chosen(self, state: RoundState, size: int, learner: Learner) -> np.ndarray:
        """Ask the selector."""
        old = np.sort(state.old)
        return learner.select("herding", old, size, per_class=True).indices


class ByLoss(_Memory):
    """Old examples drawn with chances in proportion to their last training losses.

    Without replacement, in each round anew. Training gives the losses away.
    """

    kind: Literal["loss"] = "loss"

    def start(self, pool: Pool) -> np.ndarray:
        """Return losses that are not known yet; an old example has been trained on."""
        return np.full(pool.num_examples, np.nan, np.float32)

    def observe(self, known: np.ndarray, result: TrainResult) -> np.ndarray:
        """Keep the new losses of the examples that were trained on."""
        losses = known.copy()
        losses[result.index_set] = result.losses
        return losses

    def chosen(self, state: RoundState, size: int, learner: Learner) -> np.ndarray:
        """Take those with the first arrivals, whose rates are the losses.

        The next of several such arrivals is one's with the chance of its share of their
        losses. One without a loss never arrives and comes last, in random order.
        """
        del learner
        draw = generator(state.seed, "replay", state.last_round)
        old = draw.permutation(state.old)
        losses = state.known[old].astype(np.float64)
        waits = np.full(old.size, np.inf)
        np.divide(draw.exponential(size=old.size), losses, waits, where=losses > 0)
        return old[np.argsort(waits, kind="stable")[:size]]


#: What `method.replay.kind` may name without an import path; the first is the default.
REPLAYS: tuple[type[Replay], ...] = (
    *(All, NewOnly, Chunk, Uniform, Balanced, Herding, ByLoss, Reservoir),
)
