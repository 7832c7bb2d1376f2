"""`python -m lab` is `kalab`."""

from lab.cli import main

main()
