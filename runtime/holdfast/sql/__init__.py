"""The database side: pools, transactions, and what SQLSTATEs mean."""
