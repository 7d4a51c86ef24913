"""Studies of practices: what may be asked, and how their parts are resolved."""

import pytest
import yaml
from rich.console import Console

from dpet_jax.cli import main
from dpet_jax.config.packaged import copied, packaged
from dpet_jax.errors import UserError
from dpet_jax.suite.practices import Study, load_practices, names_of_parts

STUDY = packaged("practices_small")


def study(tmp_path, *overrides):
    section = load_practices(STUDY, overrides)
    return Study(section, STUDY.parent, tmp_path, Console(quiet=True))


def test_parts_read_the_data_of_the_study_and_start_from_its_pool(tmp_path):
    found = study(tmp_path, "--data.cifar10=/elsewhere/ten")
    held = [(part, suite.section.name) for part, suite in found.suites()]
    assert held == [
        ("layers", "layers_factorial_small"),
        ("complexity", "complexity_cnn_small"),
        ("complexity", "complexity_resnet20_small"),
        ("practices", "practices_table_small"),
    ]
    assert [part for part, _ in found.suites(["complexity"])] == ["complexity"] * 2
    ((_, table),) = found.suites(["practices"])
    assert table.problems == ()
    configs = {v.name: s.config for v in table.variants for s in v.settings.values()}
    assert {str(c.data.path) for c in configs.values()} == {"/elsewhere/ten"}
    pools = {name: c.pool for name, c in configs.items() if c.pool is not None}
    assert {*pools} == {"pool", "pool_anneal"}
    assert {str(pool.path) for pool in pools.values()} == {str(tmp_path / "pool")}
    source = found.config_of(found.section.practices.source, "source")
    assert (source.name, str(source.data.path)) == ("source", "data/cifar100")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--hpo.data=fashon", "hpo.data: 'fashon' is none of the study's data"),
        ("--layers.network.data=x", "layers.network.data: 'x' is none of the study's"),
        ("--complexity=[{suite: a.yaml, data: y}]", "complexity.0.data: 'y' is none"),
        ("--hpo.repeats=0", "hpo.repeats"),
        ("--hop.repeats=1", "hop: unknown key, did you mean hpo?"),
    ],
)
def test_a_study_that_is_wrong_is_refused_by_its_key(override, said):
    with pytest.raises(UserError) as caught:
        load_practices(STUDY, [override])
    assert said in str(caught.value)


def test_a_study_has_a_part_and_only_names_one_that_it_has(tmp_path):
    path = tmp_path / "none.yaml"
    path.write_text("name: none\n")
    with pytest.raises(UserError, match="it has no part; give one of hpo, layers"):
        load_practices(path)
    section = load_practices(STUDY)
    assert names_of_parts("practices,hpo", section) == ("hpo", "practices")
    assert names_of_parts(None, section) == ()
    with pytest.raises(UserError, match="--only: 'hop' is no part of practices_small"):
        names_of_parts("hop", section)


def test_a_copy_of_a_study_brings_all_its_files(tmp_path):
    files = copied("practices_small", tmp_path / "mine.yaml")
    assert len(files) == 7
    for path, text in files.items():
        path.write_text(text)
    found = load_practices(tmp_path / "mine.yaml")
    mine = Study(found, tmp_path, tmp_path / "out", Console(quiet=True))
    assert len([*mine.suites()]) == 4
    assert mine.config_of(found.hpo, "hpo").model.kind == "cnn"


TINY = {
    "name": "tiny",
    "hpo": {
        "config": str(packaged("quickstart")),
        "set": {
            "model": {"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]},
            "method": {"kind": "standard", "passes": 1},
        },
        "vary": ["train.optimizer.learning_rate=0.01..0.5 log"],
        "by": ["random", "gp"],
        "trials": 1,
        "repeats": 1,
    },
    "complexity": [{"suite": "sizes.yaml"}],
    "practices": {
        "suite": "table.yaml",
        "network": "before",
        "source": {"config": str(packaged("quickstart"))},
    },
}
SIZES = {
    "name": "sizes",
    "base": str(packaged("quickstart")),
    "set": TINY["hpo"]["set"],
    "seeds": [0],
    "targets": [0.5],
    "variants": {"net": {"grid": {"model.channels": [[8], [16]]}}},
}
TINY["practices"]["source"]["set"] = SIZES["set"]
TABLE = SIZES | {
    "name": "table",
    "variants": {
        "standard": {"role": "tuned"},
        "pool": {"set": {"pool": {"network": "before"}}},
    },
}


def test_the_command_refuses_before_anything_is_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert main(["practices", "tiny.yaml", "--only=layers"]) == 2
    assert "no part of tiny; choose from hpo, complexity," in capsys.readouterr().err
    assert main(["practices", "tiny.yaml"]) == 2
    assert "sizes.yaml: cannot read the config" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [tmp_path / "tiny.yaml"]


@pytest.mark.slow
def test_a_study_runs_part_by_part_and_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "sizes.yaml").write_text(yaml.safe_dump(SIZES))
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(TABLE))
    assert main(["practices", "tiny.yaml", "--only=hpo"]) == 0
    first = capsys.readouterr().out
    assert first.count("trial 0") == 2
    assert "runs/tiny/sizes: no finished run" in " ".join(first.split())
    assert main(["practices", "tiny.yaml"]) == 0
    second = capsys.readouterr().out
    assert "trial 0" not in second, "it was done before"
    assert "[  2/2] net/channels" in second
    assert second.splitlines()[-1] == "report      runs/tiny/report.html"
    folder = tmp_path / "runs" / "tiny"
    assert len([*folder.glob("sizes/net/*/seed0/summary.json")]) == 2
    begun = yaml.safe_load((folder / "table/pool/seed0/config.yaml").read_text())
    assert begun["pool"]["path"] == "runs/tiny/pool"
    assert (folder / "pool" / "before.safetensors").exists()
