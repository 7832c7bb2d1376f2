"""An HTTP/1.1 reverse proxy with tunable keep-alive. It runs alone and knows nothing of the lab.

Read it in the order a request travels: `upstream.py`, `exchange.py`, `downstream.py`, `server.py`.
"""
