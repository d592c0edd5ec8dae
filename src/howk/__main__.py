"""`python -m howk`: the same as the command `howk`."""

from howk.cli.main import main

main()
