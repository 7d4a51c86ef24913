"""Metering: what each phase of a run costs."""

from dpet_jax.energy.phases import PHASES as PHASES
from dpet_jax.energy.phases import PhaseClock as PhaseClock
