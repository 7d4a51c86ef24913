from functools import partial

import jax
import jax.numpy as jnp

from dpet_jax.training.compilation import compile_counts, compiled


@partial(jax.jit, static_argnums=0)
def scaled(factor, x):
    return factor * x


def test_a_program_is_compiled_once_for_its_shapes():
    program, counts = compiled(scaled, 3.0, jnp.arange(5.0))
    assert counts.programs == 1
    assert counts.seconds > 0
    again, nothing = compiled(scaled, 3.0, jnp.zeros(5))
    assert nothing is None
    assert again is program
    assert program.run(jnp.arange(5.0)).tolist() == [0, 3, 6, 9, 12]


def test_another_shape_or_setting_is_another_program():
    first, _ = compiled(scaled, 5.0, jnp.zeros(2))
    assert compiled(scaled, 5.0, jnp.zeros(3))[0] is not first
    assert compiled(scaled, 6.0, jnp.zeros(2))[0] is not first
    assert compiled(scaled, 5.0, jnp.zeros(2, jnp.bfloat16))[0] is not first


def test_compilations_elsewhere_are_counted_too():
    before = compile_counts()
    jax.jit(lambda x: x * 17.25 + 3)(jnp.zeros(7))
    assert compile_counts().since(before).programs >= 1
