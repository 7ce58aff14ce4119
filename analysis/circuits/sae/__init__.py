"""Sparse autoencoders on head outputs: train, keep, splice in, look at, and follow from one to the next.

    trained = train_sae(model, prompts, layer=2, out="sae")
    sae = Sae.load("sae")
    with intervene(model, splice(sae, ablate=[17])): ...
    dashboard(model, sae, prompts).page("features.html")

`autoencoder` holds what an SAE computes, `files` the SAELens folder form, `stream` the activations, `train` the
training by `options`, `state` what changes in it, `step` one step of it, `checkpoint` how it is kept on disk and taken
up again, `measure` what is lost by splicing one in, `splice` the intervention, `dashboard` and `show` what features are
about, `edges` how a feature of one layer reaches a feature of a later one through a head.
"""

from .autoencoder import Sae, SaeConfig
from .dashboard import Dashboard, dashboard
from .edges import feature_edges, query_key_edges
from .measure import Measures, measure
from .options import SaeOptions
from .splice import FeatureEdit, Splice, splice
from .train import Trained, train_sae

__all__ = [
    "Dashboard",
    "FeatureEdit",
    "Measures",
    "Sae",
    "SaeConfig",
    "SaeOptions",
    "Splice",
    "Trained",
    "dashboard",
    "feature_edges",
    "measure",
    "query_key_edges",
    "splice",
    "train_sae",
]
