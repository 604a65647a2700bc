"""Small networks that several tests of the models take apart."""

from lavie.testing import tiny_unet


def tiny_interpolation():
    """An interpolation network: what tells the released one from the base network."""
    return tiny_unet(
        in_channels=8,
        spatial_attention="first_and_previous",
        temporal_order="after_feed_forward",
        rotary_dim=0,
        relative_bias=False,
    )


def tiny_vsr():
    """A super-resolution network of three levels: every kind of block that the released one has."""
    return tiny_unet(
        in_channels=7,
        block_out_channels=(32, 32, 64),
        cross_attention=(False, True, True),
        only_cross_attention=(True, True, False),
        linear_projection=True,
        num_noise_levels=20,
        temporal_convolutions=True,
    )
