"""Every metric of the process. docs/metrics.md explains them; a test holds both together.

No label has an account, an owner or a ledger, whose number has no bound.
"""

from ledgerservice.telemetry.measures import Counter, Gauge, Histogram, Level, Metric

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
PHASE_SECONDS = (0.0001, 0.00025, 0.0005, *SECONDS[:12])
SIZES = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000)

# Requests.
REQUESTS = Histogram(
    "ledger_request_duration_seconds",
    "Time from a request's head to the end of its answer, and by _count the number of requests.",
    SECONDS,
    "method",
    "route",
    "status",
)
IN_FLIGHT = Level("ledger_requests_in_flight", "Requests that are being answered.")
REFUSALS = Counter(
    "ledger_refusals_total",
    "Requests, and items of batches, that were answered with a problem, by its code.",
    "code",
)

LIMITED = Counter(
    "ledger_limited_total",
    "Requests that a limit refused: requests, queue, streams or bytes of their key, verification.",
    "limit",
)
AUTHENTICATIONS = Counter(
    "ledger_authentications_total",
    "Requests by what their key is: key, open without keys, or the code of the refusal.",
    "result",
)

# The write path.
QUEUE_REQUESTS = Gauge(
    "ledger_queue_requests", "Requests that wait for a batch, in movements.", "queue"
)
QUEUE_AGE = Gauge("ledger_queue_age_seconds", "How long the oldest of them has waited.", "queue")
QUEUE_EXPIRED = Counter(
    "ledger_queue_expired_total", "Requests without an outcome at their deadline.", "queue"
)
BATCH_REQUESTS = Histogram("ledger_batch_requests", "Requests in a batch.", SIZES, "queue")
BATCH_DURATION = Histogram(
    "ledger_batch_duration_seconds",
    "Time of a batch, from its begin to its COMMIT, in each attempt.",
    PHASE_SECONDS,
    "queue",
)
PHASES = Histogram(
    "ledger_batch_phase_seconds",
    "Time of the parts of a batch of movements: lock, plan, write, commit.",
    PHASE_SECONDS,
    "phase",
)
RETRIES = Counter(
    "ledger_batch_retries_total", "Batches that were run again, by SQLSTATE.", "queue", "sqlstate"
)
OVERLAPS = Counter(
    "ledger_batches_overlapped_total",
    "Batches that were begun before the one before them had committed, by what became of them.",
    "queue",
    "outcome",
)
KNOWN_BATCHES = Counter(
    "ledger_batches_known_total",
    "Small batches that were posted on known accounts, without locks, by what became of them.",
    "outcome",
)
UNRESOLVED = Counter(
    "ledger_commits_unresolved_total",
    "Batches that were given up while the outcome of their COMMIT may be unknown.",
    "queue",
)
INSTRUCTIONS = Counter(
    "ledger_instructions_total",
    "Instructions that were decided: posted, declined, replayed or rejected, and the code.",
    "outcome",
    "code",
)

# Reads.
READ_CONNECTIONS = Gauge("ledger_read_connections", "Connections for reads, by state.", "state")
READS = Level("ledger_reads_in_flight", "Reads that are under way or wait.")
READS_WAITING = Gauge("ledger_reads_waiting", "Reads that wait for a connection.")
READ_FAILURES = Counter("ledger_read_failures_total", "Reads that failed.")

# What is due.
SWEEP_LAG = Gauge(
    "ledger_sweep_lag_seconds", "How late the oldest due item was when it was last looked for."
)
SWEEP_SUCCESS = Gauge(
    "ledger_sweep_last_success_timestamp_seconds", "When due items were last looked for."
)

# Transfers between parts of a ledger.
CROSSINGS_OPEN = Gauge(
    "ledger_crossings_open",
    "Transfers out of a part of the shard that had not ended when last looked for.",
    "shard",
)
CROSSINGS_OLDEST = Gauge(
    "ledger_crossings_oldest_seconds",
    "For how long the oldest of them had been open then.",
    "shard",
)

