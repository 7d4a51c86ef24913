"""What the processes of a run must have in common, looked at before it trains."""

import secrets
import time
from pathlib import Path
from typing import Any

from dpet_jax.config.experiment import Config
from dpet_jax.config.load import changed
from dpet_jax.data import Data
from dpet_jax.data.dataset import content_hash
from dpet_jax.energy import EnergyMeter
from dpet_jax.errors import UserError
from dpet_jax.run.folder import FollowedFolder, RunFolder
from dpet_jax.run.team import Team

_TOKEN = ".team"
#: A file that one machine has written is seen by others after a while, at most.
_SEEN_S, _AGAIN_S = 15.0, 0.2


def check_alike(team: Team, config: Config, data: Data, meter: EnergyMeter) -> None:
    """Refuse to begin where processes hold another config or other data.

    Args:
        team: The processes.
        config: This one's.
        data: This one's.
        meter: This one's; where Wh decide, every machine must measure them alike.

    Raises:
        UserError: In every process, with what differs and where.
    """
    if team.size == 1:
        return
    here: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "content": content_hash(data),
        "data": data.name,
        "quality": meter.quality,
        "measures": team.measures_host,
    }
    everybody = team.gather(here)

    def check() -> None:
        if not team.leads:
            return
        first = everybody[0]
        for index, one in enumerate(everybody[1:], 1):
            who = team.name(index)
            keys = [
                f"{key} is {there!r}, in process 0 {value!r}"
                for key, value, there in changed(first["config"], one["config"])
            ]
            if keys:
                raise UserError(
                    f"{who} has another config: {'; '.join(keys)}; give all the same"
                )
            if one["content"] != first["content"]:
                raise UserError(
                    f"{who} holds other data than process 0 ({one['data']} "
                    f"{one['content'][:12]}, {first['data']} {first['content'][:12]}); "
                    "give all the same files"
                )
            counted = config.budget.wh is not None or config.method.asks_joules
            if counted and one["measures"] and one["quality"] != first["quality"]:
                raise UserError(
                    f"budget.wh, method.tuner.cost: {who} has energy that is "
                    f"{one['quality']}, process 0 {first['quality']}; they cannot be "
                    "added up, so count epochs, visits or seconds"
                )

    team.together(check)


def hold(team: Team, path: Path) -> RunFolder:
    """Return the run's folder, held by process 0 and seen by all.

    Args:
        team: The processes.
        path: Of the folder.

    Raises:
        UserError: In every process, if it cannot be held or one does not see it.
    """
    if team.size == 1:
        return RunFolder(path)
    folder = team.together(
        lambda: RunFolder(path) if team.leads else FollowedFolder(path)
    )
    token = team.agree(lambda: secrets.token_hex(8))
    folder.write_text(_TOKEN, token)
    try:
        with team.leader_first():
            pass
        team.together(lambda: _see(team, path, token))
    finally:
        if team.leads:
            (path / _TOKEN).unlink(missing_ok=True)
    return folder


def _see(team: Team, path: Path, token: str) -> None:
    deadline = time.monotonic() + _SEEN_S
    while not _holds(path / _TOKEN, token):
        if time.monotonic() > deadline:
            raise UserError(
                f"{path}: is not the folder that {team.name(0)} writes; choose an "
                "--out=DIR on a disk that all machines share"
            )
        time.sleep(_AGAIN_S)


def _holds(path: Path, token: str) -> bool:
    try:
        return path.read_text() == token
    except OSError:
        return False
