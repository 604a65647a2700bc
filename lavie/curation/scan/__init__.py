"""One decode of every film, which feeds all cheap columns and the values of every frame."""
