"""Run folders: write, read and resume them."""

import lazy_loader as lazy

# Resolved on first use, so that `load_model` does not import the search.
__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
