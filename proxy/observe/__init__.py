"""What can be seen of the proxy: what it counts, how that is told, and its access log."""
