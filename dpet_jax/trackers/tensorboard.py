"""Follow a run in TensorBoard; its event files are written by tensorboardX."""

import json
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from dpet_jax.trackers.base import TrackedRun, Tracker, Writer, measurements

# A run that is watched shows its last number after so long.
_FLUSH_S = 5


class Tensorboard(Tracker):
    """TensorBoard event files, one folder for each run; `tensorboard --logdir runs`."""

    kind: Literal["tensorboard"] = "tensorboard"

    needs: ClassVar[tuple[str, str] | None] = ("tensorboardX", "tensorboard")

    def open(self, run: TrackedRun) -> Writer:
        """Begin a file; what a crash made the run do again hides what it did before."""
        from tensorboardX import SummaryWriter

        place = self.place(run)
        place = place if self.folder is None else place / run.title
        files = SummaryWriter(
            logdir=str(place),
            purge_step=run.step + 1,
            flush_secs=_FLUSH_S,
            # their names hold the second, in which a run may be left and go on
            filename_suffix=f".{uuid.uuid4().hex[:8]}",
        )
        if not run.resumed:
            text = json.dumps(run.config, indent=2)
            files.add_text("config", f"```\n{text}\n```")
        return _Files(files, run.step)


class _Files:
    def __init__(self, files: Any, step: int) -> None:
        self._files = files
        self._step = step

    def write(self, event: Mapping[str, Any]) -> None:
        self._step = event.get("visits", self._step)
        for name, value in measurements(event).items():
            self._files.add_scalar(name, value, self._step)

    def close(self, *, finished: bool) -> None:
        del finished
        self._files.close()
