"""The headers a tenant gives, with a request or as a config's default: names and values come in, those that may be sent
go out, told apart by what is secret, or a refusal that names each."""

from collections.abc import Mapping, Set

from howk.domain.endpoints import header_problem
from howk.domain.errors import FieldProblem, Rejected

MAX_HEADERS = 64
REDACTED = "(redacted)"
"""How a secret value is shown."""

Headers = dict[str, str]


def checked_headers(headers: Headers, redact: Set[str]) -> tuple[Headers, Headers]:
    """Those that may stand in clear and those whose values are sealed; `redact` are lower-case names. Raises
    `Rejected`."""
    if not headers:
        return headers, headers
    if len(headers) > MAX_HEADERS:
        message = f"at most {MAX_HEADERS} headers are taken"
        raise Rejected("invalid_headers", message, [FieldProblem("headers", message)])
    problems = [
        FieldProblem(f"headers.{name[:80]}", problem)
        for name, value in headers.items()
        if (problem := header_problem(name, value))
    ]
    if len({name.lower() for name in headers}) < len(headers):
        problems.append(FieldProblem("headers", "a header is given twice, in different case"))
    if problems:
        raise Rejected("invalid_headers", problems[0].message, problems)
    return split_headers(headers, redact)


def split_headers(headers: Mapping[str, str], redact: Set[str]) -> tuple[Headers, Headers]:
    """The ones in clear and the secret ones."""
    sensitive = {name: value for name, value in headers.items() if name.lower() in redact}
    return {name: value for name, value in headers.items() if name not in sensitive}, sensitive
