"""Per-example gradient norms in one backward pass."""
