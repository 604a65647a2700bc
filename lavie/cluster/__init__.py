"""The nodes of a run: how its ranks meet, and whether the nodes are set up alike."""
