"""A clock whose time passes only when a test lets it."""

from dpet_jax.energy import Clock


class FakeClock(Clock):
    """Monotonic seconds that `wait` and `skip` let pass at once.

    Args:
        now: The time to begin with.
    """

    def __init__(self, now=100.0):
        self.now = now
        self._beats, self._followers = [], []

    def __call__(self):
        return self.now

    def wait(self, seconds):
        """Let time pass as a running program does: what is due is called meanwhile."""
        end = self.now + seconds
        while self._beats:
            beat = min(self._beats, key=lambda beat: beat.due)
            if beat.due > end + 1e-9:
                break
            self.skip(beat.due - self.now)
            beat()
        self.skip(end - self.now)

    def skip(self, seconds):
        """Let time pass as a suspended machine does: nothing is called meanwhile."""
        if seconds <= 0:
            return
        self.now += seconds
        for follow in self._followers:
            follow()

    def every(self, ticks, call):
        beat = _Beat(self, ticks, call)
        self._beats.append(beat)
        return lambda: beat in self._beats and self._beats.remove(beat)

    def forget(self):
        """Call nobody any more, as if the process that asked for it were killed."""
        self._beats.clear()

    def follow(self, call):
        """Call something whenever time has passed, such as a load that uses energy."""
        self._followers.append(call)


class _Beat:
    """Something that is called at every tick."""

    def __init__(self, clock, ticks, call):
        self.clock, self.ticks, self.call = clock, ticks, call
        self.due = clock() + ticks.wait_s(clock())

    def __call__(self):
        self.call()
        self.due = self.clock() + self.ticks.wait_s(self.clock())
