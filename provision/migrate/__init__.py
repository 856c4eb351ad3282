"""Versioned migrations and the life of partitions: changes that carry data, in an order that people decide."""
