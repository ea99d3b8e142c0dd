"""LightThinker's fine-tuning of the bundled reasoner (arXiv 2502.15589). See training/README.md."""
