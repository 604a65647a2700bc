"""What the system refuses, as the pages say it."""


def told(error: OSError) -> str:
    """Return what the system refused, on one line."""
    reason = error.strerror or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason
