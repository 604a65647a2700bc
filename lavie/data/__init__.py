"""From media files to batches: shards, their index, the global order, decoding, clips."""
