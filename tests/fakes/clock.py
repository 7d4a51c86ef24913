"""Time that passes only when told to."""


class FakeClock:
    """A monotonic clock in seconds; `wait` passes the time instead of spending it."""

    def __init__(self, now=100.0):
        self.now = now

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds
