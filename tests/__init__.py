"""The tests, laid out as ``topolearn`` is; ``tests.strategies`` makes graphs for all of them."""
