"""The page of `lavie data view`: the samples of shards, and the batches that a run takes of them."""
