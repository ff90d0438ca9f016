"""`python -m qonduit.cli` is the command `qonduit`."""

from qonduit.cli import main

main()
