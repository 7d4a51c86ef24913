"""Compile the GPU's programs where there is no GPU, and read what XLA made of them.

    pip install jax-cuda13-plugin jax-cuda13-pjrt      # the versions of jax's own
    python benchmarks/gpu_program.py train scores norms --keep=runs/gpu_program

XLA compiles for a described card (an H100 here), autotuning left out, so its choice of
kernels for convolutions is not the card's own; everything before it is. Printed are the
kernels of the loop's body and the bytes that they read and write, an operand counted
whole: what is to be moved, and no time.
"""

import argparse
import math
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpu_summary import table

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 14 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

#: Bytes of a value, by XLA's name of its type.
_BYTES = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4}
_BYTES |= {"u32": 4, "f64": 8, "s64": 8, "u64": 8}
#: Not kernels: names for what is there already.
_FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}


class Kernel(NamedTuple):
    """One operation of a compiled computation.

    Attributes:
        name: XLA's.
        operation: What it is; of a call into a library, the library's function.
        result: Type of what it writes.
        operands: Types of what it reads.
    """

    name: str
    operation: str
    result: str
    operands: tuple[str, ...]

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return sum(map(size, (self.result, *self.operands)))


def size(kind: str) -> int:
    """Return the bytes of a value of some type, such as "(f32[2,3], s32[])"."""
    return sum(
        _BYTES.get(name, 0) * math.prod(int(side) for side in sides.split(",") if side)
        for name, sides in re.findall(r"(\w+)\[([\d,]*)\]", kind)
    )


def kernels_of_loop(text: str) -> list[Kernel]:
    """Return the kernels of the longest body of a loop, in their order.

    Args:
        text: A compiled program, as XLA prints it.
    """
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
            lines = computations.setdefault(head[1], [])
        elif line.startswith("  "):
            lines.append(line)
    bodies = re.findall(r"body=%?([\w.-]+)", text)
    return kernels_of(max((computations[name] for name in bodies), key=len))


def kernels_of(lines: Sequence[str]) -> list[Kernel]:
    """Return the kernels of a computation's lines."""
    types: dict[str, str] = {}
    found = []
    for line in lines:
        parts = re.match(
            r"\s+(?:ROOT )?%([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)(.*)", line
        )
        if parts is None:
            continue
        name, kind, operation, given, rest = parts.groups()
        types[name] = re.sub(r"\{[^}]*\}", "", kind)
        operands = re.findall(r"%([\w.-]+)", given)
        target = re.search(r'custom_call_target="(.*?)"', rest)
        if operation not in _FREE:
            found.append(
                Kernel(
                    name,
                    target[1] if target else operation,
                    types[name],
                    tuple(types.get(operand, "") for operand in operands),
                )
            )
    return found


def described(name: str, compiled: Any, seconds: float) -> dict[str, Any]:
    """Return a line of the table."""
    text = compiled.as_text()
    kernels = kernels_of_loop(text)
    fusions = [kernel for kernel in kernels if "fusion" in kernel.operation]
    return {
        "program": name,
        "kernels": len(kernels),
        "convolutions": sum("__cudnn$conv" in kernel.operation for kernel in kernels),
        "GB": sum(kernel.moved for kernel in kernels) / 1e9,
        "GB outside convolutions": sum(kernel.moved for kernel in fusions) / 1e9,
        "conditionals": text.count(" conditional("),
        "known counts": text.count("known_trip_count"),
        "temporary GB": compiled.memory_analysis().temp_size_in_bytes / 1e9,
        "CPU s of XLA": seconds,
    }


def programs(options: argparse.Namespace) -> dict[str, Any]:
    """Trace what is asked for, for the described card."""
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import NamedSharding, PartitionSpec

    from dpet_jax.config.load import validate
    from dpet_jax.run import build as parts
    from dpet_jax.training import network
    from dpet_jax.training.scoring import (
        ScoreSpec,
        gradient_norms_of_data,
        score_data,
    )
    from dpet_jax.training.state import DeviceData, init_state

    card = topologies.get_topology_desc(
        platform="cuda", target_config=H100, topology="1x1x1"
    )
    mesh = jax.sharding.Mesh(np.array(card.devices), ("data",))
    replicated = NamedSharding(mesh, PartitionSpec())

    def shaped(*tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=replicated
            ),
            tree,
        )

    width = {"width_multiplier": options.width}
    dtype = options.dtype
    config = validate(
        {
            "model": {"kind": "resnet18", "compute_dtype": dtype} | width,
            "train": {
                "batch_size": options.batch,
                "augment": {"translate": 4, "flip": True},
            },
        },
        "gpu program",
    )
    model = config.model.build(10, (32, 32, 3))
    count = 50_000
    data = DeviceData(
        np.broadcast_to(np.uint8(0), (count, 32, 32, 3)),
        np.zeros(count, np.int32),
        np.zeros(3, np.float32),
        np.ones(3, np.float32),
    )
    spec = parts.build_learner_spec(config, model).step
    assert spec.model == model

    def train() -> Any:
        from dataclasses import replace

        step = replace(spec, mesh=mesh)
        state = jax.eval_shape(
            lambda key: init_state(model, step.optimizer, count, key),
            jax.random.key(0),
        )
        rows = np.zeros(count // options.batch * options.batch, np.int32)
        numbers = np.int32(1), np.int32(0)
        weights, hyper = np.ones(count, np.float32), parts.build_hyper(config)
        return network.train_steps.trace(
            step, *shaped(state, data, rows, *numbers, weights, hyper)
        )

    def scored(program: Any, names: tuple[str, ...], batch: int) -> Any:
        score = ScoreSpec(model, names, batch, dtype, mesh)
        variables = jax.eval_shape(model.init, jax.random.key(0))
        rows = np.zeros(-(-count // batch) * batch, np.int32)
        return program.trace(score, *shaped(*variables, data, rows, np.int32(1)))

    asked: dict[str, Any] = {
        "train": train,
        "scores": lambda: scored(score_data, ("margin", "entropy"), 2000),
        "norms": lambda: scored(gradient_norms_of_data, (), 256),
    }
    return {name: asked[name]() for name in options.programs}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("programs", nargs="+", choices=("train", "scores", "norms"))
    parser.add_argument("--batch", type=int, default=512, help="of a training step")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--keep", type=Path, help="folder for the compiled text")
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = os.environ.get("XLA_FLAGS", ""), "--xla_gpu_autotune_level=0"
    os.environ["XLA_FLAGS"] = " ".join(filter(None, flags))
    lines = []
    for name, traced in programs(options).items():
        lowered = traced.lower()
        began = time.process_time()
        compiled = lowered.compile()
        lines.append(described(name, compiled, time.process_time() - began))
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"{name}.hlo").write_text(compiled.as_text())
    print("\n".join(table(lines)))


if __name__ == "__main__":
    main()
