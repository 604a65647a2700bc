"""The video UNet of the three stages, the autoencoders and text encoders around it, and their weights."""
