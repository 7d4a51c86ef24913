"""Sensors that follow a script in virtual time."""

from dpet_jax.energy import Source


class FakeProbe:
    """A component whose sources are functions of time.

    Args:
        clock: Its time; a reading takes `took_s` of it.
        sources: Pairs of a `Source` and a function of the seconds since 100 (where
            `FakeClock` begins) that gives watts or joules, or None for a failure.

    Attributes:
        error: What the next readings raise.
        known: What `facts` returns.
    """

    def __init__(self, clock, *sources, id="gpu:A", component="gpu", scope="gpu"):  # noqa: A002
        self.clock, self.id, self.component, self.scope = clock, id, component, scope
        self.sources = tuple(source for source, _ in sources)
        self.values = [value for _, value in sources]
        self.took_s, self.reads, self.closed = 0.0, 0, 0
        self.error, self.known = None, {}

    def read(self):
        self.reads += 1
        if self.error is not None:
            raise self.error
        t = self.clock() - 100.0
        if self.took_s:
            self.clock.skip(self.took_s)
        return tuple(value(t) for value in self.values)

    def facts(self):
        return dict(self.known)

    def close(self):
        self.closed += 1


def power(watts, **known):
    """A power source; `watts` is a number or a function of time."""
    value = watts if callable(watts) else lambda _: watts
    return Source("power", "power", **known), value


def counter(joules, **known):
    """A counter; `joules` is a function of time."""
    return Source("counter", "counter", **known), joules
