"""Any Flax linen module as a network of this package."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dpet_jax.errors import UserError
from dpet_jax.models.network import ModelSection, Network, Outputs, Params
from dpet_jax.section import import_from, import_path

_COLLECTIONS = {"params", "batch_stats"}


@dataclass(frozen=True)
class FlaxNetwork(Network):
    """A linen module, with whatever parameters and batch normalisation it has.

    The module maps images[b h w c] to logits[b k], or to logits and the features that
    its last layer reads; without them, they are what a last `nn.Dense` reads that gives
    the logits. If its `__call__` takes `train`, that says which mode it runs in;
    dropout draws from the key of the step.

    Attributes:
        section: Of the config that built it; gives its name, and rebuilds it when a
            checkpoint is loaded.
        module: The module, unbound, with hashable fields.
        num_classes: k.
        image_shape: Height, width and channels; may decide shapes of parameters.
    """

    section: ModelSection
    module: nn.Module
    num_classes: int
    image_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Refuse a module that cannot be trained, before anything is.

        Raises:
            UserError: If it is not hashable, keeps other collections than parameters
                and batch statistics, or gives something else than logits.
        """
        name = type(self.module).__name__
        try:
            hash((self.section, self.module))
        except TypeError as error:
            raise UserError(
                f"model {self.label}: {name} is a static argument of compiled programs "
                "and must be hashable; make its fields numbers, texts and tuples"
            ) from error
        variables = jax.eval_shape(self._variables, jax.random.key(0))
        others = sorted(variables.keys() - _COLLECTIONS)
        if others:
            raise UserError(
                f"model {self.label}: {name} keeps {', '.join(others)}; only params "
                "and batch_stats are carried from step to step"
            )
        params, stats = _parts(variables)
        images = jax.ShapeDtypeStruct((3, *self.image_shape), jnp.float32)
        logits = jax.eval_shape(self.apply, params, stats, images).logits
        if logits.shape != (3, self.num_classes):
            raise UserError(
                f"model {self.label}: {name} maps 3 images to an array of shape "
                f"{logits.shape}; give logits of shape {(3, self.num_classes)}, one "
                "for each class"
            )

    @property
    def label(self) -> str:
        """Name of the section's class."""
        return self.section.label

    @property
    def in_channels(self) -> int:  # type: ignore[override]
        """Channels of the images."""
        return self.image_shape[2]

    def init(self, key: Key[Array, ""]) -> tuple[Params, Params]:
        """Draw parameters by the module's own initialisers; see `Network.init`."""
        return _parts(self._variables(key))

    def apply(
        self,
        params: Params,
        stats: Params,
        images: Float[Array, "b h w c"],
        *,
        dtype: str = "float32",
    ) -> Outputs:
        """Run the module in evaluation mode, on inputs and parameters cast to `dtype`.

        Running statistics stay float32, as do the logits and features returned.
        """
        variables = self._cast(params, stats, dtype)
        with _as_flax_expects():
            outputs, seen = _run(
                self.module, variables, images.astype(dtype), **self._mode(False)
            )
        return _outputs(outputs, seen)

    def apply_train(
        self,
        key: Key[Array, ""],
        params: Params,
        stats: Params,
        images: Float[Array, "b h w c"],
        *,
        dtype: str = "float32",
    ) -> tuple[Outputs, Params]:
        """Run the module in training mode; see `Network.apply_train`."""
        variables = self._cast(params, stats, dtype)
        with _as_flax_expects():
            (outputs, updates), seen = _run(
                self.module,
                variables,
                images.astype(dtype),
                mutable=["batch_stats"],
                rngs={"dropout": key},
                **self._mode(True),
            )
        return _outputs(outputs, seen), updates.get("batch_stats", {})

    def to_json(self) -> dict[str, Any]:
        """Return the section's keys; see `Network.to_json`."""
        return {
            "network": import_path(FlaxNetwork),
            "section": import_path(type(self.section)),
            "keys": self.section.model_dump(mode="json"),
            "num_classes": self.num_classes,
            "image_shape": list(self.image_shape),
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Any:
        """Build the network anew from its section's keys."""
        section = import_from(plain["section"]).model_validate(plain["keys"])
        return section.build(plain["num_classes"], tuple(plain["image_shape"]))

    def _variables(self, key):
        images = jnp.zeros((1, *self.image_shape), jnp.float32)
        with _as_flax_expects():
            return self.module.init(key, images, **self._mode(False))

    def _mode(self, train: bool) -> dict[str, Any]:
        takes = inspect.signature(type(self.module).__call__).parameters
        return {"train": train} if "train" in takes else {}

    @staticmethod
    def _cast(params, stats, dtype):
        def cast(leaf):
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            return leaf.astype(dtype) if floating else leaf

        return {"params": jax.tree.map(cast, params), "batch_stats": stats}


def _parts(variables):
    return variables.get("params", {}), variables.get("batch_stats", {})


def _run(module, variables, images, **options):
    """Apply a module; also return what every dense layer read and gave."""
    seen = []

    def watch(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
            seen.append((args[0], result))
        return result

    with nn.intercept_methods(watch):
        return module.apply(variables, images, **options), seen


def _outputs(outputs, seen):
    if isinstance(outputs, tuple):
        logits, features = outputs
    else:
        logits = outputs
        features = next((read for read, gave in seen if gave is logits), None)
    wide = None if features is None else features.astype(jnp.float32)
    return Outputs(logits.astype(jnp.float32), wide)


@contextmanager
def _as_flax_expects() -> Iterator[None]:
    """Let linen's layers mix dtypes and ranks, as they do by JAX's defaults."""
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield
