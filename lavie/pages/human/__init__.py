"""The page of a human study, and the server that receives its answers."""
