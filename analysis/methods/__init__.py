"""One module per published method; each registers its functions with `analysis.registry.method` when imported."""
