"""How much a request costs: the side-by-side benchmark, and locust's users.

Nothing here imports the proxy or the lab: what is measured is started as a process, as its users start it.
"""
