"""Films to clips of one shot each: where shots begin and end, and the clips that are copied or encoded of them."""
