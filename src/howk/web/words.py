"""What the document of the routes says beside the types: a sentence for a field, an example of a body, the codes of a
status. Words only: what a route takes and answers is declared in `openapi`, and a field that has no words here is still
in the document."""

from collections.abc import Mapping
from typing import Any

_ID = "wh_01K6ZJ0V8Q4M2T7R9XB3C5D6EF"
_DURATION = "Seconds, or text such as `500ms`, `1h30m`, `7d`."

SCHEMAS: Mapping[str, str] = {
    "Signing": "How every attempt is signed: at least one of `secrets` and `ed25519_key`.",
    "Webhook": "One webhook to deliver. Give either `payload` or `payload_base64`.",
}
"""In place of what the type says of itself, where that is meant for its reader in the source."""

FIELDS: Mapping[str, Mapping[str, str]] = {
    "Webhook": {
        "endpoint": "The receiver's URL, http or https. Userinfo becomes `Authorization: Basic`.",
        "payload": "Any JSON; the receiver gets its bytes as they stand here.",
        "payload_base64": "What is not JSON, in standard base64 with padding.",
        "content_type": "The payload's media type; `application/json` where none is given.",
        "headers": "Sent with every attempt; sensitive ones are sealed at rest.",
        "signing_secret": "`whsec_` and base64, or any text of up to 1024 characters.",
        "signing": "How attempts are signed; not together with `signing_secret`.",
        "max_attempts": "Tries in all, from 1 to 1000; the deployment's where left out.",
        "require_script": "True is refused: no script can be set yet.",
        "idempotency_key": "1 to 255 visible ASCII characters. A repeat gets the first answer.",
        "ordering_key": "Webhooks of one key to one endpoint go out one after the other: 1 to 256 printable "
        "characters.",
        "deliver_at": "When the first attempt is made: RFC 3339 with an offset. A time that has passed is at once.",
        "max_age": f"How long to go on trying. {_DURATION}",
        "retry": "A policy of its own; the deployment's where left out.",
    },
    "Batch": {"webhooks": "From 1 up to `api.max_batch` of them."},
    "Signing": {
        "profile": "Which headers sign an attempt: `default`, `standard`, `howk` or `harborhook`.",
        "secrets": "Up to 8 live secrets; every attempt carries a signature of each.",
        "ed25519_key": "A private key, `whsk_` and base64: adds a `v1a` signature.",
    },
    "RetryAsked": {
        "type": "How the delay grows from one retry to the next.",
        "base_delay": f"The first delay. {_DURATION}",
        "max_delay": "The longest delay, and the most of a `Retry-After` that is honoured.",
        "jitter": "The share of a delay by which it is moved, from 0 to 1.",
        "delays": "Of a `schedule`: 1 to 100 delays, one before each retry.",
        "max_attempts": "Tries in all; not together with the field beside `retry`.",
        "on_status": "Statuses from 300 to 599 that are worth a retry too.",
    },
    "Accepted": {"webhook_id": "The delivery's id, the same on every attempt.", "status": "`pending`."},
    "BatchAnswer": {
        "accepted": "How many are on disk.",
        "failed": "How many were refused.",
        "webhooks": "One for each, in the order of the request.",
    },
    "BatchItem": {
        "index": "Its place in the request, from 0.",
        "webhook_id": "Where it was accepted: the delivery's id.",
        "status": "Where it was accepted: `pending`.",
        "replayed": "True where its idempotency key was known: this is the first answer.",
        "code": "Where it was refused: the code of the problem.",
        "detail": "Where it was refused: why.",
    },
    "StatusAnswer": {
        "state": "`pending`, `delivering`, `failed` (a retry is scheduled), `deferred`, `delivered`, `dead` or "
        "`cancelled`.",
        "attempts": "Attempts that were made.",
        "last_status_code": "What the receiver answered last; null where it gave no answer.",
        "next_retry_at": "When the next attempt is due.",
        "held_by": "What a deferred delivery waits for.",
        "reason_type": "Why a dead delivery was given up, such as `exhausted` or `expired`.",
    },
    "Window": {
        "received": "Webhooks accepted; repeats of an idempotency key left out.",
        "delivered": "Deliveries that ended delivered.",
        "failed": "Attempts that failed and are made again.",
        "exhausted": "Deliveries given up: every dead letter.",
        "deferred": "Deliveries put aside for a time or a hold.",
        "unique_endpoints": "Different endpoints tried: exact up to 2 048, 2.2 % standard error above.",
    },
    "ProblemDocument": {
        "type": "A name, stable as `code`.",
        "title": "The status in words.",
        "detail": "What is wrong with this request.",
        "code": "Stable: what a program should look at.",
        "errors": "The fields that are to blame, where fields are.",
    },
    "Finding": {"latency_ms": "How long it took to answer, in milliseconds.", "error": "Null when it is well."},
}

