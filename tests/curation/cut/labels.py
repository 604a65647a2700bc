"""The cuts of real films, found by eye."""

TEARS = [
    *(52, 122, 158, 221, 309, 715, 788, 872, 901, 987, 1127, 1157, 1203, 1234, 1246, 1284, 1345, 1378, 1430, 1472),
    *(1525, 1571, 1618, 1650, 1689),
]
"""The first frame of every shot of tears_of_steel.webm but the first."""
ONE_SHOT = ("friday.mp4", "bigbuckbunny.mp4", "flower.mp4", "frog.mp4")
"""Films without a cut."""
