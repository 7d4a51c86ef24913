"""Powercap trees as Linux shows them, whose counters follow a fake clock."""

import os

SERVER_RANGE_J = 262143.32885
DRAM_RANGE_J = 65712.999613


class FakeDomain:
    """One zone; its files are written whenever its energy changes."""

    def __init__(self, path, name, *, energy_j, range_j, watts):
        self.path = path
        self.watts = watts
        self.energy_j = energy_j  # since the beginning, never wrapped
        self.range_j = range_j
        path.mkdir(parents=True, exist_ok=True)
        (path / "name").write_text(f"{name}\n")
        if range_j is not None:
            microjoules = round(range_j * 1e6)
            (path / "max_energy_range_uj").write_text(f"{microjoules}\n")
        self.set_j(energy_j)

    @property
    def file(self):
        return self.path / "energy_uj"

    def set_j(self, energy_j):
        """Set the counter to what it is after this much energy."""
        self.energy_j = energy_j
        microjoules = round(energy_j * 1e6)
        if self.range_j is not None:
            microjoules %= round(self.range_j * 1e6)
        self.write(f"{microjoules}\n")

    def write(self, text):
        """Write the counter's file in place, so that open files see it."""
        self.file.write_text(text)

    def vanish(self):
        """Remove the file, also for those who hold it open."""
        os.truncate(self.file, 0)
        self.file.unlink()


class FakePowercap:
    """A tree below a folder; `root` takes the place of /sys/class/powercap.

    As in /sys, zones are nested folders and `root` is a flat folder of links to them.
    Every domain draws its watts while the time of `clock` passes.
    """

    def __init__(self, folder, clock=None):
        self.root = folder / "class" / "powercap"
        self.root.mkdir(parents=True)
        self.domains = {}
        if clock is not None:
            self._clock, self._drawn_until = clock, clock()
            clock.follow(self._draw)
        self._devices = folder / "devices" / "virtual" / "powercap"

    def add(self, zone, name, *, energy_j=0.0, range_j=SERVER_RANGE_J, watts=0.0):
        """Add a zone such as "intel-rapl:0" or "intel-rapl:0:2" and return it."""
        control, *numbers = zone.split(":")
        path = self._devices / control
        self._link(control, path)
        for depth in range(1, len(numbers) + 1):
            path = path / ":".join([control, *numbers[:depth]])
        domain = FakeDomain(path, name, energy_j=energy_j, range_j=range_j, watts=watts)
        self.domains[zone] = domain
        self._link(zone, path)
        return domain

    def __getitem__(self, zone):
        return self.domains[zone]

    def _draw(self):
        seconds = self._clock() - self._drawn_until
        self._drawn_until = self._clock()
        for domain in self.domains.values():
            if domain.watts:
                domain.set_j(domain.energy_j + domain.watts * seconds)

    def _link(self, name, target):
        link = self.root / name
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(target, self.root))


def server(folder, clock=None, sockets=2):
    """Build sockets with cores and memory of their own."""
    tree = FakePowercap(folder, clock)
    for socket in range(sockets):
        tree.add(f"intel-rapl:{socket}", f"package-{socket}")
        tree.add(f"intel-rapl:{socket}:0", "core")
        tree.add(f"intel-rapl:{socket}:1", "dram", range_j=DRAM_RANGE_J)
    return tree


def laptop(folder, clock=None):
    """Build one package with core and uncore, its MMIO twin, and psys around it."""
    tree = FakePowercap(folder, clock)
    tree.add("intel-rapl:0", "package-0")
    tree.add("intel-rapl:0:0", "core")
    tree.add("intel-rapl:0:1", "uncore")
    tree.add("intel-rapl:1", "psys")
    tree.add("intel-rapl-mmio:0", "package-0")
    return tree


def two_dies(folder, clock=None):
    """Build one socket of two dies."""
    tree = FakePowercap(folder, clock)
    for die in range(2):
        tree.add(f"intel-rapl:{die}", f"package-0-die-{die}")
        tree.add(f"intel-rapl:{die}:0", "core")
    return tree
