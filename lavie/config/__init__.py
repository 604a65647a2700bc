"""The configuration of a run: every option, typed and documented, and how it is read from YAML and overrides."""
