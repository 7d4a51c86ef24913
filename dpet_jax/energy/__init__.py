"""Measure the energy of each phase of a program; usable alone and without JAX."""

from dpet_jax.energy.accounts.ledger import PHASES as PHASES
from dpet_jax.energy.accounts.quantity import Energy as Energy
from dpet_jax.energy.accounts.quantity import QualityError as QualityError
from dpet_jax.energy.accounts.state import Accounts as Accounts
from dpet_jax.energy.meter import EnergyMeter as EnergyMeter
from dpet_jax.energy.meter import NoSourceError as NoSourceError
from dpet_jax.energy.probes.callable_probe import CallableProbe as CallableProbe
from dpet_jax.energy.probes.cpu_model import CpuPowerModel as CpuPowerModel
from dpet_jax.energy.probes.discover import absent_tools as absent_tools
from dpet_jax.energy.probes.discover import discover as discover
from dpet_jax.energy.probes.source import Found as Found
from dpet_jax.energy.probes.source import Probe as Probe
from dpet_jax.energy.probes.source import Source as Source
from dpet_jax.energy.probes.source import Unavailable as Unavailable
from dpet_jax.energy.report.report import Report as Report
from dpet_jax.energy.report.report import report_from_journal as report_from_journal
from dpet_jax.energy.sensing.sampler import Clock as Clock
from dpet_jax.energy.window import Accelerator as Accelerator
