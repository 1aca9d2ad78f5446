-- What policies measure: counters of tallies by span of time.
CREATE TABLE history_spans (
    number   INTEGER PRIMARY KEY,
    -- Nanoseconds of the history's clock, which no correction of the time moves.
    begun_ns INTEGER NOT NULL,
    ended_ns INTEGER NOT NULL,
    -- The wall clock at the end, in milliseconds since 1970.
    ended_ms INTEGER NOT NULL,
    -- Earlier span that has this one's measures, which are moved there bit by bit; 0: they are removed.
    part_of  INTEGER
) STRICT;
-- Key: address, realm, length of the block, protocol, confidence. Remotes: bits of the hosts.
CREATE TABLE history (
    span         INTEGER NOT NULL,
    key          BLOB NOT NULL CHECK (length(key) = 23),
    flows        INTEGER NOT NULL,
    packets_up   INTEGER NOT NULL,
    bytes_up     INTEGER NOT NULL,
    packets_down INTEGER NOT NULL,
    bytes_down   INTEGER NOT NULL,
    remotes      INTEGER NOT NULL,
    PRIMARY KEY (span, key)
) WITHOUT ROWID, STRICT;
-- Starts of spans that a window of a length may begin with, by the history's clock.
CREATE TABLE history_starts (
    window_ns INTEGER NOT NULL,
    begun_ns  INTEGER NOT NULL,
    PRIMARY KEY (window_ns, begun_ns)
) WITHOUT ROWID, STRICT;
-- What each slot of the kernel's table had counted since its key took it, when the history was committed last.
CREATE TABLE history_readings (
    slot         INTEGER PRIMARY KEY,
    key          BLOB NOT NULL CHECK (length(key) = 23),
    flows        INTEGER NOT NULL,
    packets_up   INTEGER NOT NULL,
    bytes_up     INTEGER NOT NULL,
    packets_down INTEGER NOT NULL,
    bytes_down   INTEGER NOT NULL
) STRICT;
-- One row: when that was, and the number of the kernel's tables.
CREATE TABLE history_state (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    tables   INTEGER NOT NULL,
    until_ns INTEGER NOT NULL,
    boot     TEXT NOT NULL,
    boot_ms  INTEGER NOT NULL,
    wall_ms  INTEGER NOT NULL
) STRICT;
