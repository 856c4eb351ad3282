"""Work over both systems: sagas, two-phase commits, and what finishes them after a crash."""
