"""What a process says of the roles it runs, and of those it does not; and how roles are asked for."""

from collections.abc import Sequence
from itertools import combinations

import pytest
from click.testing import CliRunner

from howk.cli.main import cli
from howk.runtime.roles import EVERY, Role, missing, named

SOME: list[tuple[Role, ...]] = [roles for size in (1, 2) for roles in combinations(sorted(EVERY), size)]


def test_a_process_that_runs_everything_lacks_nothing() -> None:
    assert missing(EVERY) == ""
    assert named(EVERY) == "howk"


@pytest.mark.parametrize("roles", SOME)
def test_a_process_names_what_it_runs_and_exactly_what_it_lacks(roles: tuple[Role, ...]) -> None:
    assert [role for role in EVERY if role in named(roles)] == [role for role in EVERY if role in roles]
    said = missing(roles)
    assert {role for role in EVERY if f"{role} (" in said} == EVERY - set(roles)
    assert "`howk up`" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "ROLE"),
        (["run", "cook"], "'cook' is not one of 'api', 'worker', 'scheduler', 'reconciler'"),
        (["run", "worker", "reconciler"], "run reconciler alone"),
        (["worker", "--metrics-port", "many"], "metrics.port (flag)"),
        (["api", "--config", "absent.yaml"], "must be the path of a file that exists"),
    ],
)
def test_roles_that_cannot_be_run_as_asked_are_misuse(arguments: Sequence[str], said: str) -> None:
    done = CliRunner().invoke(cli, arguments, prog_name="howk")
    assert done.exit_code == 2
    assert said in done.stderr
