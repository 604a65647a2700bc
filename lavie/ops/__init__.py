"""What a tensor operation computes: a public function each, and its plain PyTorch definition."""
