"""What training and scoring ask of any network, and the config section that builds it.

Nothing here imports JAX, so that reading a config does not wait for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

from jaxtyping import Float, Float32, Key
from pydantic import Field

from dpet_jax.section import Kind, import_from, import_path

#: Backward costs twice the forward pass: a product for inputs, one for weights.
TRAIN_FLOPS_PER_FORWARD = 3

Params = Any  # a nested dict of arrays


class Outputs(NamedTuple):
    """What one forward pass gives.

    Attributes:
        logits: Unnormalised log-probabilities, float32 whatever the compute dtype.
        features: What the last layer reads, float32; None if the network does not say.
    """

    logits: Float32[Any, "b k"]
    features: Float32[Any, "b d"] | None


class ChannelGroup(NamedTuple):
    """Channels that can be cut out of a network without another layer's noticing.

    A batch normalisation scales each of them, a ReLU follows, and one layer reads them:
    where scale and bias of a channel are 0, leaving it out changes nothing.

    Attributes:
        name: Of the group.
        size: Its channels.
        scale: Path of the scales in the parameters, float32[size].
        bias: Path of the biases.
        axes: For each layer whose arrays have the channels, by its path, the axis that
            they lie on.
    """

    name: str
    size: int
    scale: tuple[str, ...]
    bias: tuple[str, ...]
    axes: Mapping[tuple[str, ...], int]


class Network(ABC):
    """A network of any family: its shape and how to run it, without its parameters.

    A frozen dataclass, hashable, because it is a static argument of every compiled
    program: equal networks share a program. Parameters and running statistics are trees
    of float32 arrays that callers keep.

    Attributes:
        num_classes: Outputs of the last layer.
        in_channels: Channels of the images.
    """

    num_classes: int
    in_channels: int

    @property
    @abstractmethod
    def label(self) -> str:
        """What people call it, such as "ResNet-18"."""

    @abstractmethod
    def init(self, key: Key[Any, ""]) -> tuple[Params, Params]:
        """Draw parameters, and return them with fresh running statistics.

        Args:
            key: Random key; equal keys give equal parameters.

        Returns:
            Parameters and running statistics, float32 trees; the second is an empty
            dict where a network has none.
        """

    @abstractmethod
    def apply(
        self,
        params: Params,
        stats: Params,
        images: Float[Any, "b h w c"],
        *,
        dtype: str = "float32",
    ) -> Outputs:
        """Run the network in evaluation mode, with its running statistics.

        Args:
            params: Parameters of `init`.
            stats: Running statistics.
            images: A batch, normalised.
            dtype: Name of the dtype to compute in.

        Returns:
            Logits and features.
        """

    @abstractmethod
    def apply_train(
        self,
        key: Key[Any, ""],
        params: Params,
        stats: Params,
        images: Float[Any, "b h w c"],
        *,
        dtype: str = "float32",
    ) -> tuple[Outputs, Params]:
        """Run the network in training mode; also return the new running statistics.

        Args:
            key: Random key of this step, for networks that drop units.
            params: As for `apply`.
            stats: As for `apply`.
            images: As for `apply`.
            dtype: As for `apply`.
        """

    @property
    def head(self) -> str | None:
        """Name of the last layer's parameters, a dense one that reads the features.

        They are a dict of a kernel [d k] and a bias [k] at the top of the parameters;
        everything else does not depend on the number of classes. None if the network
        does not say, and then it cannot be taken to other classes.
        """
        return None

    def with_classes(self, num_classes: int) -> "Network":
        """Return the same network for another number of classes.

        Raises:
            ValueError: If it does not say which of its parameters depend on that.
        """
        del num_classes
        raise ValueError(
            f"{self.label} does not say which parameters are its last layer's; give "
            f"{type(self).__name__} `head` and `with_classes`"
        )

    def shapes(self) -> dict[str, Any]:
        """Return what has the shape and type of each array, by its flat name.

        Names begin with "params/" and "batch_stats/"; see `weights.flatten`.
        """
        from dpet_jax.models.weights import flatten

        params, stats = self.abstract()
        return flatten({"params": params, "batch_stats": stats})

    def abstract(self) -> tuple[Params, Params]:
        """Return what `init` would, with a shape and a type for each array.

        Nothing is drawn, and `init` is traced once for equal networks.
        """
        import jax

        return _abstract(self, x64=jax.config.values["jax_enable_x64"])

    def apply_in_primitives(
        self,
        params: Params,
        stats: Params,
        images: Float[Any, "b h w c"],
        *,
        dtype: str = "float32",
    ) -> Outputs:
        """Run `apply` in JAX's own primitives, for those who read its jaxpr."""
        return self.apply(params, stats, images, dtype=dtype)

    def fold(self, params: Params, stats: Params) -> Any:
        """Prepare parameters for `apply_folded`, once for many batches."""
        return params, stats

    def apply_folded(
        self, folded: Any, images: Float[Any, "b h w c"], *, dtype: str = "float32"
    ) -> Outputs:
        """Run `apply`, but for rounding, in the form that scores fastest.

        Args:
            folded: From `fold`.
            images: As for `apply`.
            dtype: As for `apply`.
        """
        return self.apply(*folded, images, dtype=dtype)

    def bind(self, stats: Params) -> "Bound":
        """Return `apply_fn(params, images)`, in evaluation mode, for any kernel."""
        return Bound(self, stats)

    def forward_flops(self, height: int, width: int) -> int:
        """Count the floating-point operations of one example's forward pass.

        Two for each multiply-add of convolutions and matrix products, padding included;
        normalisation, activations and sums are left out (under 1 %), as is usual.
        ResNet-18 at 32x32 needs 1.111e9.
        """
        return _flops(self, height, width).forward

    def backward_flops(self, height: int, width: int) -> int:
        """Count those of one example's backward pass to the inputs of every layer.

        Gradients of parameters are not among them, nor those of the images.
        """
        return _flops(self, height, width).to_inputs

    @property
    def channel_groups(self) -> tuple[ChannelGroup, ...]:
        """Channels that can be cut out, from the first layer to the last."""
        return ()

    def with_channels(self, widths: tuple[int, ...]) -> "Network":
        """Return a network whose `channel_groups` have other sizes, one for each."""
        raise ValueError(f"{self.label} has no channels that can be cut out: {widths}")

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `network_from_json` turns into an equal network."""
        return {_PATH: import_path(type(self))} | asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Network":
        """Rebuild a network from what `to_json` gave beside the import path."""
        return cls(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in plain.items()
            }
        )


@dataclass(frozen=True, eq=False)
class Bound:
    """A network in evaluation mode as the `apply_fn(params, images)` of every kernel.

    Attributes:
        network: The network.
        stats: Running statistics, closed over.
        in_own_primitives: Whether it runs in JAX's own primitives.
    """

    network: Network
    stats: Params
    in_own_primitives: bool = False

    def __call__(
        self, params: Params, images: Float[Any, "b h w c"]
    ) -> Float32[Any, "b k"]:
        """Return the logits."""
        network = self.network
        run = network.apply_in_primitives if self.in_own_primitives else network.apply
        return run(params, self.stats, images).logits

    @property
    def in_primitives(self) -> "Bound":
        """The same function in JAX's own primitives, for those who read its jaxpr."""
        return replace(self, in_own_primitives=True)


