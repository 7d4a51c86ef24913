import re

import jax
import numpy as np

from dpet_jax.run.machine import device_facts, versions


def test_versions_are_those_in_use():
    found = versions()
    assert (found["jax"], found["numpy"]) == (jax.__version__, np.__version__)
    assert all(re.match(r"\d+\.\d+", text) for text in found.values())


def test_device_facts_count_the_devices():
    facts = device_facts()
    assert facts["platform"] == "cpu"
    assert facts["count"] == len(jax.local_devices())
    assert facts["cpu_cores"] >= 1
