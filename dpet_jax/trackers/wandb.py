"""Follow a run in Weights & Biases, offline unless the config says otherwise."""

import shutil
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from dpet_jax.trackers.base import (
    Once,
    TrackedRun,
    Tracker,
    Writer,
    kept_id,
    measurements,
)


class Wandb(Tracker):
    """Weights & Biases; `wandb sync` sends what was written offline."""

    kind: Literal["wandb"] = "wandb"
    project: str = Field("dpet", min_length=1, description="that the run belongs to")
    mode: Literal["offline", "online"] = Field(
        "offline", description="online sends everything at once, and needs a login"
    )

    needs: ClassVar[tuple[str, str] | None] = ("wandb", "wandb")

    def open(self, run: TrackedRun) -> Writer:
        """Begin a run of theirs, or go on with the one that ours began.

        What was written offline is written anew, from the run's own events: of a
        process that was killed it may lack the last seconds.
        """
        import wandb

        place = self.place(run)
        place.mkdir(parents=True, exist_ok=True)
        name = kept_id(run, "wandb", lambda: uuid.uuid4().hex[:12])
        earlier = [*place.glob(f"wandb/offline-run-*-{name}")]
        followed = wandb.init(
            project=self.project,
            name=run.title,
            id=name,
            dir=place,
            config=run.config,
            mode=self.mode,
            resume="allow",
            reinit="create_new",  # runs of a suite follow one another in one process
            # the terminal is ours, and only events go there: watching the machine
            # would cost energy that the run is billed for
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
            ),
        )
        # a step of theirs comes once, while several of our events share their visits
        followed.define_metric("visits")
        followed.define_metric("*", step_metric="visits")
        if self.mode == "online":  # the server tells what it holds
            last = followed.starting_step - 1
            return _Run(followed, run.step, last, Once(run, last))
        writer = _Run(followed, 0, -1, Once(run, -1))
        for event in run.kept:
            writer.write(event)
        for folder in earlier:
            shutil.rmtree(folder)
        return writer


class _Run:
    def __init__(self, followed: Any, visits: int, last: int, once: Once) -> None:
        self._run = followed
        self._visits = visits
        self._last = last
        self._once = once

    def write(self, event: Mapping[str, Any]) -> None:
        self._visits = event.get("visits", self._visits)
        found = measurements(event)
        if not found or self._once.had(event):
            return
        # their steps have to rise over all parts of a run, as the numbers of our
        # events do; the end of a run has none, and comes after all of them
        self._last = event.get("event_id", self._last + 1)
        self._run.log({**found, "visits": self._visits}, step=self._last, commit=True)

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
