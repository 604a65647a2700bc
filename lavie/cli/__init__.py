"""The command `lavie`: its modules parse the command line, call the library and print."""
