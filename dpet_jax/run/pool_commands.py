"""What `dpet pool` does: add, list, show, rank and remove; each returns its answer."""

from pathlib import Path
from typing import Any

from dpet_jax.config.experiment import Config
from dpet_jax.errors import UserError
from dpet_jax.pretrained.choice import PoolConfig, table_lines
from dpet_jax.pretrained.pool import Card, ModelPool
from dpet_jax.run.folder import CONFIG

Lines = list[str]


def add(pool: ModelPool, source: str, name: str, told: Any) -> Lines:
    """Add the network of a run, or one that another program has written.

    Args:
        pool: Where to.
        source: A run folder, a .safetensors file, a snapshot folder or "hf:" and an id.
        name: That it gets.
        told: What the user says of it, a `Told`.

    Raises:
        UserError: If there is none, or the pool has one of that name.
    """
    if (Path(source) / CONFIG).exists():
        from dpet_jax.run.pretrained import card_to_pool

        beside = told._asdict() | {"licence": None}
        given = [f"--{key}" for key, value in beside.items() if value is not None]
        if given:
            raise UserError(
                f"{given[0]}: {source} is a run, which knows that itself; drop it"
            )
        card, arrays = card_to_pool(Path(source), name, told.licence)
    else:
        from dpet_jax.pretrained.external import read_external

        card, arrays = read_external(source, name, told)
    return listing([pool.add(card, arrays)])


def entries(pool: ModelPool) -> list[Card | UserError]:
    """Return every card, or what is wrong with it."""
    found: list[Card | UserError] = []
    for name in pool.names():
        try:
            found.append(pool.card(name))
        except UserError as error:
            found.append(error)
    return found


def listing(cards: list[Card | UserError] | list[Card]) -> Lines:
    """Return a table of cards; those that are damaged come last, as messages."""
    columns = (
        *("network", "is", "of", "classes", "pixels", "parameters", "MFLOPs"),
        *("J/visit", "accuracy", "epochs", "Wh", "licence"),
    )
    rows = [
        columns,
        *(_row(one) for one in cards if isinstance(one, Card)),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if i in (0, 1, 2, 11) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return lines + [str(one) for one in cards if isinstance(one, UserError)]


def _row(card: Card) -> tuple[str, ...]:
    height, width, channels = card.image_shape
    training = card.training
    return (
        card.name,
        card.label,
        card.task,
        str(card.num_classes),
        f"{height}x{width}x{channels}",
        f"{card.num_parameters:,}",
        f"{card.flops_per_image / 1e6:,.2f}",
        _number(card.joules_per_image, ".3g"),
        _number(card.accuracy, ".3f"),
        _number(training.epochs, ".1f"),
        # of a model's energy a card keeps no interval
        "modelled" if training.quality == "modelled" else _number(training.wh, ".3g"),
        card.licence or "-",
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def show(pool: ModelPool, name: str) -> Lines:
    """Return the whole card of a network, a key a line.

    Raises:
        UserError: If there is no such network, or its file is damaged.
    """
    card, network, arrays = pool.load(name)  # which looks at the arrays too
    plain = card.model_dump(mode="json")
    training = {f"training.{k}": v for k, v in plain.pop("training").items()}
    if card.training.quality == "modelled":
        training["training.wh"] = "of a model, without its interval; not shown"
    names = plain["class_names"]
    if names is not None and len(names) > 12:
        plain["class_names"] = [*names[:12], f"… {len(names)} in all"]
    facts = plain | training | {"size": f"{sum(a.nbytes for a in arrays.values()):,} B"}
    facts["network"] = network.to_json()
    return [f"{key:<20}{_text(value)}" for key, value in facts.items()]


def _text(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def rank(config: Config, pool: ModelPool) -> Lines:
    """Rank the networks of a pool for a config's data; the best first.

    Args:
        config: Its data, model and, if it has one, its pool section are used.
        pool: Instead of the section's.

    Raises:
        UserError: If the pool is empty or damaged, or the data cannot be read.
    """
    from dpet_jax.run import build
    from dpet_jax.run.machine import pinned
    from dpet_jax.run.pretrained import rank as ranked

    section = (config.pool or PoolConfig()).model_copy(update={"path": pool.path})
    pool.names()
    with pinned():
        data = build.build_data(config)
        model = build.build_model(config, data)
        decision = ranked(config, section, data, model)
    return [
        f"{decision['images']:,} training images of {data.name}; {decision['rule']}",
        *table_lines(decision),
    ]


def remove(pool: ModelPool, name: str) -> Lines:
    """Take a network out of a pool, and say what is left.

    Raises:
        UserError: If there is no such network.
    """
    pool.remove(name)
    try:
        left = pool.names()
    except UserError:
        left = []
    return [f"removed {name}; {len(left)} left: {', '.join(left) or 'none'}"]
