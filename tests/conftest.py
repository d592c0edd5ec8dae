"""A busy machine makes no example of Hypothesis wrong: none has a deadline. In CI Hypothesis's own profile says so."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if not os.environ.get("CI"):
    settings.load_profile("patient")
