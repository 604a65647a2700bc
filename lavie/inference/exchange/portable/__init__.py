"""Exports that run without this project: network and sampling as two files for diffusers' `trust_remote_code`."""
