"""A meter's joules by source, for Prometheus to scrape."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dpet_jax.energy.accounts.state import Accounts
from dpet_jax.energy.meter import EnergyMeter
from dpet_jax.errors import UserError

_LAST_PORT = 2**16 - 1


class MeterCollector:
    """What Prometheus asks of a meter: joules of every source, and seconds.

    Args:
        meter: Running or stopped; nothing is read anew for a scrape.
    """

    def __init__(self, meter: EnergyMeter) -> None:
        self._meter = meter

    def collect(self) -> Iterator[Any]:
        """Yield the counters of one scrape."""
        from prometheus_client.core import CounterMetricFamily

        accounts = self._meter.accounts()
        joules = CounterMetricFamily(
            "dpet_energy_joules",
            "Energy used since the meter began, by source.",
            labels=["source", "component", "quality", "method", "counted"],
        )
        for name, channel in accounts.channels.items():
            labels = (
                *(name, channel.component, channel.quality, channel.source.method),
                str(channel.counted).lower(),
            )
            joules.add_metric(labels, channel.totals.energy_j)
        yield joules
        yield from self._assumed(accounts)
        seconds = CounterMetricFamily(
            "dpet_measured_seconds", "Seconds since the meter began."
        )
        seconds.add_metric((), accounts.total_s)
        yield seconds

    def _assumed(self, accounts: Accounts) -> Iterator[Any]:
        """Yield the ends of the intervals of models, where there are models."""
        from prometheus_client.core import CounterMetricFamily

        models = {n: c for n, c in accounts.channels.items() if c.quality == "modelled"}
        for end in ("low", "high"):
            if models:
                family = CounterMetricFamily(
                    f"dpet_modelled_{end}_joules",
                    f"The {end} end of a model's energy, by source.",
                    labels=["source"],
                )
                for name, channel in models.items():
                    family.add_metric((name,), getattr(channel.totals, f"{end}_j"))
                yield family


@contextmanager
def serving(meter: EnergyMeter, port: int, host: str = "127.0.0.1") -> Iterator[int]:
    """Serve a meter's counters over HTTP, from a thread, and yield the port.

    Args:
        meter: The meter.
        port: 0 to 65535; 0 takes a free one.
        host: Address to serve at; by default this machine alone can ask.

    Raises:
        UserError: If prometheus-client is not installed, or the port is not free.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ModuleNotFoundError as error:
        raise UserError(
            "--prometheus needs the package prometheus-client, which is not "
            "installed; run pip install 'dpet-jax[prometheus]'"
        ) from error
    if not 0 <= port <= _LAST_PORT:
        raise UserError(f"--prometheus: {port} is no port from 0 to {_LAST_PORT}")
    registry = CollectorRegistry()
    registry.register(MeterCollector(meter))
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise UserError(
            f"--prometheus: {host}:{port} cannot be served ({error.strerror}); choose "
            "another"
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
