"""Likely label errors and duplicates of a run's data, from what training gave away.

An example whose label is wrong stays hard to fit while those around it are learnt. What
the training step computes anyway says so; nothing is trained or scored for it.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dpet_jax.data.rows import Rows
from dpet_jax.errors import UserError
from dpet_jax.files import read_npz, read_yaml
from dpet_jax.run.folder import (
    CONFIG,
    EVENTS,
    LABEL_NOISE,
    LOSSES,
    read_events,
    reading,
)

#: What examples are ranked by, best first: the array of `LOSSES` and its name.
RANKINGS = {
    "mean_margin": "margin of the label, mean over the run",
    "mean_loss": "loss, mean over the run",
    "loss": "last loss",
}

#: Side of the thumbnails by which near duplicates are found.
_SIDE = 8
#: Rows of a block, and the most pairs of an image, on average.
_BLOCK, _MOST_PAIRS = 512, 20
#: An image that varies less has no shape to compare, in grey levels.
_FLAT = 1.0


class Ranked(NamedTuple):
    """Training examples, the likeliest label error first.

    Attributes:
        positions: int32[m], in the training split.
        rows: int64[m], in the source.
        labels: int32[m], as given.
        scores: float32[m]; larger is more suspicious.
        by: What they are ranked by, for people.
    """

    positions: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    by: str


class Duplicates(NamedTuple):
    """Images that are the same, or nearly so.

    Attributes:
        positions: int32[m], positions in the data, all splits.
        likeness: 1 where all pixels are equal, else the least cosine of a pair.
    """

    positions: np.ndarray
    likeness: float


class Suspects(NamedTuple):
    """What is suspicious about the data of a run.

    Attributes:
        folder: The run's.
        ranked: The likeliest label errors.
        num_ranked: Training examples that could be ranked.
        predicted: int32[m], what the run's model says of each of them.
        images: uint8[m h w c], of each of them.
        class_names: One name a class.
        duplicates: Groups; those of different labels first.
        data: All images, labels and source rows, by `Duplicates.positions`.
        flipped: bool[m], which of the ranked have a label that `data.label_noise` has
            changed; None where it has changed none.
        num_flipped: How many it has changed.
        near: Least cosine of near duplicates; None where none were looked for.
    """

    folder: Path
    ranked: Ranked
    num_ranked: int
    predicted: np.ndarray
    images: np.ndarray
    class_names: tuple[str, ...]
    duplicates: tuple[Duplicates, ...]
    data: Any
    flipped: np.ndarray | None
    num_flipped: int
    near: float | None

    @property
    def precision(self) -> float | None:
        """Share of the ranked whose label is known to be wrong; None if unknown."""
        return None if self.flipped is None else float(self.flipped.mean())

    def split_of(self, position: int) -> str:
        """Return the name of the split in which a position lies."""
        if position < self.data.num_train:
            return "train"
        later = position - self.data.num_train
        return "validation" if later < self.data.num_validation else "test"


def rank_labels(losses: dict[str, np.ndarray], share: float) -> tuple[Ranked, int]:
    """Rank training examples by how likely their label is wrong.

    By the mean of 1 - (p_y - max p_j) over the course of the run where the method has
    asked for margins, else by the mean loss, else by the last loss. An example that
    was never trained on is not ranked.

    Args:
        losses: What `LOSSES` holds.
        share: Of the examples that can be ranked, to return; in (0, 1].

    Returns:
        At least one example, and how many could be ranked.

    Raises:
        UserError: If none can be.

    Source:
        Pleiss et al. (2020), "Identifying Mislabeled Data using the Area Under the
        Margin Ranking", whose margins are of logits; Huang et al. (2019), "O2U-Net: A
        Simple Noisy Label Detection Approach for Deep Neural Networks", by the mean
        loss.
    """
    for name, by in RANKINGS.items():
        scores = losses.get(name)
        if scores is None or not np.isfinite(scores).any():
            continue
        known = np.flatnonzero(np.isfinite(scores))
        best = known[np.argsort(-scores[known], kind="stable")]
        best = best[: max(1, round(share * known.size))].astype(np.int32)
        rows, labels = losses["source_rows"][best], losses["labels"][best]
        return Ranked(best, rows, labels, scores[best], by), known.size
    raise UserError("training gave no finite loss away; it has diverged")


def exact_duplicates(images: np.ndarray | Rows) -> list[np.ndarray]:
    """Return the groups of images that are equal in every pixel, each ascending."""
    groups: dict[bytes, list[int]] = {}
    for position, image in enumerate(images):
        pixels = np.ascontiguousarray(image).data
        digest = hashlib.blake2b(pixels, digest_size=16).digest()
        groups.setdefault(digest, []).append(position)
    return [np.array(each, np.int32) for each in groups.values() if len(each) > 1]


def near_duplicates(images: np.ndarray, least: float) -> list[Duplicates]:
    """Return groups of images whose thumbnails point the same way.

    Thumbnails are means over areas, less their own mean, of length 1: neither
    brightness nor contrast counts. Pairs of at least that cosine are joined, so two
    images of a group may be less alike, and `likeness` is the least of the pairs that
    joined them. Images without any shape are left out. It takes n^2 products of
    thumbnails.

    Args:
        images: uint8[n h w c], or of any number type.
        least: Least cosine, in (0, 1].

    Raises:
        UserError: If so small a cosine finds pairs everywhere.
    """
    small = _thumbnails(images)
    lengths = np.linalg.norm(small, axis=1)
    shaped = np.flatnonzero(lengths > _FLAT * small.shape[1] ** 0.5)
    small = small[shaped] / lengths[shaped, None]
    found, left, right, cosines = 0, [], [], []
    for start in range(0, len(small), _BLOCK):
        products = small[start : start + _BLOCK] @ small[start:].T
        here, there = np.nonzero(np.triu(products >= least, 1))
        found += here.size
        if found > _MOST_PAIRS * len(images):
            raise UserError(
                f"--near: {least:g} finds more than {_MOST_PAIRS} pairs an image, "
                "which says nothing; give a cosine nearer to 1"
            )
        left.append(here + start)
        right.append(there + start)
        cosines.append(products[here, there])
    pairs = np.stack([np.concatenate(left), np.concatenate(right)])
    return _joined(pairs, np.concatenate(cosines), shaped)


def _joined(
    pairs: np.ndarray, cosines: np.ndarray, shaped: np.ndarray
) -> list[Duplicates]:
    """Return the connected groups of pairs."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = shaped.size
    graph = coo_array((np.ones(cosines.size, np.int8), pairs), shape=(size, size))
    _, of = connected_components(graph, directed=False)
    least: dict[int, float] = {}
    for group, cosine in zip(of[pairs[0]].tolist(), cosines.tolist(), strict=True):
        least[group] = min(least.get(group, 1.0), cosine)
    members: dict[int, list[int]] = {group: [] for group in least}
    for place, group in enumerate(of.tolist()):
        if group in members:
            members[group].append(place)
    return [
        Duplicates(shaped[places].astype(np.int32), least[group])
        for group, places in members.items()
    ]


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Return float32[n, d]: means over areas, less the mean of each image."""
    n, height, width, channels = images.shape
    rows, columns = min(_SIDE, height), min(_SIDE, width)
    tops = np.arange(rows) * height // rows
    lefts = np.arange(columns) * width // columns
    areas = np.outer(np.diff([*tops, height]), np.diff([*lefts, width]))
    small = np.empty((n, rows * columns * channels), np.float32)
    for start in range(0, n, _BLOCK):
        block = images[start : start + _BLOCK].astype(np.float32)
        sums = np.add.reduceat(np.add.reduceat(block, tops, axis=1), lefts, axis=2)
        small[start : start + _BLOCK] = (sums / areas[None, :, :, None]).reshape(
            len(block), -1
        )
    return small - small.mean(axis=1, keepdims=True)


def find_suspects(
    folder: Path, *, share: float = 0.1, near: float | None = None
) -> Suspects:
    """Look for label errors and duplicates in the data of a finished run.

    The data are read again, as the run's config says. The run's model looks at the
    examples that are listed, to say what it takes them for, and at no others.

    Args:
        folder: The run's.
        share: Of the training examples, to list.
        near: Least cosine of near duplicates; None looks for exact ones alone.

    Raises:
        UserError: If the folder holds no finished run, an argument is out of range, or
            the data are not those of the run any more.
    """
    if not 0 < share <= 1:
        raise UserError(f"--share: {share:g} is no share above 0 and at most 1")
    if near is not None and not 0 < near <= 1:
        raise UserError(f"--near: {near:g} is no cosine above 0 and at most 1")
    path = folder / LOSSES
    if not path.exists():
        begun = (folder / EVENTS).exists()
        raise UserError(
            f"{folder}: has no {LOSSES}, which "
            + (
                "a run writes at its end; let it run on, or run it anew if it is of an "
                "earlier version"
                if begun
                else "finished runs have; give a run folder, such as "
                "runs/quickstart/seed0"
            )
        )
    losses = read_npz(path)
    with reading(folder):
        ranked, num_ranked = rank_labels(losses, share)
        data = _data_of(folder)
        flipped, num_flipped = _flipped(folder, ranked.rows)
    from dpet_jax.run.load import load_run
    from dpet_jax.run.machine import pinned
    from dpet_jax.run.predict import probabilities

    images = data.images.take(ranked.positions, axis=0)
    with pinned():
        predicted = probabilities(load_run(folder), images).argmax(axis=1)
    exact = [Duplicates(group, 1.0) for group in exact_duplicates(data.images)]
    groups = exact if near is None else _with_near(exact, np.asarray(data.images), near)
    return Suspects(
        folder,
        ranked,
        num_ranked,
        predicted.astype(np.int32),
        images,
        data.class_names,
        tuple(sorted(groups, key=lambda one: _of_one_label(one, data.labels))),
        data,
        flipped,
        num_flipped,
        near,
    )


def _with_near(
    exact: list[Duplicates], images: np.ndarray, least: float
) -> list[Duplicates]:
    """Return exact groups, and those of near duplicates that say more than they."""
    known = {frozenset(group.positions.tolist()) for group in exact}
    near = near_duplicates(images, least)
    return exact + [
        one for one in near if frozenset(one.positions.tolist()) not in known
    ]


def _of_one_label(group: Duplicates, labels: np.ndarray) -> bool:
    return bool((labels[group.positions] == labels[group.positions[0]]).all())


def _data_of(folder: Path) -> Any:
    """Read the run's data again, and make sure that they are the same."""
    from dpet_jax.config.load import validate
    from dpet_jax.data.dataset import content_hash
    from dpet_jax.run.build import build_data

    config = validate(read_yaml(folder / CONFIG), str(folder / CONFIG))
    starts = [e for e in read_events(folder / EVENTS) if e["event"] == "start"]
    data = build_data(config)
    if not starts or starts[-1].get("content") != content_hash(data):
        raise UserError(
            f"{folder}: its data are not those that {CONFIG} leads to now; put them "
            "back as they were (a data set that was given in Python cannot be found "
            "again)"
        )
    return data


def _flipped(folder: Path, rows: np.ndarray) -> tuple[np.ndarray | None, int]:
    path = folder / LABEL_NOISE
    if not path.exists():
        return None, 0
    wrong = read_npz(path)["source_rows"]
    return np.isin(rows, wrong), wrong.size
