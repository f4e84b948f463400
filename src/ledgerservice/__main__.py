"""`python -m ledgerservice`."""

from ledgerservice.cli import main

main()
