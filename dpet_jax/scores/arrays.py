"""Axis letters and array types that every module uses.

`n` examples in the data set, `m` of them in an index set, `b` in a batch, `k` classes,
`h w c` image height, width and channels, `d` features.
"""

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Array, Float, Float32, Int32

Logits: TypeAlias = Float[Array, " k"]
Label: TypeAlias = Int32[Array, ""]
Features: TypeAlias = Float[Array, " d"]
Score: TypeAlias = Float32[Array, ""]
Scores: TypeAlias = Float32[Array, " n"]

ScoreFn: TypeAlias = Callable[[Logits, Label], Score]
FeatureScoreFn: TypeAlias = Callable[[Logits, Label, Features], Score]
