"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Neither chance nor the machine's speed decides whether a test passes: examples are drawn from each
# test itself, and none has a time limit of its own. `--hypothesis-profile=explore` draws new ones.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("explore"), derandomize=True)
settings.load_profile("steady")
