"""Where runs are run, and what happens to those that cannot end there."""

from contextlib import closing

from dpet_jax.config.load import validate
from dpet_jax.run import build as parts
from dpet_jax.run.folder import CONFIG, SUMMARY, RunFolder
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.suite import executor
from dpet_jax.suite.executor import Ended, InTurn, run_job
from dpet_jax.suite.variants import Job


def job(name="some/full", seed=0):
    tree = {"name": name, "seed": seed, "method": {"kind": "standard", "passes": 1}}
    tree["model"] = {"kind": "resnet", "stem": 16, "channels": [16], "blocks": [1]}
    return Job("full", "", validate(tree, "test"))


def no_data(config):
    raise AssertionError(f"{config.name} is not to be run")


def test_a_run_that_is_finished_is_not_run_again(tmp_path):
    folder = tmp_path / job().folder
    folder.mkdir(parents=True)
    (folder / SUMMARY).write_text("{}")
    ended = run_job(job(), tmp_path, no_data, Interrupt())
    assert ended == Ended("some/full/seed0", "finished")


def test_a_folder_of_another_process_is_waited_for_and_never_shared(
    tmp_path, monkeypatch
):
    folder = tmp_path / job().folder
    with closing(RunFolder(folder)) as other:
        ended = run_job(job(), tmp_path, parts.build_data, Interrupt())
        assert ended.how == "failed"
        assert "not run: " in ended.reason
        assert "another process is running in this folder" in ended.reason

        def ends_meanwhile(seconds):
            assert seconds > 0
            (folder / SUMMARY).write_text("{}")
            other.close()

        monkeypatch.setattr(executor.time, "sleep", ends_meanwhile)
        ended = run_job(job(), tmp_path, parts.build_data, Interrupt(), patience_s=60.0)
    assert ended.how == "finished"
    assert not (folder / CONFIG).exists()


def test_what_waits_when_all_are_asked_to_stop_is_not_begun():
    interrupt, begun = Interrupt(), []

    def run(one, flag):
        begun.append(one.config.seed)
        flag.requested = one.config.seed == 1
        return Ended(one.folder, "interrupted" if flag.requested else "finished")

    runs = InTurn(run)
    for seed in range(4):
        runs.submit(job(seed=seed))
    hows = [ended.how for ended in runs.results(interrupt)]
    assert hows == ["finished", "interrupted", "interrupted", "interrupted"]
    assert begun == [0, 1]
