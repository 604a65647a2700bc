"""One media file's bytes to frames and back; it knows no dataset. Imports only the modules below lavie/data."""
