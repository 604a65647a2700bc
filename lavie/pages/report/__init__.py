"""The report of runs: one file of HTML that opens from the disk and loads nothing."""
