"""The `nn.Module`s of the shipped blocks: ordinary PyTorch that knows nothing of composer."""
