"""What each witness of a run wrote, and how their lines are joined into trials.

`logs.py` reads event logs and notices missing lines; `flows.py` tells from the wire's log where a request met the
close; `evidence.py` loads all of them; `trials.py` joins client, proxy, wire and upstream, a trial per aimed request.
"""
