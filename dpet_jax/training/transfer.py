"""Explicit transfers between a host and a mesh, of which others may hold a part."""

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec, Sharding


def put(tree: Any, place: Sharding) -> Any:
    """Put arrays onto the devices of a mesh.

    On a mesh of several hosts every one of them must give the same arrays. JAX would
    compare them at each transfer, in a collective of its own; here nobody looks.

    Args:
        tree: Of arrays, on the host or on these devices.
        place: Where each goes.
    """
    if place.is_fully_addressable:
        return jax.device_put(tree, place)
    return jax.tree.map(lambda leaf: _put_part(leaf, place), tree)


def put_own(part: Any, place: Sharding) -> jax.Array:
    """Put onto this process's devices what they have of an array that all share.

    Args:
        part: Their parts behind one another, of the first axis.
        place: Where the parts of all devices go, all of one size.
    """
    own = len(place.addressable_devices)
    size = part.shape[0] // own * place.num_devices
    shape = (size, *part.shape[1:])
    return jax.make_array_from_process_local_data(place, part, shape)


def get(tree: Any) -> Any:
    """Bring arrays to the host, gathered from all hosts that hold a part of them.

    Where there are several hosts all of them must call it alike.
    """
    return jax.device_get(jax.tree.map(_whole, tree))


def alone(array: jax.Array) -> jax.Array:
    """Return the whole of an array on the first device of this process.

    Where there are several hosts all of them must call it alike.
    """
    assert isinstance(array.sharding, NamedSharding)
    whole = jax.device_put(array, NamedSharding(array.sharding.mesh, PartitionSpec()))
    return whole.addressable_data(0)


def _put_part(leaf: Any, place: Sharding) -> jax.Array:
    """Put what this host's devices hold of an array."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.device_put(leaf, place)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put_part(jax.random.key_data(leaf), place))
    whole = jax.device_get(leaf)
    parts = [
        jax.device_put(whole[index], device)
        for device, index in place.addressable_devices_indices_map(whole.shape).items()
    ]
    return jax.make_array_from_single_device_arrays(whole.shape, place, parts)


def _whole(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return leaf
    if leaf.is_fully_replicated:
        return leaf
    assert isinstance(leaf.sharding, NamedSharding)
    return jax.device_put(leaf, NamedSharding(leaf.sharding.mesh, PartitionSpec()))
