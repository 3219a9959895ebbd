"""What the caches are worth and what they cost, over a real redis-server on this machine."""
