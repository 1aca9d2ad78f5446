-- Totals of tallies that left the kernel's table, by key: address, realm, length of the block, protocol, confidence.
CREATE TABLE booked_totals (
    key BLOB NOT NULL PRIMARY KEY CHECK (length(key) = 23),
    flows INTEGER NOT NULL,
    packets_up INTEGER NOT NULL,
    bytes_up INTEGER NOT NULL,
    packets_down INTEGER NOT NULL,
    bytes_down INTEGER NOT NULL,
    booked_s INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX booked_totals_by_time ON booked_totals (booked_s);
-- Slots of the latest batch, until they are given back.
CREATE TABLE booked_batch (slot INTEGER NOT NULL PRIMARY KEY, key BLOB NOT NULL) STRICT;
-- Number of the kernel's tables that these totals belong to.
CREATE TABLE booked_tables (number INTEGER NOT NULL) STRICT;
