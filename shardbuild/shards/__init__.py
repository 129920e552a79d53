"""The tar format, and what we know of a shard."""
