-- Whether an event was held at first: it did not pass the ceiling, whatever became of it.
ALTER TABLE events ADD COLUMN was_held INTEGER NOT NULL DEFAULT 0;
UPDATE events SET was_held = 1 WHERE state = 'held' OR id IN (SELECT event FROM decisions WHERE decision = 'release')
    OR (state = 'discarded' AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event = id AND attempts > 0));
-- The removal of an event looks for those that end it.
CREATE INDEX events_by_fired ON events (fired);
-- The removal of old events looks for them by the begin of their state.
DROP INDEX events_by_state;
CREATE INDEX events_by_state ON events (state, state_ms);
