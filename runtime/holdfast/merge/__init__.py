"""How two writes to one key become one: clocks, replicated data types and the four strategies. Pure."""
