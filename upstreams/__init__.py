"""The servers that stand behind the proxy: one that does what it is told, and a catalogue of real ones.

`lab.py` is the instrument: every close has a form, a reason and a line in its log. `catalogue.py` starts unmodified
servers with the same tiny app, `apps/`. Of ours, only `proxy.events` is imported: an instrument must not share code
with what it measures.
"""