# The feed.
FEED_POSITION = Gauge("ledger_feed_position", "The id that a reader of the feed is at.", "reader")
FEED_SAFE_ID = Gauge("ledger_feed_safe_id", "The id up to which events are known.", "reader")
FEED_LAG = Gauge(
    "ledger_feed_lag_seconds", "How long the oldest event has waited for a reader.", "reader"
)
FEED_ACTIVE = Gauge(
    "ledger_feed_reader_active", "1 in the process that reads for a target.", "reader"
)
FEED_FAILURES = Counter("ledger_feed_failures_total", "Times that a reader stopped.", "reader")
FEED_EPOCH = Gauge("ledger_feed_epoch", "The epoch of the feed that began last.")
OLDEST_TRANSACTION = Gauge(
    "ledger_oldest_transaction_seconds",
    "Age of the oldest open database transaction with an xid, which holds the feed back.",
)
WEBHOOK_ATTEMPTS = Counter(
    "ledger_webhook_attempts_total", "Requests to webhooks: delivered or failed.", "outcome"
)
WEBHOOK_DEAD_LETTERS = Counter(
    "ledger_webhook_dead_letters_total", "Events that were given up for a webhook."
)

# The process and its database.
CONNECTIONS = Gauge("ledger_connections", "Open connections of clients, by state.", "state")
CONNECTIONS_REFUSED = Counter(
    "ledger_connections_refused_total", "Connections that were refused, or closed for others."
)
BODY_BYTES = Gauge("ledger_body_bytes", "Bytes of request bodies that are held.")
LOOP_LAG = Histogram(
    "ledger_event_loop_lag_seconds", "How late the event loop runs a timer.", PHASE_SECONDS
)
DATABASE_UP = Gauge("ledger_database_up", "1 if the database answered the last sample, else 0.")
SHARD_UP = Gauge("ledger_shard_up", "1 if the process can use the shard, else 0.", "shard")
DATABASE_BYTES = Gauge("ledger_database_bytes", "Size of the database.")
DISK_FREE = Gauge("ledger_disk_free_bytes", "Free space where the embedded server keeps its data.")
DISK_SIZE = Gauge("ledger_disk_size_bytes", "Size of that file system.")
DATABASE = Gauge(
    "ledger_database_info",
    "1; the labels have the revision of the schema, and the server's version.",
    "schema",
    "postgres",
)
BUILD = Gauge("ledger_build_info", "1; the label has the release.", "version")

# Verify. Set by whatever verifies in this process.
VERIFY_SUCCESS = Gauge(
    "ledger_verify_last_success_timestamp_seconds", "When everything was last verified."
)
VERIFY_VIOLATIONS = Gauge("ledger_verify_violations", "Violations of invariants that stand.")
VERIFY_PROGRESS = Gauge("ledger_verify_progress_ratio", "The part of the present run that is done.")

# Backups, by kind: backup, drill, base, archive_drill. Read from the files that the commands keep.
BACKUP_SUCCESS = Gauge(
    "ledger_backup_last_success_timestamp_seconds", "When a backup or drill succeeded.", "kind"
)
BACKUP_FAILED = Gauge("ledger_backup_failed", "1 if the last run failed, else 0.", "kind")
BACKUP_DURATION = Gauge(
    "ledger_backup_duration_seconds", "Time of the last success; of a drill the RTO.", "kind"
)
ARCHIVE_RPO = Gauge("ledger_archive_rpo_seconds", "What the archive lacked in its last drill.")

# The archives of the write-ahead log: archive_command, and each physical replication slot.
ARCHIVE_ACTIVE = Gauge(
    "ledger_wal_archive_active", "1 if the archive takes the log, else 0.", "archive"
)
ARCHIVE_POSITION = Gauge(
    "ledger_wal_archive_position_bytes", "The end of what the archive has of the log.", "archive"
)
ARCHIVE_LAG_BYTES = Gauge(
    "ledger_wal_archive_lag_bytes", "What the archive lacks of the log.", "archive"
)
ARCHIVE_LAG = Gauge(
    "ledger_wal_archive_lag_seconds", "How long the oldest part of it has been missing.", "archive"
)

METRICS: tuple[Metric, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
