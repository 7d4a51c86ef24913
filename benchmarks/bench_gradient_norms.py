"""What does the exact gradient norm of every example cost, and is it exact?

The one backward pass of `gradient_norms` beside the gradient of each example formed by
`vmap(grad)` (with this project's convolutions, and as anybody would write it: XLA's own
convolutions, outside any loop, where XLA:CPU runs them best), the Jacobian of a batch's
losses (`jacrev`, a full backward pass an example, so on a smaller batch), and the
last-layer form, which is another quantity: its rank correlation is given. The network
is trained for some steps first, on digits enlarged to the side asked for.

The differences are against `vmap(grad)` with this project's convolutions. A value that
rounding alone puts on the other side of a ReLU's kink changes an example's gradient by
1e-5 to 1e-3, so two programs that add up in another order may differ by that much in a
few examples; the median says what rounding does to the others.

    python benchmarks/bench_gradient_norms.py \\
        --out=benchmarks/results/bench_gradient_norms_cpu.json
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import interleaved, network, ratios, report, spread

from dpet_jax.config.load import validate
from dpet_jax.data.augment import normalise
from dpet_jax.data.sources import digits
from dpet_jax.models.network import Network
from dpet_jax.run import build as parts
from dpet_jax.scores import cross_entropy, gradient_norms, grand_last_layer
from dpet_jax.training.learner import data_mesh
from dpet_jax.training.state import DeviceData, StepSpec, init_state
from dpet_jax.training.steps import train_steps
from dpet_jax.training.traced import without_numbers


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shapes", nargs="+", default=["1.0x32", "0.25x64"], help="width x batch"
    )
    parser.add_argument("--depth", type=float, default=1.0, help="0.5 is ResNet-10")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--jacrev-batch", type=int, default=8, help="0 leaves it out")
    parser.add_argument("--steps", type=int, default=20, help="of training before")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--toy", action="store_true", help="the smallest network")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    for shape in options.shapes:
        width, batch = shape.split("x")
        rows += measure(float(width), int(batch), options)
    report(__doc__.partition("\n")[0], rows, options.out)
    return rows


def measure(width: float, batch: int, options: argparse.Namespace) -> list[dict]:
    spec = network(options, width)
    data = enlarged_digits(options.side)
    params, stats = trained(spec, data, options.steps)
    images = normalise(data.images[:batch], data.mean, data.std)
    labels = data.labels[:batch]
    forms = gradient_forms(spec, stats, batch, options.jacrev_batch)
    programs, values = {}, {}
    for name, (form, count) in forms.items():
        arguments = (params, images[:count], labels[:count])
        programs[name] = jax.jit(form).lower(*arguments).compile()
        values[name] = np.asarray(programs[name](*arguments), np.float64)

    def call(name):
        count = forms[name][1]
        return programs[name](params, images[:count], labels[:count])

    seconds = interleaved(
        {name: partial(call, name) for name in forms}, options.repeats
    )
    rows = []
    for name, (_, count) in forms.items():
        memory = programs[name].memory_analysis()
        row: dict[str, Any] = {
            "width": width,
            "depth": spec.depth,
            "batch": count,
            "side": options.side,
            "form": name,
            "examples_per_s": spread([count / s for s in seconds[name]]),
            "temporary_mib": memory.temp_size_in_bytes / 2**20,
            **compared(name, values[name], values["vmap_grad"][:count]),
        }
        if name != "one_pass":
            a_batch = [s * batch / count for s in seconds[name]]
            row["one_pass_over_this"] = ratios(a_batch, seconds["one_pass"])
        rows.append(row)
    return rows


def gradient_forms(spec: Network, stats: Any, batch: int, jacrev_batch: int) -> dict:
    """Return each form with the examples that it is given."""
    ours = spec.bind(stats)

    def norms(apply_fn, method):
        def run(params, images, labels):
            return gradient_norms(
                apply_fn, params, images, labels, method=method, batch_size=batch
            )

        return run

    def jacrev(params, images, labels):
        def losses(params):
            return jax.vmap(cross_entropy)(ours(params, images), labels)

        return lengths(jax.jacrev(losses)(params))

    def last_layer(params, images, labels):
        logits, features = spec.apply(params, stats, images)
        return jax.vmap(grand_last_layer)(logits, labels, features)

    def native(params, images, labels):
        def loss(params, image, label):
            return cross_entropy(ours.in_primitives(params, image[None])[0], label)

        gradients = jax.vmap(jax.grad(loss), (None, 0, 0))(params, images, labels)
        return lengths(gradients)

    forms = {
        "one_pass": (norms(ours, "one_pass"), batch),
        "vmap_grad": (norms(ours, "vmap"), batch),
        "vmap_grad_native": (native, batch),
        "last_layer": (last_layer, batch),
    }
    if jacrev_batch:
        forms["jacrev"] = (jacrev, min(jacrev_batch, batch))
    return forms


def lengths(gradients: Any) -> jax.Array:
    """Return the length of each example's gradient, formed for all of them."""
    squares = [
        jnp.sum(jnp.square(leaf).reshape(leaf.shape[0], -1), axis=1)
        for leaf in jax.tree.leaves(gradients)
    ]
    return jnp.sqrt(sum(squares))


def compared(name: str, values: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Compare with the norms of formed gradients; the last layer's only by rank."""
    assert np.all(np.isfinite(exact) & (exact > 0)), f"the network is no use: {exact}"
    if name != "last_layer":
        differences = np.abs(values / exact - 1)
        return {
            "largest_relative_difference": float(differences.max()),
            "median_relative_difference": float(np.median(differences)),
        }
    ranks = [np.argsort(np.argsort(norms)) for norms in (values, exact)]
    return {"rank_correlation": float(np.corrcoef(*ranks)[0, 1])}


def enlarged_digits(side: int) -> DeviceData:
    """Repeat the pixels of scikit-learn's digits, in three equal channels."""
    source = digits.read()
    images, labels = source.train.images, source.train.labels
    times = side // images.shape[1]
    images = np.repeat(images.repeat(times, axis=1).repeat(times, axis=2), 3, axis=3)
    pixels = images.astype(np.float32).reshape(-1, 3) / 255
    return jax.device_put(
        DeviceData(
            images,
            labels,
            pixels.mean(0),
            pixels.std(0),
        )
    )


def trained(spec, data: DeviceData, steps: int):
    """Train for some steps, for running statistics as a network in use has them."""
    optimizer = {"learning_rate": 0.01}
    schedule = {"kind": "constant"}
    train = {"optimizer": optimizer, "schedule": schedule}
    config = validate({"train": train}, "bench")
    hyper = jax.device_put(parts.build_hyper(config))
    static = without_numbers(config.train.optimizer)
    step = StepSpec(spec, static, 64, "float32", data_mesh())
    state = jax.jit(init_state, static_argnums=(0, 1, 2))(
        spec, static, data.labels.size, jax.random.key(0)
    )
    rows = jnp.arange(64 * max(steps, 1), dtype=jnp.int32) % data.labels.size
    state, _ = train_steps(
        step,
        state,
        data,
        rows,
        jnp.int32(steps),
        jnp.int32(0),
        jnp.ones(data.labels.size),
        hyper,
    )
    return state.params, state.batch_stats


if __name__ == "__main__":
    main()
