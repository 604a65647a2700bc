"""What a run would cost before it is started: operations, traffic, time and advice; its memory is in ../memory.py."""
