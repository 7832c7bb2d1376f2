"""The contestants of the benchmark, one file each; `bench/contestants.py` lists them."""