EXAMPLES: Mapping[str, Any] = {
    "Webhook": {
        "endpoint": "https://example.com/hooks",
        "payload": {"order": 42, "total": "9.90"},
        "signing_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "idempotency_key": "order-42-paid",
    },
    "Batch": {
        "webhooks": [
            {"endpoint": "https://example.com/hooks", "payload": {"order": 42}},
            {"endpoint": "https://example.org/in", "payload": {"order": 43}, "deliver_at": "2026-12-01T09:00:00Z"},
        ]
    },
    "Accepted": {"webhook_id": _ID, "status": "pending"},
    "BatchAnswer": {
        "accepted": 1,
        "failed": 1,
        "webhooks": [
            {"index": 0, "webhook_id": _ID, "status": "pending"},
            {"index": 1, "code": "missing_field", "detail": "endpoint: this field is required"},
        ],
    },
    "StatusAnswer": {
        "webhook_id": _ID,
        "config_id": "app",
        "state": "failed",
        "attempts": 1,
        "max_attempts": 20,
        "last_attempt_at": "2026-11-22T09:30:00.120Z",
        "last_status_code": 503,
        "last_error": "HTTP 503",
        "next_retry_at": "2026-11-22T09:30:10.120Z",
        "held_by": None,
        "delivered_at": None,
        "reason_type": None,
    },
    "StatsAnswer": {
        "last_1h": {
            "received": 1200,
            "delivered": 1187,
            "failed": 31,
            "exhausted": 2,
            "deferred": 4,
            "unique_endpoints": 12,
        },
        "last_24h": {
            "received": 28400,
            "delivered": 28311,
            "failed": 702,
            "exhausted": 19,
            "deferred": 97,
            "unique_endpoints": 41,
        },
    },
    "Alive": {"status": "ok", "version": "0.1.0"},
    "Ready": {"status": "ready"},
    "Health": {
        "status": "ok",
        "dependencies": [{"name": "hot state", "ok": True, "latency_ms": 0.041, "error": None}],
    },
    "ProblemDocument": {
        "type": "urn:howk:problem:missing_field",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "endpoint: this field is required",
        "code": "missing_field",
        "errors": [{"field": "endpoint", "message": "this field is required"}],
    },
}

PARAMETERS: Mapping[str, tuple[str, str]] = {
    "config_id": (
        "Any name of yours for deliveries that belong together: 1 to 128 letters, digits and `. _ : ~ -`.",
        "app",
    ),
    "webhook_id": ("The id that the 202 gave.", _ID),
    "endpoint": ("The endpoint's URL, percent-encoded.", "https://example.com/hook"),
    "Idempotency-Key": (
        "In place of `idempotency_key` in the body: a repeat of the request under the same key gets the first answer.",
        "order-42-paid",
    ),
}

STATUSES: Mapping[int, str] = {
    202: "Accepted",
    204: "Done",
    400: "Malformed: `malformed`, `malformed_request`",
    401: "No key, or one that is not known: `unauthorized`",
    403: "A page of another site: `origin_not_allowed`",
    404: "Not found: `not_found`",
    405: "Another method is needed: `method_not_allowed`",
    408: "The request came too slowly: `request_timeout`",
    409: "Not as it stands now: `already_ended`, `conflict`",
    413: "Too large: `request_too_large`, `payload_too_large`",
    414: "The URL is too long: `uri_too_long`",
    415: "Not JSON by its Content-Type, or encoded: `unsupported_media_type`",
    421: "A name this door does not answer to: `host_not_allowed`",
    422: "Refused; `errors` names the fields, and `code` says why: `missing_field`, `unknown_field`, `invalid_…`, "
    "`blocked_address`, `not_supported`, `idempotency_key_reused` and others",
    429: "This key asks too often: `rate_limited`; howk is nearly full and this config sends more than its share: "
    "`over_share`",
    431: "The headers are too large or too many: `head_too_large`",
    500: "howk failed: `internal`, `stopped`",
    503: "Not now; try again: `unavailable`, `not_ready`; the log is full: `log_full`",
    507: "As many are kept as there may be: `too_many_configs`",
}
