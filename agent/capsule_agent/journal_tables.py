"""The tables of the journal, and its versions.

Rules kept: a version, once published, never changes; a journal of a later version is refused. Called by
journal alone.
"""

from __future__ import annotations

VERSION = 1

TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    op_id TEXT NOT NULL,
    step TEXT NOT NULL
);
CREATE TABLE operations (
    op_id TEXT PRIMARY KEY,
    step TEXT NOT NULL CHECK (
        step IN ('Fenced', 'Tombstoned', 'Refused', 'Received', 'Prepared', 'Effect', 'Done')
    ),
    attempt INTEGER NOT NULL,
    repository TEXT,
    request TEXT,
    service TEXT,
    order_text TEXT,
    started_at TEXT,
    receipt TEXT
) WITHOUT ROWID;
CREATE UNIQUE INDEX spent ON operations (repository, request, service) WHERE request <> '';
CREATE UNIQUE INDEX one_running ON operations (service) WHERE step IN ('Received', 'Prepared', 'Effect');
CREATE TABLE generations (subject TEXT PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE rotations (
    op_id TEXT PRIMARY KEY,
    phase TEXT NOT NULL,
    keys_before TEXT NOT NULL,
    old_key TEXT,
    new_key TEXT,
    grace INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE revocations (
    key_id TEXT PRIMARY KEY,
    op_id TEXT NOT NULL,
    due REAL NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""
