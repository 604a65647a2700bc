"""The page of `lavie play`: a form, a queue and a gallery over the cascades that the command line names."""
