"""What the pages that this machine serves to itself share: the guard in front of them, and how they are served."""
