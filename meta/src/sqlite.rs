//! The embedded store: one SQLite file for each database.
