"""Selected clips as shards for training."""
