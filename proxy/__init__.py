"""An HTTP/1.1 reverse proxy with tunable keep-alive. It runs alone and knows nothing of the lab.

Read it in the order a request travels: `downstream.py`, `exchange.py`, `upstream.py`, `upstream_connection.py`. Then
`server.py`, which puts them together. docs/architecture.md has the whole plan.
"""
