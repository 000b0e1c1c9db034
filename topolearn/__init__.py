"""Learn which connections of a neural network to keep.

A network is a graph in a file; which of its edges to keep is learned by gradient descent together
with the weights; what remains is an ordinary, smaller network that runs anywhere ONNX runs.
"""

import lazy_loader as lazy

# The names in __init__.pyi, each imported on first use: `import topolearn` needs no torch.
__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
