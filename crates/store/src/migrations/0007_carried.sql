-- Numbers of replaced tables whose totals are among the booked ones: they are added once.
CREATE TABLE carried_tables (number INTEGER NOT NULL PRIMARY KEY) STRICT;
