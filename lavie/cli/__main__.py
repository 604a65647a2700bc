"""`python -m lavie.cli` is the command `lavie`."""

from .main import main

if __name__ == "__main__":
    main()
