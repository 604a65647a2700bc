"""CLIP (Radford et al. 2021) as a measure: its weights, how frames reach it, the embeddings of clips and captions."""
