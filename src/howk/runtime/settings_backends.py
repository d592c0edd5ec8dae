"""The settings of the servers howk may use instead of its embedded engine: Kafka, Redis and Postgres.
Setting where one is (`kafka.brokers`, `redis.addr`, `postgres.dsn`) is choosing it. Declarations only."""
# ruff: noqa: RUF009 - `planned` returns a dataclass field; its default is immutable

from dataclasses import dataclass

from howk.runtime.declaring import planned, section
from howk.runtime.kinds import (
    ADDRESS,
    BOOL,
    COUNT,
    COUNT_OR_ZERO,
    DSN,
    DURATION,
    DURATION_OR_ZERO,
    FILE,
    NAME,
    SIZE,
    TEXT,
    choice,
    listed,
    optional,
    or_empty,
    whole,
)


@dataclass(frozen=True, slots=True)
class KafkaTopics:
    """Names of the log's streams and tables in Kafka."""

    events: str = planned(NAME, "howk.events", "Accepted events.")
    pending: str = planned(NAME, "howk.pending", "First attempts.")
    slow: str = planned(NAME, "howk.slow", "Retries, released holds and what is over its share.")
    results: str = planned(NAME, "howk.results", "Outcomes of attempts, and commands.")
    deadletter: str = planned(NAME, "howk.deadletter", "Deliveries given up.")
    keys: str = planned(NAME, "howk.keys", "Idempotency keys and their answers.")
    state: str = planned(NAME, "howk.state", "Snapshots of deliveries that wait; compacted.")
    scripts: str = planned(NAME, "howk.scripts", "Scripts; compacted.")
    control: str = planned(NAME, "howk.control", "Endpoints, subscriptions, sources and keys; compacted.")


@dataclass(frozen=True, slots=True)
class KafkaPartitions:
    """Number of partitions of each topic that howk creates."""

    events: int = planned(COUNT, "6", "Partitions of `kafka.topics.events`.")
    pending: int = planned(COUNT, "6", "Partitions of `kafka.topics.pending`.")
    slow: int = planned(COUNT, "6", "Partitions of `kafka.topics.slow`.")
    results: int = planned(COUNT, "6", "Partitions of `kafka.topics.results`.")
    state: int = planned(COUNT, "6", "Partitions of `kafka.topics.state`.")
    deadletter: int = planned(COUNT, "3", "Partitions of `kafka.topics.deadletter`.")
    keys: int = planned(COUNT, "3", "Partitions of `kafka.topics.keys`.")
    scripts: int = planned(COUNT, "3", "Partitions of `kafka.topics.scripts`.")
    control: int = planned(COUNT, "3", "Partitions of `kafka.topics.control`.")


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """How howk proves itself to the brokers, and they to howk."""

    protocol: str = planned(
        choice("plaintext", "ssl", "sasl_plaintext", "sasl_ssl"),
        "plaintext",
        "Security protocol of the listeners.",
    )
    sasl_mechanism: str = planned(
        choice("plain", "scram-sha-256", "scram-sha-512", "oauthbearer"), "plain", "SASL mechanism."
    )
    sasl_username: str = planned(TEXT, "", "SASL user name.")
    sasl_password: str = planned(TEXT, "", "SASL password.", secret=True)
    ssl_ca: str = planned(FILE, "", "File of the CA certificates to trust; the system's when empty.")
    ssl_cert: str = planned(FILE, "", "File of the client certificate.")
    ssl_key: str = planned(FILE, "", "File of the client certificate's key.")
    ssl_key_password: str = planned(TEXT, "", "Password of the key file.", secret=True)
    ssl_check_hostname: bool = planned(BOOL, "true", "Whether a broker's certificate must bear its name.")


KafkaCompression = choice("none", "gzip", "snappy", "lz4", "zstd")


