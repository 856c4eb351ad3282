"""State of agents: the bucket first, the database soon after, and nothing acknowledged is lost."""
