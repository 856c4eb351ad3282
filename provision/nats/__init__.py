"""The NATS JetStream half: pure kinds (fields, limits, mutability) and the thin I/O around them."""