class ModelSection(Kind):
    """The network: the keys that shape it, and how it is built from them.

    A model of your own is a subclass with keys and `build`; a config names it by its
    import path, `model: {kind: my_package.my_module:MyModel}`.

    Attributes:
        compute_dtype: What the network computes in. Products of float32 are as exact as
            `jax_default_matmul_precision` says; by default a GPU rounds their operands
            to TF32.
        scales: The sizes that a planner chooses from, ascending; none for a network
            that is no family.
    """

    scales: ClassVar[tuple[float, ...]] = ()

    compute_dtype: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description="auto: the fastest one here whose first step points as float32's",
    )

    @abstractmethod
    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> Network:
        """Shape the network for a data set.

        Args:
            num_classes: k.
            image_shape: Height, width and channels.
        """

    def narrower(self, network: Network, share: float) -> Network:
        """Return a network with a share of another's width, to score in its place.

        Args:
            network: One that this section built.
            share: Of its width, in (0, 1].

        Raises:
            ValueError: If there is none; says why and what to do.
        """
        del share
        raise ValueError(
            f"cannot make {network.label} narrower; give {type(self).__name__} a "
            "method narrower(self, network, share)"
        )

    def scaled(self, scale: float) -> "ModelSection":
        """Return the section of one of the family's sizes, other keys as they are.

        Args:
            scale: One of `scales`.

        Raises:
            ValueError: If the network is no family.
        """
        del scale
        raise ValueError(
            f"{self.label} has one size; give {type(self).__name__} `scales` and a "
            "method scaled(self, scale)"
        )

    def describe(self, network: Network) -> str:
        """Return what a headline says about a network that this section built."""
        return network.label


_PATH = "network"

#: The family of checkpoints that were saved before there was any other.
_FIRST_FAMILY = "dpet_jax.models.resnet:ResidualNetwork"


def network_from_json(plain: dict[str, Any]) -> Network:
    """Rebuild a network from what its `to_json` gave.

    Raises:
        ValueError: If its class cannot be imported.
    """
    keys = dict(plain)
    path = keys.pop(_PATH, _FIRST_FAMILY)
    family = import_from(path)
    if not (isinstance(family, type) and issubclass(family, Network)):
        raise ValueError(f"{path!r} is no class that extends {import_path(Network)}")
    return family.from_json(keys)


@cache
def _abstract(network: Network, *, x64: bool) -> tuple[Params, Params]:
    import jax

    del x64  # which decides about the types that a network of one's own leaves open
    return jax.eval_shape(network.init, jax.random.key(0))


@cache
def _flops(network: Network, height: int, width: int) -> Any:
    from dpet_jax.models.flops import count_flops

    return count_flops(network, height, width)
