"""Which network of a family to train for how long, for a budget; without JAX."""
