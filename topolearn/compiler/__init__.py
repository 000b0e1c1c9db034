"""Graph -> nn.Module."""
