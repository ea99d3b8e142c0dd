"""One thread a test process: tests run side by side, and their models are too small to share a core's work."""

import torch

torch.set_num_threads(1)
