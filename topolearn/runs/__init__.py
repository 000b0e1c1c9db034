"""The folder of a run: written, read, resumed."""

import lazy_loader as lazy

# Resolved on first use, so that `load_model` needs no code of the search.
__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
