"""The page of the proxy for those who run it: metrics, health, the pool, the config and its live changes."""
