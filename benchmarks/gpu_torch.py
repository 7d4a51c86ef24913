"""PyTorch beside this project's training, as the suite's piece: images/s and Wh.

The mode "eager" first, which always runs, then `torch.compile` with CUDA graphs; with
`--mode` one alone, as max-autotune, which takes minutes to get ready. The fastest
counts. A mode that took longer than the piece may is not tried again.
"""

import argparse
import importlib.util
import sys
from importlib.metadata import version
from typing import Any

import numpy as np
from gpu_rows import CUT, LEFT_OUT, Row, Rows, arguments, timed

import dpet_jax
from dpet_jax.energy import Accelerator, EnergyMeter
from dpet_jax.models.families import ResNet18
from dpet_jax.models.network import TRAIN_FLOPS_PER_FORWARD
from dpet_jax.models.resnet import ResidualNetwork

#: Images of the training split; of 60,000 on the device, as in a run on CIFAR-10.
TRAIN, TOY_TRAIN = 45_000, 96


def main() -> int:
    options = arguments(("torch",))
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed here")
        return LEFT_OUT
    import torch
    import torch_resnet

    device = torch_resnet.device_facts()
    cuda = device["platform"] == "gpu"
    if not cuda and not options.toy:
        print("PyTorch sees no GPU here")
        return LEFT_OUT
    versions = {name: version(name) for name in ("torch", "numpy")}
    rows = Rows(options, device, versions | {"dpet-jax": dpet_jax.__version__})
    accelerator = Accelerator(
        block=lambda _: None,
        barrier=torch.cuda.synchronize if cuda else lambda: None,
        compile_s=lambda: 0.0,
    )
    with EnergyMeter(accelerator=accelerator) as meter:
        for mode in (options.mode,) if options.mode else torch_resnet.MODES:
            if to_be_tried(mode, rows, 0.0 if options.toy else 20.0):
                try:
                    rows.add(f"train, {mode}", **measured(mode, options, meter))
                except Exception as error:  # the next mode is worth having all the same
                    text = " ".join(f"{type(error).__name__}: {error}".split())[:400]
                    rows.add(f"failed, {mode}", mode=mode, why=text)
                    torch._dynamo.reset()
    return CUT if rows.cut else 0


def to_be_tried(mode: str, rows: Rows, needs_s: float) -> bool:
    """Return whether a mode is to be measured now, and note that it was begun."""
    if f"failed, {mode}" in rows.known or not rows.missing(f"train, {mode}", needs_s):
        return False
    last = rows.known.get("state", {})
    if f"begun, {mode}" in rows.known and last.get("at_its_limit"):
        rows.add(f"failed, {mode}", mode=mode, why="the piece's time was over")
        return False
    rows.add(f"begun, {mode}", mode=mode)
    return True


def measured(mode: str, options: argparse.Namespace, meter: EnergyMeter) -> Row:
    """Return the figures of training epochs in one mode."""
    import torch_resnet

    spec: Any = ResNet18().build(10, (32, 32, 3))
    side, count, peak_side, translate, least_s = 32, TRAIN, 8192, 4, 6.0
    batch = options.batch
    if options.toy:
        spec = ResidualNetwork(8, (8,), (1,), num_classes=10, in_channels=3)
        side, count, peak_side, translate, least_s = 8, TOY_TRAIN, 128, 1, 0.05
        batch = 32
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    labels = rng.integers(0, 10, count)
    with meter.window("compile") as ready:
        trainer = torch_resnet.Trainer(
            spec,
            images,
            labels,
            batch,
            dtype="bfloat16",
            mode=mode,
            translate=translate,
            flip=True,
        )
        trainer.epoch()
    trainer.epoch()  # cuDNN and CUDA graphs have settled by now
    figures = timed(trainer.epoch, count // batch * batch, least_s, meter)
    peak = torch_resnet.matrix_peak(peak_side)
    flops = TRAIN_FLOPS_PER_FORWARD * spec.forward_flops(side, side)
    tflops = figures["images_per_s"]["median"] * flops / 1e12
    return {
        "mode": mode,
        "batch": batch,
        "dtype": "bfloat16",
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        **figures,
        "ready_s": ready.s,
        "ready_wh": ready.energy.wh if ready.energy else None,
        "peak_tflops": peak,
        "tflops": tflops,
        "mfu": tflops / peak,
    }


if __name__ == "__main__":
    sys.exit(main())
