"""Runs that start from a pool: the choice, the start, resumption, the commands."""

import shutil

import jax
import numpy as np
import pytest
from fakes.networks import MlpModel

import dpet_jax
from dpet_jax.cli import main
from dpet_jax.config.load import validate
from dpet_jax.errors import DamagedFileError, UserError
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.models.weights import nest, read_weights
from dpet_jax.pretrained.external import Told
from dpet_jax.pretrained.pool import ModelPool
from dpet_jax.run import experiment, pool_commands
from dpet_jax.run.folder import read_events
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.run.pretrained import fit

NOTHING = Told()


def config(name, **changes):
    tree = {
        "name": name,
        "model": {"kind": "resnet", "stem": 8, "channels": [8, 8], "blocks": [1, 1]},
        "train": {"batch_size": 32, "augment": {"translate": 1}},
        "method": {"kind": "standard", "passes": 1},
        "evaluate": {"every": 0.5},
        "targets": [0.2],
        "checkpoint": {"every_s": 1000},
    } | changes
    return validate(tree, "test")


class At(Interrupt):
    """An interrupt that comes at a chunk, or before the first one while compiling."""

    def __init__(self, chunks):
        self.left = chunks

    @property
    def requested(self):
        self.left -= 1
        return self.left < 0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a finished run and a pool that holds its network."""
    home = tmp_path_factory.mktemp("home")
    source = experiment.run(config("source", seed=7), home / "runs")
    pool = ModelPool(home / "pool")
    told = NOTHING._replace(licence="BSD-3-Clause")
    pool_commands.add(pool, str(source.folder), "digits", told)
    return home


def started(home, **keys):
    """Return the pool section of a run that starts from the network there."""
    return {"path": str(home / "pool"), "by": "leep", "images": 200, **keys}


@pytest.fixture(scope="module")
def tuned(home):
    return experiment.run(config("tuned", pool=started(home)), home / "runs")


@pytest.fixture(scope="module")
def drawn(home):
    return experiment.run(config("drawn"), home / "runs")


def test_the_card_says_what_the_run_was(home):
    summary = dpet_jax.files.read_json(home / "runs/source/seed7/summary.json")
    card = ModelPool(home / "pool").card("digits")
    assert (card.task, card.num_classes, card.licence) == ("digits", 10, "BSD-3-Clause")
    assert card.image_shape == (8, 8, 1)
    assert card.accuracy == summary["test_accuracy"]
    assert card.training.flops == summary["flops"]
    assert card.training.quality == summary["energy"]["quality"]
    assert card.model["channels"] == [8, 8]
    network = ResidualNetwork(8, (8, 8), (1, 1), 10, 1)
    assert card.flops_per_image == network.forward_flops(8, 8)
    run = dpet_jax.load_run(home / "runs/source/seed7")
    assert card.num_parameters == sum(p.size for p in jax.tree.leaves(run.params))
    np.testing.assert_allclose(card.mean, run.mean)
    assert card.class_names == run.class_names


def test_the_run_says_how_it_began_and_what_that_cost(tuned, home):
    events = read_events(tuned.folder / "events.jsonl")
    chosen = [event for event in events if event["event"] == "pool"]
    assert [event["chosen"] for event in chosen] == ["digits"]
    assert [row["name"] for row in chosen[0]["ranked"]] == ["digits", "scratch"]
    forward = ResidualNetwork(8, (8, 8), (1, 1), 10, 1).forward_flops(8, 8)
    # two candidates, one batch of 500 each, and 46 steps of 32 rows
    assert chosen[0]["cost"]["flops"] == 2 * 500 * forward
    summary = tuned.summary
    assert summary["flops"] == (2 * 500 + 3 * 46 * 32) * forward
    phases = {name: phase["s"] for name, phase in summary["phases"].items()}
    assert phases["pool"] > 0
    assert chosen[0]["cost"]["seconds"] <= phases["pool"]
    assert sum(phases.values()) == pytest.approx(summary["wall_s"])
    reached = summary["targets"][0]
    assert reached["seconds"] >= phases["pool"]
    before = ModelPool(home / "pool").card("digits").training.flops
    assert summary["pool"]["with_pretraining"]["flops"] == {
        "without": summary["flops"],
        **{str(n): summary["flops"] + before / n for n in (1, 10, 100)},
    }
    assert summary["pool"]["with_pretraining"]["wh"] is None or summary["energy"]["wh"]


def test_a_run_without_a_pool_says_nothing_of_one(drawn):
    assert "pool" not in drawn.summary["phases"]
    assert "pool" not in drawn.summary
    assert not (drawn.folder / "pool.json").exists()


@pytest.fixture(scope="module")
def head(home):
    pool = started(home, start="head")
    return experiment.run(config("head", pool=pool), home / "runs")


def test_a_head_in_closed_form_leaves_the_body_alone_and_takes_no_steps(head, home):
    done = head
    assert (done.summary["visits"], done.summary["stopped_by"]) == (0, "finished")
    assert done.summary["coreset_size"] is None
    assert done.summary["test_accuracy"] > 0.5
    run = dpet_jax.load_run(done.folder)
    arrays = ModelPool(home / "pool").load("digits")[2]
    begun = nest(read_weights(done.folder / "start.safetensors")[0])["params"]
    saved = nest(arrays)["params"]
    for layer, leaves in run.params.items():
        expected = (begun if layer == "head" else saved)[layer]
        jax.tree.map(np.testing.assert_array_equal, leaves, expected)
    assert not np.array_equal(run.params["head"]["bias"], saved["head"]["bias"])
    # 1,455 images of the training split in 3 batches, beside the choice
    forward = run.model.forward_flops(8, 8)
    assert done.summary["flops"] > (2 * 500 + 3 * 500) * forward


def test_a_probe_before_tuning_begins_with_that_head_softened(home, head, drawn):
    pool = started(home, start="linear_probe_then_finetune", old_rate=0.5)
    done = experiment.run(config("probed", pool=pool), home / "runs")
    assert done.summary["visits"] == 1455
    assert done.summary["test_accuracy"] > drawn.summary["test_accuracy"]
    begun, alone = (
        read_weights(one.folder / "start.safetensors")[0] for one in (done, head)
    )
    kernels = begun["params/head/kernel"], alone["params/head/kernel"]
    norms = [np.linalg.norm(kernel) for kernel in kernels]
    assert norms[0] == pytest.approx(10**0.5)
    np.testing.assert_allclose(
        *(k / n for k, n in zip(kernels, norms, strict=True)), rtol=1e-4
    )


@pytest.mark.parametrize("chunks", [0, 8])
def test_a_run_goes_on_to_the_same_bits_after_the_pool_has_gone(
    home, tuned, tmp_path, assert_same_run, chunks
):
    pool = tmp_path / "pool"
    shutil.copytree(home / "pool", pool)
    keys = started(home) | {"path": str(pool)}
    again = config("tuned", pool=keys)
    left = experiment.run(again, tmp_path, interrupt=At(chunks))
    assert left.stopped_by == "interrupted"
    checkpoints = [*(left.folder / "checkpoints").glob("[0-9]*")]
    assert bool(checkpoints) == (chunks > 0)
    shutil.rmtree(pool)
    done = experiment.run(again, tmp_path, resume=True)
    assert_same_run(done.folder, tuned.folder)
    assert done.summary["flops"] == tuned.summary["flops"]
    events = read_events(done.folder / "events.jsonl")
    assert [e["event"] for e in events].count("pool") == 1
    with pytest.raises(UserError, match="holds no pre-trained network"):
        experiment.run(again, tmp_path, overwrite=True)
    assert (done.folder / "summary.json").exists()


def test_what_a_run_began_with_may_not_be_another(home, tmp_path):
    again = config("x", pool=started(home))
    left = experiment.run(again, tmp_path, interrupt=At(0))
    path = left.folder / "start.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=f"^{path}: damaged"):
        experiment.run(again, tmp_path, resume=True)
    shutil.copy(home / "pool/digits.safetensors", path)
    with pytest.raises(DamagedFileError, match=r"not what pool\.json says"):
        experiment.run(again, tmp_path, resume=True)


def test_from_scratch_it_is_the_run_without_a_pool(
    home, drawn, tmp_path, assert_same_run
):
    pool = started(home, min_gain=100)
    done = experiment.run(config("drawn", pool=pool), tmp_path)
    assert done.summary["pool"]["chosen"] == "scratch"
    assert_same_run(done.folder, drawn.folder)


def test_a_network_of_other_channels_or_size_is_told(home):
    card, network, _ = ModelPool(home / "pool").load("digits")
    assert fit(card, network, (8, 8, 1)) == (None, None)
    problem, note = fit(card, network, (12, 12, 1))
    assert problem is None
    assert note.startswith("trained on 8 x 8 pixels, here 12 x 12; data.image_size: 8")
    told = "reads 1 channel, but images have 3"
    assert fit(card, network, (8, 8, 3)) == (told, None)
    assert "last layer" in fit(card, MlpModel().build(10, (8, 8, 1)), (8, 8, 1))[0]


def test_what_cannot_be_chosen_by_is_refused_before_anything_is_made(home, tmp_path):
    cases = {
        "pool.path: .*holds no pre-trained network": {"path": str(tmp_path / "none")},
        "pool.network: .*holds no 'x'; there is digits": {"network": "x"},
        "pool.images: 19 are less than 2 for each of the 10": {"images": 19},
    }
    for message, keys in cases.items():
        with pytest.raises(UserError, match=message):
            experiment.run(config("x", pool=started(home) | keys), tmp_path / "runs")
    own = config("x", pool=started(home)).model_copy(update={"model": MlpModel()})
    with pytest.raises(UserError, match="does not say which parameters are its last"):
        experiment.run(own, tmp_path / "runs")
    damaged = tmp_path / "pool"
    damaged.mkdir()
    (damaged / "x.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"x\.safetensors: is no whole safetensors"):
        experiment.run(config("x", pool={"path": str(damaged)}), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_the_commands_answer_with_tables(home, tmp_path, capsys):
    folder = tmp_path / "pool"

    def run(*arguments):
        code = main(["pool", *map(str, arguments), f"--pool={folder}"])
        return code, *capsys.readouterr()

    source = home / "runs/source/seed7"
    code, out, _ = run("add", source, "--name=a", "--licence=MIT")
    assert code == 0
    assert out.splitlines()[1].split()[:3] == ["a", "ResNet-6", "digits"]
    assert run("add", folder / "a.safetensors", "--name=b")[0] == 0
    (folder / "c.safetensors").write_bytes(b"x" * 20)
    code, out, _ = run("list")
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["network", "a", "b"]
    assert "c.safetensors: is no whole safetensors file" in out
    assert run("remove", "c")[1] == "removed c; 2 left: a, b\n"
    code, out, _ = run("show", "b")
    assert "licence             MIT" in out
    (tmp_path / "x.yaml").write_text(
        "model: {kind: resnet, stem: 8, channels: [8, 8], blocks: [1, 1]}"
    )
    code, out, _ = run("rank", tmp_path / "x.yaml", "--pool.by=leep")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["a", "b", "scratch"]
    for arguments, message in {
        ("add", source, "--name=a"): "holds 'a' already",
        ("add", source, "--name=z", "--size=8"): "is a run, which knows that itself",
        ("add", tmp_path, "--name=z"): "model.safetensors: no such file",
        ("add", folder / "a.safetensors", "--name=z", "--size=8"): "says that itself",
        ("show", "z"): "holds no 'z'; there is a, b",
        ("remove", "z"): "holds no 'z'",
        ("list", "--pool.by=knn"): "unknown argument",
        ("add", source, "--name=z", "--mean=x"): "is no list of numbers",
    }.items():
        code, out, problem = run(*arguments)
        assert (code, out) == (2, "")
        assert message in problem


def test_a_run_that_has_not_ended_is_not_added(home, tmp_path):
    shutil.copytree(home / "runs/source/seed7", tmp_path / "run")
    (tmp_path / "run/summary.json").unlink()
    with pytest.raises(UserError, match="has not ended"):
        pool_commands.add(
            ModelPool(tmp_path / "pool"), str(tmp_path / "run"), "x", NOTHING
        )
    assert not (tmp_path / "pool").exists()
