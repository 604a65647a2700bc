"""Keys tell entries apart."""

import numpy as np

from lavie.data.cache.entry import entry_key, entry_keys
from lavie.data.shards.index import load_index


def test_keys_tell_media_captions_and_cuts_apart(demo):
    index = load_index([str(demo / "train")])
    [(media, captions)] = index.videos.hashes()
    assert media.shape == captions.shape == (24, 32)
    for i, sample in enumerate(index.videos):
        assert media[i].tobytes().hex() == sample.sha256
        assert captions[i].tobytes().hex() == sample.caption_sha256
        assert entry_keys(media, captions, 7)[i].tobytes() == entry_key(sample, 7)
    rng = np.random.default_rng(0)
    media, captions = (rng.integers(0, 256, (50, 32), dtype=np.uint8) for _ in range(2))
    a, b = np.meshgrid(np.arange(50), np.arange(50))
    keys = np.concatenate([entry_keys(media[a.ravel()], captions[b.ravel()], cut) for cut in range(4)])
    assert len(np.unique(keys, axis=0)) == 4 * 50 * 50
