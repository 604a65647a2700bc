"""Marks of tests that need what not every machine has."""

import pytest
import torch

from lavie.testing import SHARED

requires_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no reference data at {SHARED}")
requires_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
