"""Where units are worked on: the processes of one machine, a Ray cluster, or the ranks of an MPI job."""
