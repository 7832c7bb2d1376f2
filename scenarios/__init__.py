"""What is tried: one declaration per file, no control flow. How it is done is in `lab/`."""
