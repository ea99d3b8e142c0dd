"""The bundled tiny reasoner: traces, model, training, export, evaluation. See training/README.md."""
