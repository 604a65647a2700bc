"""`python -m lavie.cli` is the command `lavie`."""

from .main import main

main()
