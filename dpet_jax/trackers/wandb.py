"""Follow a run in Weights & Biases, offline unless the config says otherwise."""

import uuid
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from dpet_jax.trackers.base import TrackedRun, Tracker, Writer, kept_id, measurements


class Wandb(Tracker):
    """Weights & Biases; `wandb sync` sends what was written offline."""

    kind: Literal["wandb"] = "wandb"
    project: str = Field("dpet", min_length=1, description="that the run belongs to")
    mode: Literal["offline", "online"] = Field(
        "offline", description="online sends everything at once, and needs a login"
    )

    needs: ClassVar[tuple[str, str] | None] = ("wandb", "wandb")

    def open(self, run: TrackedRun) -> Writer:
        """Begin a run of theirs, or another part of the one that ours began."""
        import wandb

        place = self.place(run)
        place.mkdir(parents=True, exist_ok=True)
        followed = wandb.init(
            project=self.project,
            name=run.title,
            id=kept_id(run, "wandb", lambda: uuid.uuid4().hex[:12]),
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
        return _Run(followed, run.step)


class _Run:
    def __init__(self, followed: Any, step: int) -> None:
        self._run = followed
        self._step = step

    def write(self, event: Mapping[str, Any]) -> None:
        self._step = event.get("visits", self._step)
        found = measurements(event)
        if found:
            self._run.log({**found, "visits": self._step})

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
