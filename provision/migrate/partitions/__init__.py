"""The life of partitions: made ahead of time, emptied out of a DEFAULT partition, retired when they expire."""
