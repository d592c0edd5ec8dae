"""Times as the door writes them: RFC 3339 in UTC, to the millisecond."""

from datetime import UTC, datetime


def rfc3339(milliseconds: int) -> str:
    """A time since the Unix epoch."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
