//! The suite that any metadata store must pass, whatever database is behind it.
