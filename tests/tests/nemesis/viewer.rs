//! A viewer of one long film, while what serves it dies.
