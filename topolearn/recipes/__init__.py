"""What a run is asked for: recipe files, options of training, and the request that they make."""

import lazy_loader as lazy

# Resolved on first use, so that `load_model` needs no code of the search.
__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
