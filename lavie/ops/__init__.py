"""The tensor operations of the networks: a public function each, and its definition in plain PyTorch."""
