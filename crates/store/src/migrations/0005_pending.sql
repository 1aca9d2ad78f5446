-- Events that wait, by policy and subscriber.
CREATE INDEX events_pending ON events (policy, address, realm, prefix_len) WHERE kind = 'fired' AND state IN ('queued', 'held');
