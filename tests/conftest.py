"""One profile for all generated tests: fixed seeds, no deadline (the first call compiles)."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "ssd_mining",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ssd_mining")
