"""Exports that run without this project: its network and its sampling as two files for diffusers' `trust_remote_code`."""
