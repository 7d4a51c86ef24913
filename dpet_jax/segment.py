"""One process' share of a run: its recorder, its checkpoints, its compilations."""

from typing import Any

from dpet_jax.data import Data
from dpet_jax.energy import PhaseClock
from dpet_jax.learner import Compilation
from dpet_jax.machine import device_facts, versions
from dpet_jax.record import (
    CHECKPOINTS,
    CONFIG,
    EVENTS,
    Recorder,
    RunFolder,
    read_events,
    utc_now,
)
from dpet_jax.schema import Config
from dpet_jax.training.checkpoint import Checkpoints
from dpet_jax.training.programs import CompileCounts, compile_counts


class Segment:
    """What one process adds to a run, from its start or a resume to its end.

    Args:
        config: What is run; written into the folder.
        folder: The run folder, held by this process.

    Attributes:
        seconds: Phases of earlier segments, up to the checkpoint that is taken up.
    """

    def __init__(self, config: Config, folder: RunFolder) -> None:
        folder.write_text(CONFIG, config.to_yaml())
        self.folder = folder
        self.checkpoints = Checkpoints(folder.path / CHECKPOINTS)
        self.recorder = Recorder(folder.path / EVENTS)
        self.compilations: list[Compilation] = []
        self.counts_before = compile_counts()
        self.seconds: dict[str, float] = {}
        earlier = read_events(folder.path / EVENTS, superseded=True)
        if earlier:
            self._supersede(earlier)

    def _supersede(self, earlier: list[dict[str, Any]]) -> None:
        """Go on after earlier segments; what they did past the checkpoint is lost."""
        self.recorder.segment = earlier[-1]["segment"] + 1
        self.recorder.next_id = earlier[-1]["event_id"] + 1
        keys = ("time_s", "visits", "scored_examples")
        after, kept = -1, dict.fromkeys(keys, 0.0)
        if self.checkpoints.latest is not None:
            meta = self.checkpoints.read_meta()
            after, self.seconds = meta["last_event_id"], meta["seconds"]
            counters = meta["position"]["counters"]
            kept = {key: counters.get(key) for key in kept}
            kept["time_s"] = sum(self.seconds.values())
            saved = next((e for e in earlier if e["event_id"] == after + 1), None)
            if saved is not None and saved["event"] == "checkpoint":
                # the save itself ended after it had noted the time
                self.seconds["checkpoint"] += saved["time_s"] - kept["time_s"]
                after, kept["time_s"] = after + 1, saved["time_s"]
        # what an earlier resume has counted as lost already is not lost again
        current = read_events(self.recorder.path)
        done = [event for event in current if event["event_id"] > after]
        last = {
            key: max((event.get(key) or 0 for event in done), default=kept[key])
            for key in kept
        }
        lost = {key: max(0, last[key] - kept[key]) for key in kept}
        self.recorder.write(
            "lost",
            time_s=kept["time_s"],
            after_event_id=after,
            seconds=lost["time_s"],
            visits=lost["visits"],
            scored_examples=lost["scored_examples"],
            wh=None,
        )

    def start(self, config: Config, data: Data, clock: PhaseClock) -> None:
        """Record what this segment runs on."""
        self.recorder.write(
            "start",
            time_s=clock.total_s,
            when=utc_now(),
            name=config.name,
            seed=config.seed,
            dataset=data.name,
            fingerprint=data.fingerprint,
            train=data.num_train,
            validation=data.num_validation,
            test=data.num_test,
            noisy_labels=data.noisy_rows.size,
            versions=versions(),
            device=device_facts(),
        )

    def compiled(self, compilation: Compilation, clock: PhaseClock) -> None:
        """Record that a program is ready."""
        self.compilations.append(compilation)
        self.recorder.write("compile", time_s=clock.total_s, **compilation._asdict())

    def compile_summary(self) -> dict[str, Any]:
        """Return how often this segment's programs were compiled, and all others."""
        others: CompileCounts = compile_counts().since(self.counts_before)
        summary = {}
        for compilation in self.compilations:
            values = compilation._asdict()
            summary[values.pop("what")] = values
            others.programs -= compilation.programs
            others.cache_hits -= compilation.cache_hits
            others.seconds -= compilation.seconds
        summary["others"] = {
            "seconds": others.seconds,
            "programs": others.programs,
            "cache_hits": others.cache_hits,
        }
        return summary

    def lost(self) -> dict[str, Any]:
        """Add up what crashes made the run do again."""
        events = read_events(self.folder.path / EVENTS, superseded=True)
        lost = [event for event in events if event["event"] == "lost"]
        return {
            key: sum(event[key] for event in lost)
            for key in ("seconds", "visits", "scored_examples")
        }

    def close(self) -> None:
        """Release the files."""
        self.recorder.close()
        self.checkpoints.close()
