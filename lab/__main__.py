"""`python -m lab` is `kalab`."""

from lab.command import main

main()
