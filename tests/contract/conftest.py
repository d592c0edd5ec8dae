"""Lets pytest explain the assertions of the suites that ship."""

import pytest

pytest.register_assert_rewrite(
    "howk.testing.log_suite",
    "howk.testing.state_suite",
    "howk.testing.holding_suite",
    "howk.testing.state_samples",
)