@dataclass(frozen=True, slots=True)
class Kafka:
    """The log on Kafka."""

    brokers: tuple[str, ...] = planned(listed(ADDRESS), "", "Brokers to start from; setting them chooses Kafka.")
    topics: KafkaTopics = section(KafkaTopics)
    consumer_group: str = planned(NAME, "howk-workers", "Consumer group, a prefix of each room's own.")
    linger: float = planned(DURATION_OR_ZERO, "1ms", "Wait of the producer for more; howk batches by itself.")
    compression: str = planned(KafkaCompression, "lz4", "Compression of batches.")
    security: KafkaSecurity = section(KafkaSecurity)
    partitions: KafkaPartitions = section(KafkaPartitions)
    replication: int = planned(
        whole(0, 32767), "0", "Replicas of each topic that howk creates; 0 is the brokers' own default."
    )
    retention: float = planned(DURATION, "168h", "Time that finished records are kept in streams.")
    producer_batch_size: int = planned(SIZE, "16KiB", "Accepted for the Go system's files.")
    producer_linger_ms: int | None = planned(
        optional(COUNT_OR_ZERO), "", "The Go system's name for `kafka.linger`, in milliseconds."
    )
    producer_compression: str | None = planned(
        optional(KafkaCompression), "", "The Go system's name for `kafka.compression`."
    )
    consumer_fetch_min_bytes: int = planned(SIZE, "1", "Least a broker collects before it answers a fetch.")
    consumer_fetch_max_wait: float = planned(DURATION, "500ms", "Longest a broker collects for a fetch.")
    per_key_parallelism: int = planned(COUNT, "1", "Accepted for the Go system's files.")


@dataclass(frozen=True, slots=True)
class ClientTLS:
    """TLS towards a server."""

    enabled: bool = planned(BOOL, "false", "Whether to speak TLS.")
    ca: str = planned(FILE, "", "File of the CA certificates to trust; the system's when empty.")
    cert: str = planned(FILE, "", "File of the client certificate.")
    key: str = planned(FILE, "", "File of the client certificate's key.")
    server_name: str = planned(TEXT, "", "Name the server's certificate must bear, when not the host's.")
    insecure_skip_verify: bool = planned(BOOL, "false", "Trust any certificate; for trials only.")


@dataclass(frozen=True, slots=True)
class Redis:
    """Hot state on Redis."""

    addr: str = planned(or_empty(ADDRESS), "", "Address of the server; setting it chooses Redis.")
    username: str = planned(TEXT, "", "ACL user name.")
    password: str = planned(TEXT, "", "Password.", secret=True)
    db: int = planned(COUNT_OR_ZERO, "0", "Number of the database.")
    pool_size: int = planned(COUNT, "100", "Most connections open at once.")
    min_idle_conns: int = planned(COUNT_OR_ZERO, "10", "Connections kept open while idle.")
    dial_timeout: float = planned(DURATION, "5s", "Longest wait for a connection.")
    read_timeout: float = planned(DURATION, "3s", "Longest wait for an answer.")
    write_timeout: float = planned(DURATION, "3s", "Longest wait to hand over a request.")
    sentinel_master: str = planned(TEXT, "", "Name of the master that Sentinel watches.")
    sentinel_addrs: tuple[str, ...] = planned(listed(ADDRESS), "", "Addresses of the Sentinels.")
    sentinel_username: str = planned(TEXT, "", "User name for the Sentinels.")
    sentinel_password: str = planned(TEXT, "", "Password for the Sentinels.", secret=True)
    cluster: bool = planned(BOOL, "false", "Whether the server is a Redis Cluster.")
    tls: ClientTLS = section(ClientTLS)


@dataclass(frozen=True, slots=True)
class PostgresPool:
    """Connections to Postgres, of each process."""

    min_size: int = planned(COUNT_OR_ZERO, "1", "Connections kept open while idle.")
    max_size: int = planned(COUNT, "10", "Most connections open at once.")
    timeout: float = planned(DURATION, "5s", "Longest wait for a free connection.")
    max_idle: float = planned(DURATION, "10m", "Time after which an idle connection above the minimum is closed.")
    max_lifetime: float = planned(DURATION, "1h", "Time after which a connection is replaced.")


@dataclass(frozen=True, slots=True)
class Postgres:
    """The store on Postgres."""

    dsn: str = planned(or_empty(DSN), "", "Where the database is, as a URL; setting it chooses Postgres.", secret=True)
    read_dsn: str = planned(or_empty(DSN), "", "A replica that history is read from, as a URL.", secret=True)
    pool: PostgresPool = section(PostgresPool)
