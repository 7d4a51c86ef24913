"""One process' share of a run: its recorder, its checkpoints, its compilations."""

from contextlib import ExitStack, closing
from typing import Any

from dpet_jax.config.experiment import Config
from dpet_jax.data import Data
from dpet_jax.data.dataset import content_hash
from dpet_jax.energy import EnergyMeter
from dpet_jax.energy.accounts import journal
from dpet_jax.energy.accounts.state import Accounts, utc_now
from dpet_jax.errors import DamagedFileError, UserError
from dpet_jax.run.folder import (
    CHECKPOINTS,
    CONFIG,
    ENERGY,
    EVENTS,
    Recorder,
    RunFolder,
    read_events,
    reading,
)
from dpet_jax.run.hosts import Hosts
from dpet_jax.run.machine import differences, environment
from dpet_jax.run.team import Team
from dpet_jax.training.checkpoint import Checkpoints, Restored
from dpet_jax.training.compilation import CompileCounts, compile_counts
from dpet_jax.training.learner import Compilation
from dpet_jax.training.memory import Placed
from dpet_jax.training.transfer import get


class Segment:
    """What one process adds to a run, from its start or a resume to its end.

    Args:
        config: What is run; written into the folder.
        folder: The run folder, held by this process, or followed where another of its
            team does.
        team: The processes that the run is shared by.

    Attributes:
        hosts: What the processes of the team measure.
        energy: The meter's accounts at the checkpoint that is resumed, with what was
            lost since; None in a first segment.
        warnings: What is not as it was when the run was left, a sentence each.
        lost: The event that says what a resumed run does again; None in a first one.
        close: Releases the files.

    Raises:
        UserError: If what the folder holds cannot be resumed, or was trained on other
            data.
    """

    def __init__(
        self, config: Config, data: Data, folder: RunFolder, team: Team | None = None
    ) -> None:
        self.folder = folder
        self._team = team or Team()
        self.compilations: list[Compilation] = []
        self.counts_before = compile_counts()
        self.energy: Accounts | None = None
        self.prunings: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.lost: dict[str, Any] | None = None
        self._content = content_hash(data)
        self._environment = environment()
        if self._team.leads:
            self._open(config, data)
        # only now the folder is as it will be resumed
        latest: int | None = self._team.agree(lambda: self.checkpoints.latest)
        self.prunings = self._team.agree(lambda: self.prunings)
        if not self._team.leads:
            self._follow(latest)
        self.hosts = Hosts(self._team, folder, resumed=latest is not None)
        if not self._team.leads:
            self.energy = self.hosts.earlier

    def _follow(self, latest: int | None) -> None:
        """Read what process 0 resumes from, and write nothing."""
        self.recorder = Recorder(None)
        self.checkpoints = Checkpoints(self.folder.path / CHECKPOINTS, read_only=True)
        self.close = self.checkpoints.close
        if self.checkpoints.latest != latest:
            raise RuntimeError(
                f"{self.folder.path}: process 0 resumes from checkpoint {latest}, but "
                f"here the latest is {self.checkpoints.latest}; see that all processes "
                "see the same files"
            )

    def _open(self, config: Config, data: Data) -> None:
        folder = self.folder
        path = folder.path / EVENTS
        with ExitStack() as files, reading(folder.path):
            earlier = read_events(path, superseded=True) if path.exists() else []
            self.prunings = [event for event in earlier if event["event"] == "prune"]
            begun = next((e for e in reversed(earlier) if e["event"] == "start"), None)
            if begun is not None:
                self._compare(begun, data)
            folder.write_text(CONFIG, config.to_yaml())
            self.checkpoints = files.enter_context(
                closing(Checkpoints(folder.path / CHECKPOINTS))
            )
            self.recorder = files.enter_context(closing(Recorder(path)))
            if earlier or self.checkpoints.latest is not None:
                self._supersede(earlier)
            self.close = files.pop_all().close

    def _compare(self, begun: dict[str, Any], data: Data) -> None:
        """Refuse other data than the run began with, and name what else differs."""
        # runs of an earlier version recorded the hash of the source alone
        key, now = "content", self._content
        if key not in begun:
            key, now = "fingerprint", data.fingerprint
        if begun.get(key) != now:
            raise UserError(
                f"{self.folder.path}: began with other data ({begun.get('dataset')}, "
                f"{key} {str(begun.get(key))[:12]}; these are {data.name}, "
                f"{now[:12]}); resume with the data it began with, or choose another "
                "--out=DIR"
            )
        found = differences(begun, self._environment)
        if found:
            self.warnings.append(
                "resumed in another environment, so that it need not go on to the same "
                f"bits: {'; '.join(found)}"
            )

    def _supersede(self, earlier: list[dict[str, Any]]) -> None:
        """Go on after earlier segments; what they did past the checkpoint is lost."""
        last_id = earlier[-1]["event_id"] if earlier else -1
        self.recorder.segment = earlier[-1]["segment"] + 1 if earlier else 0
        self.recorder.next_id = last_id + 1
        after, kept = -1, dict.fromkeys(("visits", "scored_examples"), 0)
        energy = Accounts()
        recorded = journal.read(self.folder.path / ENERGY).accounts
        self.warnings += self.checkpoints.set_damaged_aside()
        if self.checkpoints.latest is not None:
            self.checkpoints.check_format()
            meta = self.checkpoints.read_meta()
            after = meta["last_event_id"]
            if after > last_id:
                raise DamagedFileError(
                    self.folder.path / EVENTS,
                    f"it ends with event {last_id}, but the checkpoint comes after "
                    f"event {after}",
                )
            counters = meta["position"]["counters"]
            kept = {key: counters[key] for key in kept}
            energy = self._as_saved(meta)
            saved = next((e for e in earlier if e["event_id"] == after + 1), None)
            if saved is not None and saved["event"] == "checkpoint":
                after += 1
        # what an earlier resume has counted as lost already is not lost again
        current = read_events(self.folder.path / EVENTS)
        done = [event for event in current if event["event_id"] > after]
        last = {
            key: max((event.get(key) or 0 for event in done), default=kept[key])
            for key in kept
        }
        lost_before = (recorded or energy).lost
        self.energy = energy.with_lost(recorded or energy)
        lost = self.energy.lost
        self.lost = self.recorder.write(
            "lost",
            time_s=energy.total_s,
            after_event_id=after,
            seconds=lost.s - lost_before.s,
            wh=None if lost.wh is None else lost.wh - (lost_before.wh or 0.0),
            **{key: max(0, last[key] - kept[key]) for key in kept},
        )

    def _as_saved(self, meta: dict[str, Any]) -> Accounts:
        """Return the meter's accounts right after a checkpoint was written.

        The checkpoint itself holds the accounts from before: it could not know what
        writing it would cost.
        """
        path = self.folder.path / ENERGY
        return journal.read_until(
            path, "checkpoint", meta["journal_lines"]
        ) or Accounts.from_json(meta["energy"])

    def pruned_network(self) -> tuple[dict[str, Any], bool] | None:
        """Return the pruned network of the latest checkpoint, and if it is on trial.

        None if it has all its channels.
        """
        if self.checkpoints.latest is None:
            return None
        with reading(self.folder.path):
            found = self.checkpoints.read_meta()["position"].get("prune")
            if not found or found["model"] is None:
                return None
            return found["model"], found["stage"] == "trial"

    def saver(self, meter: EnergyMeter) -> "Saving":
        """Return what keeps checkpoints for the loop."""
        return Saving(self, self._team, meter)

    def start(
        self,
        config: Config,
        data: Data,
        flops_per_step: int,
        meter: EnergyMeter,
        placed: Placed,
    ) -> None:
        """Record what this segment runs on."""
        self.recorder.write(
            "start",
            time_s=meter.total_s,
            when=utc_now(),
            name=config.name,
            seed=config.seed,
            dataset=data.name,
            fingerprint=data.fingerprint,
            train=data.num_train,
            validation=data.num_validation,
            test=data.num_test,
            noisy_labels=data.noisy_rows.size,
            batch_size=config.train.batch_size,
            flops_per_step=flops_per_step,
            data_bytes=data.images.nbytes + data.labels.nbytes,
            data_origin=data.origin,
            placement=placed._asdict(),
            content=self._content,
            warnings=self.warnings,
            **self._environment,
        )

    def chose(self, what: str, decision: dict[str, Any], meter: EnergyMeter) -> None:
        """Record what was chosen before training, unless a checkpoint comes after it.

        Args:
            what: Name of the event.
            decision: How it was chosen; empty where the config says it.
            meter: The run's.
        """
        if decision and self.checkpoints.latest is None:
            spent = {"seconds": meter.seconds(), "wh": meter.wh()}
            self.recorder.write(what, time_s=meter.total_s, **spent, **decision)

    def compiled(self, compilation: Compilation, meter: EnergyMeter) -> None:
        """Record that a program is ready."""
        self.compilations.append(compilation)
        self.recorder.write("compile", time_s=meter.total_s, **compilation._asdict())

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

    def past(self) -> dict[str, Any]:
        """Return what crashes made the run do again, and the warnings of resumes."""
        with reading(self.folder.path):
            events = read_events(self.folder.path / EVENTS, superseded=True)
            starts = [event for event in events if event["event"] == "start"]
            warnings = [text for event in starts for text in event.get("warnings", ())]
            lost = [event for event in events if event["event"] == "lost"]
            known = [event["wh"] for event in lost if event["wh"] is not None]
            wh = sum(known) if known or not lost else None
            parts = ("seconds", "visits", "scored_examples")
            sums = {key: sum(event[key] for event in lost) for key in parts}
            return {"lost": sums | {"wh": wh}, "warnings": warnings}


class Saving:
    """Checkpoints as the loop sees them: one process writes, each restores its part.

    Args:
        segment: Keeps them.
        team: The processes that the run is shared by.
        meter: The run's, whose accounts process 0 keeps for all.
    """

    def __init__(self, segment: Segment, team: Team, meter: EnergyMeter) -> None:
        self._segment, self._team, self._meter = segment, team, meter

    def save(
        self, models: dict[str, Any], host: dict[str, Any], meta: dict[str, Any]
    ) -> None:
        """Write the next checkpoint; see `Checkpoints.save`."""
        if self._team.size > 1:
            models = get(models)
        if self._team.leads:
            self._segment.checkpoints.save(models, host, meta)
        self._segment.hosts.collect(self._meter)

    def restore(self, like: dict[str, Any]) -> Restored:
        """Read the latest checkpoint; see `Checkpoints.restore`."""
        return self._segment.checkpoints.restore(like)
