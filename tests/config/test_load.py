"""From YAML and overrides to a config, and what people read when that fails."""

import os
from pathlib import Path

import pytest
import yaml

from dpet_jax.config import experiment as schema
from dpet_jax.config.load import changed, flat, load, validate, validate_as
from dpet_jax.errors import UserError
from dpet_jax.scores.registry import selectable_scores
from dpet_jax.suite.schema import SuiteConfig
from dpet_jax.training.optimizer import Adam

CONFIGS = Path(__file__).parents[2] / "configs"
SAVED = sorted((Path(__file__).parent / "saved").glob("*.yaml"))
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if "suites" not in path.parts)


@pytest.fixture
def config_file(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def refused(config_file):
    """Load a wrong config and return the message, the file's path as FILE."""

    def message(text, *overrides):
        path = config_file(text)
        with pytest.raises(UserError) as caught:
            load(path, overrides)
        return str(caught.value).replace(str(path), "FILE")

    return message


# what loads


def test_there_are_configs_to_check():
    assert len(FILES) >= 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_file_loads_is_named_like_its_file_and_survives_a_round_trip(
    path, config_file
):
    config = load(path)
    assert config.name == path.stem
    assert load(config_file(config.to_yaml())) == config


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_config_of_a_run_made_before_kinds_were_classes_loads_unchanged(path):
    """Runs of version 0.1 resume only if nothing in their configs changes."""
    saved = yaml.safe_load(path.read_text(encoding="utf-8"))
    loaded = dict(flat(yaml.safe_load(load(path).to_yaml())))
    # keys of later versions have the default that leaves the method as it was
    assert {key: loaded.get(key) for key, _ in flat(saved)} == dict(flat(saved))
    later = {key: loaded[key] for key in loaded.keys() - dict(flat(saved))}
    as_before = {
        "method.replay.kind": "all",
        "method.replay.anchor": 0.0,
        "method.restart": True,
        "budget.pace": False,
        "data.evaluation_crop": 1.0,
        "data.resize": "stretch",
        "model.stem_kind": "cifar",
        "track": [],
        "data.placement": "auto",
        "data.workers": 0,
        "method.shards": 1,
    }
    for key, value in later.items():
        assert value == as_before.get(key), key


@pytest.mark.parametrize(
    "text",
    [
        "method: {kind: standard}",
        "data: {kind: npz, path: x/y.npz}\nstop: {'on': test, target: 0.5}",
        "model: {kind: resnet, stem: 8, channels: [8, 16], blocks: [1, 2]}",
        "train: {schedule: {kind: linear, horizon: 12.5}}\nbudget: {epochs: 0.1}",
        "train: {schedule: {kind: constant}, optimizer: {kind: adamw}}",
        "method: {kind: coreset, path: c.npz}\ntargets: [0.1, 0.3]",
        "name: '1e3'",
        "name: 'on'",
    ],
)
def test_resolved_config_loads_back_equal(text, config_file):
    config = load(config_file(text))
    assert load(config_file(config.to_yaml())) == config


def test_config_that_the_docs_explain_loads(config_file):
    page = (CONFIGS.parent / "docs" / "config.md").read_text(encoding="utf-8")
    block = [line for line in page.splitlines() if line.startswith("    ")]
    config = load(config_file("\n".join(line[4:] for line in block)))
    assert config.stop.on == "validation"


@pytest.mark.parametrize("text", ["", "# only a comment\n", "{}"])
def test_empty_file_is_dpet_on_the_digits(text, config_file):
    config = load(config_file(text))
    assert config == schema.Config()
    assert (config.method.kind, config.data.kind) == ("dpet", "digits")


def test_kind_standard_needs_no_other_keys(config_file):
    method = load(config_file("method: {kind: standard}")).method
    assert method == schema.Standard(kind="standard", passes=200)


def test_section_without_kind_is_the_default_kind(config_file):
    config = load(config_file("method: {query_size: 7}\ndata: {split_seed: 3}"))
    assert config.method == schema.Dpet(query_size=7)
    assert config.data == schema.Digits(split_seed=3)


@pytest.mark.parametrize("number", ["1e-3", "1.0e-3", "0.001", "1E-3", "+1e-3"])
def test_scientific_notation_reads_as_a_float(number, config_file):
    path = config_file(f"train: {{optimizer: {{learning_rate: {number}}}}}")
    assert load(path).train.optimizer.learning_rate == 1e-3
    path = config_file("")
    config = load(path, [f"--train.optimizer.learning_rate={number}"])
    assert config.train.optimizer.learning_rate == 1e-3


def test_key_on_is_a_key_and_no_boolean(config_file):
    assert load(config_file("stop: {target: 0.9, on: test}")).stop.on == "test"


@pytest.mark.parametrize("name", ["on", "no", "2020-01-31", "2020-13-45"])
def test_name_that_old_yaml_takes_for_something_else_stays_a_name(name, config_file):
    assert load(config_file(f"name: {name}")).name == name
    assert load(config_file(""), [f"--name={name}"]).name == name


# overrides


def test_override_beats_the_file_and_the_last_one_wins(config_file):
    path = config_file("seed: 1\ntrain: {batch_size: 8, label_smoothing: 0.1}")
    config = load(path, ["--seed=2", "--train.batch_size=16", "--seed=3"])
    assert config.seed == 3
    assert config.train.batch_size == 16
    assert config.train.label_smoothing == 0.1


def test_override_makes_sections_that_the_file_lacks(config_file):
    config = load(config_file(""), ["--train.augment.flip=true", "--targets=[0.5]"])
    assert config.train.augment.flip is True
    assert config.targets == (0.5,)


def test_override_of_null_takes_a_budget_away(config_file):
    path = config_file("budget: {epochs: 3}")
    assert load(path, ["--budget.epochs=null"]).budget.epochs is None


@pytest.mark.parametrize(
    "text", ["method: {kind: dpet, score: entropy}", "method: {score: entropy}"]
)
def test_override_of_a_kind_starts_its_section_anew(text, config_file):
    config = load(config_file(text), ["--method.kind=rs2", "--method.passes=4"])
    assert config.method == schema.Rs2(kind="rs2", passes=4)


@pytest.mark.parametrize(
    "text", ["method: {kind: dpet, score: entropy}", "method: {score: entropy}"]
)
def test_override_of_a_kind_by_itself_keeps_the_section(text, config_file):
    assert load(config_file(text), ["--method.kind=dpet"]).method.score == "entropy"


def test_override_of_a_nested_kind_leaves_the_sections_around_it(config_file):
    path = config_file("train: {batch_size: 8, optimizer: {kind: sgd, momentum: 0.5}}")
    train = load(path, ["--train.optimizer.kind=adam"]).train
    assert train.optimizer == Adam()
    assert train.batch_size == 8


# what is refused: file text, overrides, and all that the one line must say

WRONG = {
    "top key": ("trane: {}", [], "FILE: trane: unknown key, did you mean train?"),
    "nested key": (
        "train: {batch_siz: 64}",
        [],
        "FILE: train.batch_siz: unknown key, did you mean train.batch_size?",
    ),
    "deep key": (
        "train: {optimizer: {kind: adam, learning_rte: 1}}",
        [],
        "FILE: train.optimizer.learning_rte: train.optimizer.learning_rate?",
    ),
    "key of the default kind": (
        "method: {query_sice: 9}",
        [],
        "FILE: method.query_sice: unknown key, did you mean method.query_size?",
    ),
    "deep key under a default kind": (
        "method: {dissimilarity: {kind: kl, wieght: 1}}",
        [],
        "FILE: method.dissimilarity.wieght: method.dissimilarity.weight?",
    ),
    "key of another kind": (
        "method: {kind: standard, score: margin}",
        [],
        "FILE: method.score: unknown key; known here: passes",
    ),
    "key on the command line": (
        "",
        ["--train.batch_siz=3"],
        "command line: train.batch_siz: unknown key, did you mean train.batch_size?",
    ),
    "kind": ("method: {kind: rs3}", [], "FILE: method 'rs3' standard, rs2, dpet"),
    "kind on the command line": (
        "",
        ["--method.kind=rs3"],
        "command line: method.kind 'rs3' standard, rs2, dpet",
    ),
    "value in place of a section": ("method: rs2", [], "FILE: method: 'rs2' kind"),
    "missing": ("data: {kind: npz}", [], "FILE: data.path: missing"),
    "too small": ("train: {batch_size: 0}", [], "FILE: train.batch_size: equal to 1 0"),
    "too large": ("targets: [0.5, 1.5]", [], "FILE: targets.1: equal to 1 1.5"),
    "no integer": ("seed: many", [], "FILE: seed: number 'many'"),
    "no list": ("", ["--targets=0.5"], "command line: targets: 0.5"),
    "entry of a list on the command line": (
        "",
        ["--targets=[0.5, 1.5]"],
        "command line: targets.1: equal to 1 1.5",
    ),
    "not finite": (
        "train: {optimizer: {learning_rate: .nan}}",
        [],
        "FILE: train.optimizer.learning_rate: finite nan",
    ),
    "default kind's value": (
        "method: {score: bald}",
        [],
        "FILE: method.score: 'bald' margin random",
    ),
    "default kind's value on the command line": (
        "",
        ["--method.score=bald"],
        "command line: method.score: 'bald' margin random",
    ),
    "value below a number": ("", ["--seed.x=3"], "command line: seed: 3"),
    "value below a number of the file": (
        "seed: 4",
        ["--seed.x=3"],
        "command line: seed.x: 4",
    ),
    "horizon": (
        "train: {schedule: {kind: cosine, horizon: later}}",
        [],
        "FILE: train.schedule.horizon: 'plan' 'method' number 'later'",
    ),
    "path": ("data: {kind: tfds, path: 3}", [], "FILE: data.path: 3 path"),
    "dangling stages": (
        "model: {kind: resnet, stem: 8, channels: [8, 16], blocks: [1]}",
        [],
        "FILE: model: channels has 2 stages blocks has 1; give",
    ),
    "scale twice": (
        "model: {kind: resnet20, scale: 2, width_multiplier: 2}",
        [],
        "FILE: model: scale leave width_multiplier",
    ),
    "target without validation": (
        "data: {validation_fraction: 0}\ntargets: [0.5]",
        [],
        "FILE: data.validation_fraction is 0 0.1 stop.on: test",
    ),
    "name outside": (
        "name: a/../b",
        [],
        "FILE: name 'a/../b': '..' no name of a folder",
    ),
    "artifact score": (
        "method: {kind: dpet, compat: artifact, score: el2n}",
        [],
        "FILE: method: artifact margin, entropy least_confidence el2n",
    ),
    "no override": (
        "",
        ["train.batch_size=3"],
        "command line: 'train.batch_size=3' --",
    ),
    "override without value": (
        "",
        ["--train.batch_size"],
        "command line: '--train.batch_size' --train.batch_size=256",
    ),
    "word for a switch": (
        "train: {augment: {flip: on}}",
        [],
        "FILE: train.augment.flip: must be true or false 'on'",
    ),
    "word for a switch on the command line": (
        "",
        ["--train.augment.flip=yes"],
        "command line: train.augment.flip: must be true or false 'yes'",
    ),
    "number for a switch": (
        "train: {optimizer: {nesterov: 1}}",
        [],
        "FILE: train.optimizer.nesterov: must be true or false 1",
    ),
    "number for a switch that may be null": (
        "method: {kind: one_shot, weighted: 0.0}",
        [],
        "FILE: method.weighted: must be true or false 0.0",
    ),
    "null for a switch": (
        "train: {augment: {flip: }}",
        [],
        "FILE: train.augment.flip: must be true or false None",
    ),
    "number that float32 takes for 0": (
        "train: {optimizer: {learning_rate: 1e-320}}",
        [],
        "FILE: train.optimizer.learning_rate: at least 1e-30 9.99989e-321",
    ),
    "number that float32 takes for 1": (
        "train: {optimizer: {momentum: 0.99999999999}}",
        [],
        "FILE: train.optimizer.momentum: less than 1 0.99999999999",
    ),
    "number that no float is": (
        "",
        ["--train.optimizer.learning_rate=1e400"],
        "command line: train.optimizer.learning_rate: finite inf",
    ),
    "number that float32 takes for infinite": (
        "train: {optimizer: {learning_rate: 1e39}}",
        [],
        "FILE: train.optimizer.learning_rate: equal to 1e+30 1e+39",
    ),
    "rows that no memory holds": (
        "evaluate: {batch_size: 1000000000000}",
        [],
        "FILE: evaluate.batch_size: equal to 65,536 1000000000000",
    ),
    "width that no memory holds": (
        "model: {width_multiplier: 1e9}",
        [],
        "FILE: model.width_multiplier: equal to 100 1000000000.0",
    ),
    "number of many digits": (f"seed: {'9' * 5000}", [], "FILE: seed: finite inf"),
    "float for a whole number": (
        "method: {kind: standard, passes: 1e300}",
        [],
        "FILE: method.passes: too large 1e+300",
    ),
    "number for a name": ("name: 5", [], "FILE: name: text in quotes 5"),
    "number in quotes": ("seed: '3'", [], "FILE: seed: must be a number '3'"),
    "name that no folder can have": (
        f"name: {'x' * 300}",
        [],
        "FILE: name 300 bytes 255; shorten",
    ),
    "name with a part that no folder can have": (
        f"name: a/{'x' * 300}",
        [],
        "FILE: name 300 bytes 255; shorten",
    ),
    "path that no folder can have": (
        f"data: {{kind: npz, path: {'x' * 300}}}",
        [],
        "FILE: data.path: 300 bytes 255; shorten",
    ),
    "path with NUL": (
        'data: {kind: npz, path: "a\\0b"}',
        [],
        r"FILE: line 1, column 25: control character '\x00'",
    ),
    "key of thousands": (
        "",
        [f"--{'a.' * 3000}b=1"],
        "command line: 'a.a.a. … nested too deep",
    ),
    "only entry of a list": (
        "model: {kind: resnet, stem: 8, channels: [8], blocks: [1001]}",
        [],
        "FILE: model.blocks.0: equal to 1,000 1001",
    ),
    "empty list": (
        "model: {kind: resnet, stem: 8, channels: [8], blocks: []}",
        [],
        "FILE: model.blocks: at least 1",
    ),
    "merge": ("<<: {seed: 1}", [], "FILE: <<: unknown key"),
    "override that is no YAML": ("", ["--targets=[1"], "command line: targets: YAML"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_config_is_refused_in_one_line_with_origin_key_value_and_remedy(
    name, refused
):
    text, overrides, words = WRONG[name]
    message = refused(text, *overrides)
    assert "\n" not in message
    origin = "command line: " if words.startswith("command line:") else "FILE: "
    assert message.startswith(origin)
    for word in words.split():
        assert word in message
    for jargon in ("pydantic", "https://", "<class", "instance of", "Input"):
        assert jargon not in message


def test_all_problems_are_told_at_once_each_with_its_origin(refused):
    message = refused(
        "sed: 3\ntrain: {batch_size: x}\nmodel: {kind: resnet20, width: 1}",
        "--evaluate.every=0",
    )
    starts = {": ".join(line.split(": ")[:2]) for line in message.splitlines()}
    assert starts == {
        "FILE: sed",
        "FILE: train.batch_size",
        "FILE: model.width",
        "command line: evaluate.every",
    }


@pytest.mark.parametrize(
    "content",
    [
        b"- a\n- b\n",
        b"just words",
        b"train: [unclosed",
        b"a: b: c",
        b"\xff\xfe\x00binary\x9c",
        b"\x00\x01\x02",
        b"!!python/object/apply:os.getcwd []",
        b"? [a]\n: b\n",
    ],
)
def test_file_that_is_no_config_is_refused_by_name(content, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_pipes_devices_and_locked_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path / "loop"):
        with pytest.raises(UserError, match=r"cannot read the config") as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")
    for path in (tmp_path / ("x" * 300), Path("a\0b")):
        with pytest.raises(UserError, match=r"cannot read the config"):
            load(path)


def test_missing_file_and_folder_are_refused_with_an_example(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(UserError, match="such as quickstart") as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: cannot read")


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("train.lr", "train.optimizer.learning_rate"),
        ("lr", "train.optimizer.learning_rate"),
        ("train.wd", "train.optimizer.weight_decay"),
        ("train.learning_rate", "train.optimizer.learning_rate"),
        ("quer_size", "method.query_size or method.tuner.query_size"),
        ("train.seed", "seed"),
        ("model.width", "model.width_multiplier"),
        ("train.optimizer.momentun", "train.optimizer.momentum"),
        # the nearest first
        ("evaluate.batchsize", "evaluate.batch_size"),
        ("batch_size", "train.batch_size or evaluate.batch_size"),
    ],
)
def test_a_key_in_another_place_or_in_short_is_told_where_it_is(
    override, meant, refused
):
    told = refused("", f"--{override}=1")
    assert told == f"command line: {override}: unknown key, did you mean {meant}?"


def test_a_key_of_a_suite_is_told_where_it_is():
    tree = {"name": "a", "base": "b.yaml", "seeds": [0], "targets": [0.5]}
    variants = {"mine": {"sets": {"seed": 1}}}
    with pytest.raises(UserError) as caught:
        validate_as(SuiteConfig, {**tree, "variants": variants, "grow": 2}, "s.yaml")
    assert str(caught.value).splitlines() == [
        "s.yaml: variants.mine.sets: unknown key, did you mean variants.mine.set?",
        "s.yaml: grow: unknown key, did you mean variants.NAME.tune.grow?",
    ]


def test_what_differs_between_two_trees_is_told_by_dotted_key():
    old = {"a": {"b": 1, "c": [1, 2]}, "d": {}, "same": {"x": 0}}
    new = {"a": {"b": 2, "c": [1, 2]}, "e": "f", "same": {"x": 0}}
    assert [*changed(old, new)] == [
        ("a.b", 1, 2),
        ("d", {}, None),
        ("e", None, "f"),
    ]


# one list of names


def test_configs_can_name_every_score_that_ranks(config_file):
    for name in selectable_scores():
        method = {"kind": "one_shot", "by": name}
        assert validate({"method": method}, "x").method.by == name
    with pytest.raises(UserError, match=r"another end than to choose.*cross_entropy"):
        load(config_file("method: {score: zero_one}"))


@pytest.mark.parametrize("word", ["0x_", "1:30"])
def test_numbers_of_old_yaml_are_words(word, refused):
    assert f"(got '{word}')" in refused(f"seed: '{word}'")
    assert f"(got '{word}')" in refused(f"seed: {word}")


def test_many_mistakes_are_counted(refused):
    message = refused("".join(f"k{i}: 1\n" for i in range(1000)))
    assert len(message.splitlines()) == 51
    assert message.endswith("\nand 950 more mistakes")


def test_a_long_value_is_cut(refused):
    assert len(refused(f"seed: {'x' * 90_000}")) < 200


def test_names_that_look_like_numbers_survive_being_saved(config_file):
    for name in ("1e3", "0o17", "010", "1.5", "0x1f", "null", "true", "08"):
        saved = load(config_file(f"name: '{name}'")).to_yaml()
        assert load(config_file(saved)).name == name
        assert yaml.safe_load(saved)["name"] == name


def test_a_leading_zero_is_no_octal(config_file):
    assert load(config_file("seed: 010")).seed == 10


def test_key_given_twice_is_refused(refused):
    message = refused("train: {batch_size: 8}\ntrain: {batch_size: 9}")
    assert "train is given twice" in message


@pytest.mark.parametrize("key", ["seed", "train.batch_size", "train.label_smoothing"])
def test_true_is_no_number(key, refused):
    assert refused("", f"--{key}=true") == (
        f"command line: {key}: must be a number (got true)"
    )


def test_order_of_an_override_and_its_kind_does_not_matter(config_file):
    overrides = ["--method.passes=3", "--method.kind=rs2"]
    for order in (overrides, overrides[::-1]):
        assert load(config_file(""), order).method.passes == 3
