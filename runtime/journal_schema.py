"""The tables of a journal. A change of them needs another `VERSION`, and a way from the old one."""

from __future__ import annotations

APPLICATION_ID = 0x6B776F72  # "kwor"
VERSION = 1

SCHEMA = """
CREATE TABLE works (
    id INTEGER PRIMARY KEY, bundle TEXT NOT NULL, bundle_name TEXT NOT NULL, settings TEXT NOT NULL,
    UNIQUE (bundle, settings));
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, work INTEGER NOT NULL REFERENCES works, version TEXT NOT NULL,
    started REAL NOT NULL, seconds REAL NOT NULL DEFAULT 0,
    captioned INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
    ended INTEGER NOT NULL DEFAULT 0);
CREATE TABLE files (
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER, content BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE captions (
    content BLOB NOT NULL, work INTEGER NOT NULL REFERENCES works, run INTEGER NOT NULL REFERENCES runs,
    caption TEXT, confidence REAL, details TEXT, error TEXT,
    PRIMARY KEY (content, work)) WITHOUT ROWID;
CREATE TABLE outputs (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, photo BLOB NOT NULL, target BLOB NOT NULL,
    kind TEXT NOT NULL, text TEXT NOT NULL, content_before BLOB, content_after BLOB NOT NULL, undo BLOB,
    state TEXT NOT NULL);
CREATE TABLE listings (
    target BLOB PRIMARY KEY, listing BLOB NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL);
CREATE INDEX outputs_by_target ON outputs (target);
CREATE INDEX outputs_by_photo ON outputs (photo)
"""

# Only makes things quicker, so a journal that was made without it gets it when it is opened.
INDEXES = "CREATE INDEX IF NOT EXISTS outputs_by_content ON outputs (content_after)"

# The photos of this run in order. Temporary: it is made anew by each run, and needs no care for power cuts.
TEMPORARY = """
CREATE TEMPORARY TABLE listing (
    position INTEGER PRIMARY KEY, path BLOB UNIQUE, shown BLOB NOT NULL, error TEXT)
"""
