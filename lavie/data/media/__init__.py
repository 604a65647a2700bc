"""The bytes of one media file to frames and back, without any dataset. Imports only the modules below lavie/data."""
