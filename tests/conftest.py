"""One profile for all generated tests: fixed seeds, no deadline (the first call compiles). And the CUDA simulator."""

import numba
from hypothesis import HealthCheck, settings

from tests.support.simulator import install, turns

__all__ = ["turns"]  # a fixture

if numba.config.ENABLE_CUDASIM:
    install()

settings.register_profile(
    "ssd_mining",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ssd_mining")
