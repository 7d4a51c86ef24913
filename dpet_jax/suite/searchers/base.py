"""What every search is: which setting comes next, and how far its run goes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from pydantic import Field

from dpet_jax.section import Kind
from dpet_jax.suite.searchers.axis import Axis

#: Of Adam, which the study of `compat: study` drew and did not set.
_UNSET = ("b2", "beta2")


class Observed(NamedTuple):
    """A setting that was tried.

    Attributes:
        values: By key, as optuna holds them.
        accuracy: On validation; None where it diverged or is still running.
        cost: What it took; None while it is running.
    """

    values: dict[str, Any]
    accuracy: float | None
    cost: float | None


class Bracket(NamedTuple):
    """Trials that are judged at common stops, of which only the best go on.

    Attributes:
        first: Number of its first trial.
        sizes: How many trials reach each stop.
        shares: Where the stops are, as shares of a whole run; the last is 1.
    """

    first: int
    sizes: tuple[int, ...]
    shares: tuple[float, ...]

    @property
    def cost(self) -> float:
        """Whole runs that it takes; a trial that goes on costs its new part only."""
        before = (0.0, *self.shares)
        steps = zip(self.sizes, self.shares, before, strict=False)
        return sum(size * (share - past) for size, share, past in steps)


class Search(Kind):
    """How the next setting is chosen."""

    @property
    def name(self) -> str:
        """What it is called in folders and tables: its kind, and what is not as usual.

        Keys that are at their defaults are left out.
        """
        return _named(self.kind, self.unusual)

    @property
    def unusual(self) -> dict[str, Any]:
        """The keys that are not at their defaults."""
        said = self.model_dump(mode="json", exclude_defaults=True)
        return {key: value for key, value in said.items() if key != "kind"}

    def space(self, axes: Sequence[Axis]) -> tuple[Axis, ...]:
        """Return the axes as this search draws from them.

        Raises:
            UserError: If it cannot.
        """
        return tuple(axes)

    def applied(self, values: dict[str, str]) -> dict[str, str]:
        """Return of the drawn values those that the config gets."""
        return values

    def points(self, axes: Sequence[Axis]) -> int | None:
        """Count the settings that there are to try; None if they never run out."""
        del axes
        return None

    @property
    def round_size(self) -> int | None:
        """How many trials make a whole, where nothing else says when to stop."""
        return None

    def bracket(self, number: int) -> Bracket:
        """Return the bracket of a trial; by default it stands alone and runs whole."""
        return Bracket(number, (1,), (1.0,))

    def sampler(self, seed: int) -> Any:
        """Return optuna's sampler of the settings that `point` does not give."""
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)

    def point(
        self, axes: Sequence[Axis], past: Sequence[Observed], seed: int
    ) -> dict[str, Any] | None:
        """Return the next setting, by key; None leaves it to the sampler.

        Args:
            axes: As `space` returned them.
            past: What was tried, the first first.
            seed: Of the search.
        """
        del axes, past, seed
        return None


def _named(name: str, keys: dict[str, Any]) -> str:
    said = (key if value is True else f"{key}={value}" for key, value in keys.items())
    return "_".join([name, *said])


class StudiedSearch(Search):
    """A search that can be made to repeat that of the energy-practices study.

    Source:
        Yarally et al., "Uncovering energy-efficient practices in deep learning
        training" (CAIN 2023), and its replication package.
    """

    compat: Literal["none", "study"] = Field(
        "none",
        description="study: as the CAIN'23 study searched; rates are drawn from a "
        "linear range, and an axis for the optimizer's b2 changes nothing (its code "
        "drew one and built Adam with the default)",
    )

    @property
    def name(self) -> str:
        """As of any search; of one that repeats the study, `study` and what it is."""
        keys = self.unusual
        if keys.pop("compat", None) is None:
            return super().name
        return _named(f"study_{self.kind}", keys)

    def space(self, axes: Sequence[Axis]) -> tuple[Axis, ...]:
        """Return the axes, linear ones in `compat: study`."""
        if self.compat == "none":
            return tuple(axes)
        return tuple(replace(axis, log=False) for axis in axes)

    def applied(self, values: dict[str, str]) -> dict[str, str]:
        """Leave b2 out in `compat: study`."""
        if self.compat == "none":
            return values
        return {k: v for k, v in values.items() if k.rpartition(".")[2] not in _UNSET}
