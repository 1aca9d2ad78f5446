-- Flows that charged a subscriber with P2P protocol traffic. No row holds an address: subscriber, own and remote are keyed
-- hashes, and key is the name of their key. own is NULL for a subscriber of one address, whose hash is the pseudonym.
CREATE TABLE verdict_records (
    id INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    key TEXT NOT NULL,
    subscriber BLOB NOT NULL CHECK (length(subscriber) = 12),
    own BLOB CHECK (length(own) = 12),
    own_port INTEGER NOT NULL,
    remote BLOB NOT NULL CHECK (length(remote) = 12),
    remote_port INTEGER NOT NULL,
    transport INTEGER NOT NULL,
    protocol INTEGER NOT NULL,
    confidence INTEGER NOT NULL,
    rule INTEGER NOT NULL,
    answered INTEGER NOT NULL
) STRICT;
CREATE INDEX verdict_records_by_subscriber ON verdict_records (subscriber, time_ms);
CREATE INDEX verdict_records_by_own ON verdict_records (own, time_ms) WHERE own IS NOT NULL;
CREATE INDEX verdict_records_by_time ON verdict_records (time_ms);
