-- What policies fired, and what became of it.
CREATE TABLE events (
    id           TEXT PRIMARY KEY,
    kind         TEXT NOT NULL CHECK (kind IN ('fired', 'cleared')),
    -- The event that a `cleared` one ends.
    fired        TEXT REFERENCES events (id) ON DELETE CASCADE,
    policy       TEXT NOT NULL,
    -- Digest of what the policy measured.
    measures     TEXT NOT NULL,
    address      BLOB NOT NULL,
    realm        INTEGER NOT NULL,
    prefix_len   INTEGER NOT NULL,
    time_ms      INTEGER NOT NULL,
    cool_down_ms INTEGER NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('queued', 'held', 'delivered', 'dead', 'discarded', 'logged')),
    -- When the state began.
    state_ms     INTEGER NOT NULL,
    -- Why the event is held, or empty.
    reason       TEXT NOT NULL,
    -- Whether a delivered event waits for its subscriber to fall below the threshold.
    is_active    INTEGER NOT NULL DEFAULT 0,
    message      TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_time ON events (time_ms);
CREATE INDEX events_by_state ON events (state);
CREATE INDEX events_active ON events (is_active) WHERE is_active = 1;

-- One row for each hook of an event.
CREATE TABLE deliveries (
    event    TEXT NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    hook     TEXT NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('queued', 'delivered', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    -- When the next attempt is due.
    due_ms   INTEGER NOT NULL,
    -- Why the last attempt failed, or empty.
    reason   TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (event, hook)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_queued ON deliveries (hook) WHERE state = 'queued';

-- Until when a policy does not fire again for a subscriber: by the clock that runs since `boot`, and by the wall clock.
CREATE TABLE cool_downs (
    policy     TEXT NOT NULL,
    address    BLOB NOT NULL,
    realm      INTEGER NOT NULL,
    prefix_len INTEGER NOT NULL,
    boot       TEXT NOT NULL,
    until_boot_ms INTEGER NOT NULL,
    until_wall_ms INTEGER NOT NULL,
    length_ms  INTEGER NOT NULL,
    PRIMARY KEY (policy, address, realm, prefix_len)
) STRICT, WITHOUT ROWID;

-- Decisions of people about events.
CREATE TABLE decisions (
    number   INTEGER PRIMARY KEY,
    time_ms  INTEGER NOT NULL,
    -- Who decided: a user of this machine.
    user     TEXT NOT NULL,
    event    TEXT NOT NULL,
    decision TEXT NOT NULL CHECK (decision IN ('release', 'discard', 'redeliver'))
) STRICT;
