"""The idempotency key of a request: it stands in the header or in the body, and in both only if it is the same."""

from howk.domain.errors import FieldProblem, Rejected


def one_key(header: bytes | None, field: str | None) -> str | None:
    """The key that was given, None for none. Its form is judged by ingest."""
    if header is None:
        return field
    # Bytes that are no text make a key that has not the form of one.
    given = header.decode("latin-1")
    if field is not None and field != given:
        raise bad_key("idempotency_key_mismatch", "the header and idempotency_key in the body are not the same")
    return given


def bad_key(code: str, message: str) -> Rejected:
    """Why a key given in the header can't be taken."""
    return Rejected(code, message, [FieldProblem("Idempotency-Key", message)])
