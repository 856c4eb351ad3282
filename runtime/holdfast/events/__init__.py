"""Events that leave with the data they tell of: outbox, relay, inbox."""
