"""What do fewer bits of a finished model save, and what do they cost in accuracy?

Each run is exported in every form, read back from the file and asked for the labels of
its test images; forms take turns, so that drift of the machine meets all of them.
Reading a file gives float32 arrays, so that a form changes the bytes that are stored
and sent, and not what a prediction takes: the times show it. Wh come from the energy
meter, and are null where nothing can be measured.

    python benchmarks/bench_export.py RUN [RUN ...] \\
        --out=benchmarks/results/bench_export_cpu.json
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from timing import report, spread

from dpet_jax.config.load import load
from dpet_jax.energy import EnergyMeter, discover
from dpet_jax.run import build as parts
from dpet_jax.run import experiment
from dpet_jax.run.export import export
from dpet_jax.run.folder import CONFIG
from dpet_jax.run.load import load_run

CONFIGS = Path(__file__).parent.parent / "configs"
FORMS = ("f32", "bf16", "int8")
_BATCH = 500


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="*", help="folders of finished runs")
    parser.add_argument("--predictions", type=int, default=10_000, help="of a turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--toy", action="store_true", help="a tiny run of its own")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        runs = [*options.runs, *([toy(Path(name))] if options.toy else [])]
        if not runs:
            parser.error("give the folder of a run, or --toy")
        rows = [row for run in runs for row in measured(run, options, Path(name))]
    report(__doc__.partition("\n")[0], rows, options.out)
    return rows


def toy(folder: Path) -> Path:
    """Train the least network on the digits."""
    keys = ("kind: resnet", "stem: 8", "channels: [8]", "blocks: [1]")
    config = load(
        CONFIGS / "quickstart.yaml",
        [f"--model={{{', '.join(keys)}}}", "--method={kind: standard, passes: 1}"],
    )
    return experiment.run(config, folder).folder


def measured(run: Path, options: argparse.Namespace, folder: Path) -> list[dict]:
    """Measure every form of a run, against float32."""
    config = load(run / CONFIG, [])
    data = parts.build_data(config)
    images, labels = data.images[data.test_rows], data.labels[data.test_rows]
    models, rows = {}, {}
    for form in FORMS:
        written = export(run, form, folder / f"{form}.safetensors", None)
        models[form] = Model(written.path)
        rows[form] = {
            "run": f"{config.name} seed {config.seed}",
            "form": form,
            "bits_in_training": config.train.quantize and config.train.quantize.bits,
            "bytes": written.size,
            "test_accuracy": float(np.mean(models[form].labels(images) == labels)),
        }
    count = options.predictions
    images = np.resize(images, (count, *images.shape[1:]))
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    wh: dict[str, list[float | None]] = {form: [] for form in FORMS}
    with EnergyMeter(discover(jax.local_devices())) as meter:
        for _ in range(options.repeats):
            for form, model in models.items():
                with meter.window("predict", form) as window:
                    began = time.perf_counter()
                    model.labels(images)
                    seconds[form].append(time.perf_counter() - began)
                wh[form].append(window.energy.wh if window.energy else None)
    plain = rows["f32"]
    for form, row in rows.items():
        row["bytes_of_f32"] = row["bytes"] / plain["bytes"]
        row["accuracy_over_f32"] = row["test_accuracy"] - plain["test_accuracy"]
        row["predictions"] = len(images)
        row["seconds"] = spread(seconds[form])
        known = [value for value in wh[form] if value is not None]
        row["wh"] = spread(known) if len(known) == options.repeats else None
    return [*rows.values()]


class Model:
    """An exported model that is ready to predict."""

    def __init__(self, path: Path) -> None:
        self._run = load_run(path)
        self._classify = jax.jit(
            lambda params, images: self._run.apply_fn(params, images).argmax(axis=1)
        )
        height, width, channels = self._run.image_shape
        self.labels(np.zeros((_BATCH, height, width, channels), np.uint8))

    def labels(self, images: np.ndarray) -> np.ndarray:
        """Return the likeliest class of each image."""
        count = len(images)
        padded = np.resize(images, (-(-count // _BATCH) * _BATCH, *images.shape[1:]))
        found = [
            self._classify(self._run.params, padded[start : start + _BATCH])
            for start in range(0, len(padded), _BATCH)
        ]
        return np.concatenate(jax.device_get(found))[:count]


if __name__ == "__main__":
    main()
