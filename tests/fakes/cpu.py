"""A machine whose CPU times follow a fake clock."""

from dpet_jax.energy import CpuPowerModel


class BusyCpu:
    """Two CPUs, half of whose time is busy; a fifth of that is this process.

    Args:
        folder: Where its /proc/stat lies.
        clock: A `FakeClock`.
    """

    def __init__(self, folder, clock):
        self.clock, self.path = clock, folder / "stat"
        clock.follow(self.write)
        self.write()

    def write(self):
        ticks = round(100 * self.clock())
        line = f"{ticks} 0 0 {ticks} 0 0 0 0"
        self.path.write_text(f"cpu  {line}\ncpu0 {line}\ncpu1 {line}\n")

    def model(self, idle_w=10.0, max_w=60.0, source="wall meter"):
        return CpuPowerModel(
            idle_w,
            max_w,
            source,
            stat=self.path,
            process_times=lambda: (self.clock() / 5, 0.0, 0.0, 0.0),
            now=self.clock,
        )
