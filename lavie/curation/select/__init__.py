"""Choosing clips by their columns: rules, the funnel of what they leave, and the set of the best."""
