"""What the door says of requests it did not serve: one line for a refusal, so many a second, and one for a fault of
its own. Neither path, query, body nor header of a request is in a line: any of them may hold a secret."""

import time

from howk.domain.errors import whereabouts
from howk.domain.limits import Allowance
from howk.ports.telemetry import Reporter
from howk.web.problems import Problem

_A_SECOND = 10
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Refusals:
    """The counts of `howk_http_requests_total` are exact; the lines are a sample of them."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._allowance = Allowance(_A_SECOND)

    def refused(self, method: str, problem: Problem) -> None:
        """A request that was answered with a problem."""
        ours = problem.status >= 500
        if not self._reporter.wants("warning" if ours else "info"):
            return
        left_out = self._allowance.take(time.monotonic_ns() // 1_000_000)
        if left_out is None:
            return
        tell = self._reporter.warn if ours else self._reporter.say
        tell(
            "refused",
            f"a request was refused: {problem.code}",
            status=problem.status,
            code=problem.code,
            method=method if method in _METHODS else "other",
            left_out=left_out,
        )

    def failed(self, method: str, error: Exception) -> Problem:
        """A request that met a bug; what the client is told of it."""
        self._reporter.fail(
            "internal",
            f"howk failed on a request: {whereabouts(error)}",
            method=method if method in _METHODS else "other",
        )
        return Problem(500, "internal", "howk met an error of its own, and has written it to its log")
