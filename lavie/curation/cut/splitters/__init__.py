"""What finds the transitions from shot to shot: one file for each splitter, chosen by its name in `choice`."""
