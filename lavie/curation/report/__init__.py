"""What a curation is told by: numbers, figures, pictures at the thresholds, and one page with all of them."""
